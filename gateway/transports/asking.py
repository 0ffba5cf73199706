"""What ``/stream`` and ``/poll`` have in common: who asks, for what, and from where on."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any, Final, get_args

import trio

from gateway.auth.identity import Identity
from gateway.broker.base import Since
from gateway.config.origins import Origins
from gateway.config.settings import Settings
from gateway.hub.lag import Overflow
from gateway.hub.room import Membership
from gateway.problems import STATUS
from gateway.session.checks import check_filter
from gateway.session.services import Client, Services
from gateway.session.session import Session
from gateway.transports.cursor import ORGANISATION, USER, Cursors, Positions
from gateway.wire.listener import Accepted
from gateway.wire.upgrade import Refusal, Request
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON
from protocol.names import check_room

__all__ = ["MOST_ROOMS", "Asked", "Door", "commands", "enter", "hold_own", "note", "places", "positions"]

MOST_ROOMS: Final = 32
"""Rooms of one query. A client that wants more takes a WebSocket, or several streams."""
_MAX_NOTE: Final = 200
"""Characters kept of what a client says of itself (user agent, client id)."""
_OVERFLOWS: Final = frozenset(get_args(Overflow))
_OWN: Final = {"organisation": ORGANISATION, "user": USER}
_MAX_EPOCH: Final = 100
_MAX_KEY: Final = 100
_MAX_SEQ: Final = 2**63 - 1
_DIGITS: Final = 19


class Asked:
    """A query that was checked: the rooms, the filter, and where to go on."""

    __slots__ = ("events", "key", "overflow", "own", "presence", "rooms", "since", "tell")

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
        self.key = request.parameter("key")
        """The field of the data by which events are conflated."""
        if self.key is not None and len(self.key) > _MAX_KEY:
            raise ProtocolError(ErrorCode.BAD_FIELD, f"key: must not be longer than {_MAX_KEY} characters")
        self.presence = (request.parameter("presence") or "") in {"true", "1"}
        self.tell = (request.parameter("tell") or "") in {"true", "1"}
        # What EventSource says by itself is newer than what stands in its address.
        cursor = request.headers.get("last-event-id") or request.parameter("cursor")
        given = cursors.read(cursor, identity) if cursor else Positions({})
        self.since: dict[str, Since] = {}
        """Where to go on: in rooms, in ``ORGANISATION`` and in ``USER``."""
        self.own = ["organisation"] if identity.user is None else ["organisation", "user"]
        for of, order in _OWN.items():
            position = request.parameter(of)
            if position is not None:
                if of not in self.own:
                    raise ProtocolError(ErrorCode.BAD_FIELD, f"{of}: this token names no user")
                self.since[order] = _position(of, position)
        for text in request.query.get("since", ()):
            epoch, _, rest = text.partition(":")
            seq, _, room = rest.partition(":")
            if not room:
                raise ProtocolError(ErrorCode.BAD_FIELD, "since: must be EPOCH:SEQ:ROOM")
            if room in self.rooms:
                self.since[room] = _position("since", f"{epoch}:{seq}")
        for order in (*self.rooms, *_OWN.values()):
            since = given.of(order)
            if since is not None:
                self.since[order] = since


class Door:
    """Lets the clients of one kind of transport in."""

    def __init__(self, services: Services, is_draining: Callable[[], bool]) -> None:
        self._services = services
        self.is_draining = is_draining
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
        if self.is_draining():
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


def hold_own(session: Session, asked: Asked, *, tell: bool) -> None:
    """Nothing of the organisation and the user goes out before :func:`enter` has said from where on.

    To be called at once when the session was admitted, before it waits for anything. Where a client that need
    not be told has all that there is, it is there already, and nothing is asked for any more; unless it wants
    another policy there, because a join without ``since`` would begin behind what is on its way to this node.
    """
    connection = session.connection
    if connection is not None:
        for of, place in zip(asked.own, connection.internal, strict=True):
            since = asked.since.get(_OWN[of])
            if since is None:
                continue
            kept = asked.overflow == "disconnect"
            if not tell and kept and place.lag is None and since == (place.room.epoch, place.room.seq):
                del asked.since[_OWN[of]]
            else:
                place.hold()


def commands(asked: Asked, *, tell: bool) -> list[Envelope]:
    """What a session has to say that does what the query asks for: a filter, a join for each room, then where
    to go on in the organisation and the user.

    With ``tell`` each join is answered by a ``reply``, whose ``id`` is the room's place in the query, from 1;
    the last, for the organisation and the user, comes where they go on, and has 0.
    """
    commands: list[Envelope] = []
    if asked.events is not None:
        commands.append(Envelope("subscribe", data={"events": asked.events}))
    for number, room in enumerate(asked.rooms, 1):
        data = _wish(asked, room)
        if asked.presence:
            data["presence"] = True
        commands.append(Envelope("join", id=number if tell else None, room=room, data=data))
    going_on = any(_OWN[of] in asked.since for of in asked.own)
    if going_on or asked.overflow != "disconnect":
        other = asked.overflow != "disconnect"
        own = {of: _wish(asked, _OWN[of]) for of in asked.own if other or _OWN[of] in asked.since}
        commands.append(Envelope("join", id=0 if tell and going_on else None, data=own))
    return commands


async def enter(session: Session, commands: list[Envelope]) -> bool:
    """Have ``session`` say :func:`commands`; returns whether all was said before the transport closed."""
    for command in commands:
        if session.transport.closing:
            return False
        work = session.on_message(JSON.encode(command), True)
        if work is not None:
            await work
    return not session.transport.closing


def _wish(asked: Asked, order: str) -> dict[str, Any]:
    wish: dict[str, Any] = {"overflow": asked.overflow}
    if asked.key is not None:
        wish["key"] = asked.key
    since = asked.since.get(order)
    if since is not None:
        wish["since"] = {"epoch": since.epoch, "seq": since.seq}
    return wish


def positions(session: Session, asked: Asked, arrived: Container[str]) -> dict[str, Since]:
    """Where the client stands once it has got what is queued for it now.

    In what was not entered yet, up to all that was missed there (it has not ``arrived``), what the client
    said itself still holds.
    """
    stands = dict(asked.since)
    for order, place in places(session, asked):
        if order in arrived or order not in asked.since:
            stands[order] = _standing(place)
    return stands


def places(session: Session, asked: Asked) -> Iterator[tuple[str, Membership]]:
    """The orders that the client has a place in now, and that."""
    connection = session.connection
    if connection is not None:
        for of, place in zip(asked.own, connection.internal, strict=False):
            yield _OWN[of], place
        yield from connection.memberships.items()


def _standing(place: Membership) -> Since:
    if place.lag is None:
        return Since(place.room.epoch, place.room.seq)
    return Since(place.lag.epoch, place.lag.position)


def _position(of: str, text: str) -> Since:
    epoch, colon, seq = text.rpartition(":")
    number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) <= _DIGITS else _MAX_SEQ + 1
    if not (colon and epoch and len(epoch) <= _MAX_EPOCH) or number > _MAX_SEQ:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{of}: must be EPOCH:SEQ")
    return Since(epoch, number)


def note(text: str | None) -> str | None:
    """What a client says of itself, without what cannot be shown."""
    if text is None:
        return None
    text = text[:_MAX_NOTE]
    if not text.isprintable():
        text = "".join([character for character in text if character.isprintable()])
    return text or None
