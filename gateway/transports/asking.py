"""What ``/stream`` and ``/poll`` have in common: who asks, for what, and from where on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, get_args

import trio

from gateway.auth.identity import Identity
from gateway.broker.base import Since
from gateway.config.origins import Origins
from gateway.config.settings import Settings
from gateway.hub.lag import Overflow
from gateway.problems import STATUS
from gateway.session.checks import check_filter
from gateway.session.services import Client, Services
from gateway.session.session import Session
from gateway.transports.cursor import Cursors, Positions
from gateway.wire.listener import Accepted
from gateway.wire.upgrade import Refusal, Request
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON
from protocol.names import check_room

__all__ = ["MOST_ROOMS", "Asked", "Door", "enter_rooms", "note", "positions"]

MOST_ROOMS: Final = 32
"""Rooms of one query. A client that wants more takes a WebSocket, or several streams."""
_MAX_NOTE: Final = 200
"""Characters kept of what a client says of itself (user agent, client id)."""
_OVERFLOWS: Final = frozenset(get_args(Overflow))


class Asked:
    """A query that was checked: the rooms, the filter, and where to go on."""

    __slots__ = ("events", "overflow", "presence", "rooms", "since")

    def __init__(self, request: Request, identity: Identity, cursors: Cursors, settings: Settings) -> None:
        """Raises TOO_MANY_ROOMS, TOO_MANY_PATTERNS, BAD_FIELD and what names deserve."""
        self.rooms = [check_room(room) for room in dict.fromkeys(request.query.get("join", ()))]
        most = min(MOST_ROOMS, settings.limits.rooms_per_connection)
        if len(self.rooms) > most:
            raise ProtocolError(ErrorCode.TOO_MANY_ROOMS, f"join: at most {most} rooms")
        events = request.query.get("events")
        self.events = None if events is None else check_filter(events, settings.limits.patterns_per_filter)
        self.overflow = request.parameter("overflow") or "disconnect"
        if self.overflow not in _OVERFLOWS:
            known = ", ".join(sorted(_OVERFLOWS))
            raise ProtocolError(ErrorCode.BAD_FIELD, f"overflow: must be one of {known}")
        self.presence = (request.parameter("presence") or "") in {"true", "1"}
        # What EventSource says by itself is newer than what stands in its address.
        cursor = request.headers.get("last-event-id") or request.parameter("cursor")
        given = cursors.read(cursor, identity) if cursor else Positions({})
        self.since: dict[str, Since] = {
            room: since for room in self.rooms if (since := given.of(room)) is not None
        }


class Door:
    """Lets the clients of one kind of transport in."""

    def __init__(self, services: Services, is_draining: Callable[[], bool]) -> None:
        self._services = services
        self._is_draining = is_draining
        self._allowed = services.settings.allowed_origins
        self._origins = Origins(self._allowed)
        self.cursors = Cursors(services.settings.auth)

    async def enter(
        self, accepted: Accepted, request: Request, *, stays: bool
    ) -> tuple[Identity, Client, Asked]:
        """Who asks for what; raises ``Refusal``.

        With ``stays`` it counts as one more connection, otherwise as a command.
        """
        services, admission = self._services, self._services.admission
        headers = request.headers
        with self.refusing(request):
            self._refuse_when_draining()
            if not self._origins.allows(headers.get("origin"), trio.current_time()):
                raise ProtocolError(ErrorCode.FORBIDDEN, "this origin is not allowed")
            ip = admission.address(accepted.peer, headers.get("x-forwarded-for", ""))
            if stays:
                services.guard.knock(ip, trio.current_time())
            else:
                services.guard.check_address(ip, trio.current_time())
            identity = await admission.identify(
                ip,
                headers.get("authorization", ""),
                ticket=request.parameter("ticket"),
                token=request.parameter("token"),
            )
            self._refuse_when_draining()  # that may have taken a while
            asked = Asked(request, identity, self.cursors, services.settings)
            if stays:
                admission.check_in(identity, ip)
            else:
                admission.count(identity, ip, 0)
        return identity, Client(ip, note(headers.get("user-agent")), note(request.parameter("client"))), asked

    def _refuse_when_draining(self) -> None:
        if self._is_draining():
            raise ProtocolError(
                ErrorCode.SHUTTING_DOWN,
                "the gateway is shutting down",
                retry_after=self._services.settings.retry_after,
            )

    @contextmanager
    def refusing(self, request: Request) -> Iterator[None]:
        """Numbered errors become HTTP answers, which pages of allowed origins may read."""
        try:
            yield
        except ProtocolError as error:
            self._services.hub.counters.errors[error.code] += 1
            raise Refusal(
                STATUS[error.code],
                error.message,
                code=error.code,
                retry_after=error.retry_after,
                headers=self.sharing(request),
            ) from None

    def sharing(self, request: Request) -> dict[str, str]:
        """Headers by which a page of another origin may read the answer: as on the rest of REST."""
        if not self._allowed:
            return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "Retry-After"}
        origin = request.headers.get("origin")
        if origin not in self._allowed:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "Retry-After",
        }


async def enter_rooms(session: Session, asked: Asked, *, tell: bool) -> None:
    """Have ``session`` say what the query asks for: a filter, then a join for each room.

    With ``tell`` each join is answered by a ``reply``, whose ``id`` is the room's place in the query, from 1.
    The orders of the organisation and of the user, where they are asked for, are entered here as well.
    """
    commands: list[Envelope] = []
    if asked.events is not None:
        commands.append(Envelope("subscribe", data={"events": asked.events}))
    for number, room in enumerate(asked.rooms, 1):
        data: dict[str, Any] = {"overflow": asked.overflow}
        since = asked.since.get(room)
        if since is not None:
            data["since"] = {"epoch": since.epoch, "seq": since.seq}
        if asked.presence:
            data["presence"] = True
        commands.append(Envelope("join", id=number if tell else None, room=room, data=data))
    for command in commands:
        if session.transport.closing:
            return
        work = session.on_message(JSON.encode(command), True)
        if work is not None:
            await work


def positions(session: Session) -> Mapping[str, Since]:
    """Where the client stands once it has got what is queued for it now.

    The orders of the organisation and of the user, where they were entered, belong here as well.
    """
    connection = session.connection
    if connection is None:
        return {}
    return {
        name: Since(place.room.epoch, place.room.seq)
        if place.lag is None
        else Since(place.lag.epoch, place.lag.position)
        for name, place in connection.memberships.items()
    }


def note(text: str | None) -> str | None:
    """What a client says of itself, without what cannot be shown."""
    if text is None:
        return None
    return "".join(character for character in text[:_MAX_NOTE] if character.isprintable()) or None
