"""Publishing to rooms and organisations, sending to users and connections, and traces of messages."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Final

from gateway.auth.identity import Identity, Permission
from gateway.auth.revocation import MAX_USER
from gateway.broker.base import Done, Position
from gateway.cluster.base import Cluster
from gateway.hub.hub import Hub, Sent
from gateway.limits.overload import Overload
from gateway.operations.rules import organisation, permit, permit_target, require_service
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_event, check_mid, check_room
from protocol.values import check_event_data, check_value, footprint

__all__ = ["MOST_USERS", "Events"]

MOST_USERS: Final = 1000
"""Users that one send may name."""

_UNCLEAN: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Events:
    """Incoming events."""

    __slots__ = ("_cluster", "_hub", "_overload", "_submit")

    def __init__(self, hub: Hub, cluster: Cluster, overload: Overload) -> None:
        self._hub = hub
        self._submit = hub.submit
        self._cluster = cluster
        self._overload = overload

    def submit(
        self,
        identity: Identity,
        room: str | None,
        event: str | None,
        data: Any,
        done: Done,
        mid: str | None,
        critical: bool,
        size: int,
    ) -> None:
        """:meth:`publish` to the caller's organisation, without waiting: ``done`` gets the place or a 3xx
        error. By position, as a call by keywords is dearer and this is one for each message.

        ``data`` must have come through a codec, which has checked it, and ``size`` is what it took on the
        wire, in bytes. Raises what :meth:`publish` raises before it waits.
        """
        self._check(identity, room, event, mid, critical)
        self._submit(
            identity.org,
            room,
            event,  # type: ignore[arg-type]  # checked above
            data,
            done,
            identity.user,
            mid,
            None,
            critical,
            size,
        )

    async def publish(
        self,
        identity: Identity,
        room: str | None,
        event: str,
        data: Any = None,
        *,
        org: str | None = None,
        mid: str | None = None,
        exclude: Collection[str] = (),
        critical: bool = False,
    ) -> Position:
        """Publish to a room, or with None to the whole organisation; returns the event's position.

        ``data`` nests at most ``MAX_EVENT_DEPTH`` containers. An event whose ``mid`` the channel remembers
        gets the position of the first. ``exclude`` are users who do not receive it. ``critical`` events
        overtake others and are accepted while the node sheds load.

        Raises FORBIDDEN without the permission ``publish`` in the room, and without the role service for a
        whole organisation and for ``critical``; WRONG_ORGANISATION; 10x for bad names and data, or for data
        and events that ``events.patterns`` refuses (EVENT_NOT_ALLOWED); TOO_LARGE if it exceeds
        ``limits.message_bytes`` in a client's codec; OVERLOADED, BROKER_UNAVAILABLE, TIMEOUT.
        """
        org = organisation(identity, org)
        self._check(identity, room, event, mid, critical)
        return await self._hub.publish(
            org,
            room,
            event,
            self._data_of(room, event, data),
            sender=identity.user,
            mid=mid,
            exclude=frozenset(exclude) or None,
            critical=critical,
        )

    def _data_of(self, room: str | None, event: str, data: Any) -> Any:
        """``data`` as the event may have it; what the token may not do was said before."""
        return check_event_data(data)

    def _check(
        self, identity: Identity, room: str | None, event: str | None, mid: str | None, critical: bool
    ) -> None:
        if room is not None:
            check_room(room)
            if not identity.grants.allows(room, Permission.PUBLISH):  # a call less for every publish
                permit(identity, room, Permission.PUBLISH)
        elif not identity.is_service:
            require_service(identity, "publishing to the whole organisation (without a room)")
        check_event(event)
        if mid is not None:
            check_mid(mid)
        if not critical:
            self._overload.refuse_publish()
        elif not identity.is_service:
            require_service(identity, "marking an event as critical")

    async def send(
        self,
        identity: Identity,
        event: str | None,
        data: Any = None,
        *,
        user: str | None = None,
        connection: str | None = None,
        org: str | None = None,
        mid: str | None = None,
        ephemeral: bool = False,
    ) -> Sent:
        """Send to all connections of ``user``, or to one ``connection``, on any nodes.

        A message to a user has a position in the user's order and is kept, unless it is ``ephemeral``. Sends
        need the permission ``publish`` for the names ``user:NAME`` and ``connection:ID``. Raises FORBIDDEN
        without it; MISSING_FIELD without a recipient, BAD_FIELD with two; WRONG_ORGANISATION; 10x for bad
        names and data; TOO_LARGE; NOT_FOUND for a connection that is not open; BROKER_UNAVAILABLE, TIMEOUT.
        """
        org = organisation(identity, org)
        check_event(event)
        assert event is not None
        if mid is not None:
            check_mid(mid)
        if user is None and connection is None:
            raise ProtocolError(ErrorCode.MISSING_FIELD, "user or connection: one of them must be given")
        if user is not None and connection is not None:
            raise ProtocolError(ErrorCode.BAD_FIELD, "user and connection: only one of them may be given")
        if user is not None:
            _check_user(user)
            permit_target(identity, "user", user)
        else:
            permit_target(identity, "connection", str(connection))
        data = check_event_data(data) if connection is None else check_value(data)
        self._hub.check_size(None, event, data, sender=identity.user, mid=mid, size=footprint(data))
        return await self._cluster.send(
            org,
            event,
            data,
            user=user,
            connection=connection,
            sender=identity.user,
            mid=mid,
            ephemeral=ephemeral,
        )

    async def send_to_users(
        self,
        identity: Identity,
        event: str | None,
        data: Any = None,
        *,
        users: Collection[str],
        org: str | None = None,
        mid: str | None = None,
        ephemeral: bool = False,
    ) -> dict[str, Sent]:
        """As :meth:`send`, to each of 1 to ``MOST_USERS`` users, in their orders with one ``mid``.

        If the broker refuses one, that error is raised, and others may have got the message: repeated with
        its ``mid`` it reaches each once. If this method itself refuses, nothing was sent: BAD_FIELD,
        TOO_LARGE for too many.
        """
        org = organisation(identity, org)
        event = check_event(event)
        if mid is not None:
            check_mid(mid)
        if not users:
            raise ProtocolError(ErrorCode.BAD_FIELD, "users: must not be empty")
        if len(users) > MOST_USERS:
            raise ProtocolError(ErrorCode.TOO_LARGE, f"users: at most {MOST_USERS}")
        names = list(dict.fromkeys(users))
        for user in names:
            _check_user(user)
            permit_target(identity, "user", user)
        sent = await self._hub.send_to_users(
            org, names, event, check_event_data(data), sender=identity.user, mid=mid, ephemeral=ephemeral
        )
        return dict(zip(names, sent, strict=True))

    async def tell(self, sends: Sequence[tuple[str, str, str, Any, str]]) -> list[ProtocolError | None]:
        """Send what the gateway itself has to say to users, who may be many and of many organisations.

        Each is organisation, user, event, data and message id; what has become of each comes in their order:
        None, or the error that :meth:`send` would raise.
        """
        errors: list[ProtocolError | None] = [None] * len(sends)
        good: list[int] = []
        for number, (_, _, event, data, mid) in enumerate(sends):
            try:
                check_event_data(data)
                self._hub.check_size(None, event, data, sender=None, mid=mid, size=footprint(data))
                good.append(number)
            except ProtocolError as error:
                errors[number] = error
        places = await self._hub.send_each([sends[number] for number in good])
        for number, place in zip(good, places, strict=True):
            errors[number] = place if isinstance(place, ProtocolError) else None
        return errors

    async def trace(
        self, identity: Identity, mid: str, *, user: str | None = None, org: str | None = None
    ) -> dict[str, Any]:
        """The outcome of a message, recipient by recipient; with ``user`` for the connections of one user.

        Raises FORBIDDEN without the role service, and NOT_FOUND if the message was not traced.
        """
        require_service(identity)
        org = organisation(identity, org)
        check_mid(mid)
        if self._hub.tracer is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "tracing is off: trace.messages is 0")
        trace = await self._cluster.trace(org, mid, user=user)
        if trace is None:
            raise ProtocolError(
                ErrorCode.NOT_FOUND, "this message was not traced, or is no longer remembered"
            )
        return {"node": self._hub.node, **trace}


def _check_user(name: str) -> None:
    """Refuse what no token can name: an order would be kept for nobody."""
    if not name:
        raise ProtocolError(ErrorCode.BAD_FIELD, "user: must not be empty")
    if len(name) > MAX_USER:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"user: at most {MAX_USER} characters")
    if _UNCLEAN.search(name):
        raise ProtocolError(ErrorCode.BAD_FIELD, "user: holds control characters")
