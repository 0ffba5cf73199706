"""The client as the application sees it: one method for each command of ``docs/protocol.md``."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, Literal

import anyio

from gateway.client import replies
from gateway.client.asking import ask
from gateway.client.course import TransportKind
from gateway.client.messages import (
    ConnectionInfo,
    Decision,
    Event,
    Filter,
    HistoryPage,
    Joined,
    Position,
    Presence,
    Published,
    Refreshed,
    Sent,
)
from gateway.client.rooms import JoinOptions, since_data
from gateway.client.session import Session, State
from protocol.emits import Emits
from protocol.envelope import Envelope

__all__ = ["Client"]


class Client(Emits):
    """A connection that reconnects by itself; :func:`connect` creates it.

    Iterating yields :class:`Event` objects, and :class:`Lost` objects in place of missing events. It ends
    when the block of ``connect`` is left, and raises ``Disconnected`` or ``ConnectError`` when the client has
    given up. Several tasks may iterate; each event goes to one of them.

    Every command raises ``CommandFailed`` (see :mod:`gateway.client.errors`) if it fails, the same errors as
    the iteration when the client has given up, and ``ValueError`` for data outside the value model of the
    protocol. Without a connection a command waits for one, within its ``command_timeout``. A command that was
    cancelled or timed out may have been carried out.

    ``emit`` publishes a typed event; ``emit_task_started(…)`` and similar methods publish those of the
    catalogue.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def state(self) -> State:
        """``connecting``, ``connected``, ``reconnecting`` or ``closed``."""
        return self._session.state

    @property
    def connection(self) -> ConnectionInfo:
        """The greeting of the current connection, or of the last one."""
        info = self._session.info
        assert info is not None  # connect() gives the client out after the first welcome
        return info

    @property
    def transport(self) -> TransportKind:
        """The transport of the current connection, or of the last one: ``websocket``, ``sse`` or ``poll``."""
        return self._session.transport

    @property
    def degraded(self) -> bool:
        """True while the connection uses another transport than the first of ``transports``."""
        return self._session.degraded

    @property
    def rooms(self) -> tuple[str, ...]:
        """The rooms that the client is in, and would rejoin after a reconnect."""
        return tuple(self._session.rooms.joined)

    def __aiter__(self) -> Client:
        return self

    async def __anext__(self) -> Event:
        event = await self._session.next_event()
        if event is None:
            raise StopAsyncIteration
        return event

    async def join(
        self,
        room: str,
        events: Iterable[str] | None = None,
        *,
        since: tuple[str, int] | None = None,
        overflow: Literal["disconnect", "drop_oldest", "conflate", "replay"] | None = None,
        key: str | None = None,
        presence: bool = False,
    ) -> Joined:
        """Join ``room``, again after every reconnect, for events that match a pattern (None: all).

        With ``since``, an epoch and a number such as ``(event.epoch, event.seq)``, later events are sent
        first; if not all of them are kept, a :class:`Lost` precedes them. ``overflow`` is the gateway's
        policy when this client is too slow, ``key`` the field of the data to conflate by. With ``presence``
        the reply lists the users in the room, and the iteration also yields a :class:`PresenceChange` for
        every join and leave. Joining again replaces all of these.
        """
        options = JoinOptions(None if events is None else _patterns(events), overflow, key, presence or None)
        position = None if since is None else Position(*since)

        def note(reply: Envelope) -> list[Event]:
            return self._session.rooms.join(replies.joined(reply), options, position)

        fields = {"t": "join", "room": room, "data": options.data(position)}
        reply = await self._session.command(fields, note)
        return replies.joined(reply)

    async def leave(self, room: str) -> None:
        """Leave ``room``."""

        def note(reply: Envelope) -> None:
            self._session.rooms.leave(room)

        await self._session.command({"t": "leave", "room": room}, note)

    async def subscribe(self, *events: str) -> Filter:
        """Receive events that match these patterns: the first call restricts to them, later calls add
        patterns.
        """
        return await self._filter("subscribe", events)

    async def unsubscribe(self, *events: str) -> Filter:
        """Stop receiving events that match these patterns."""
        return await self._filter("unsubscribe", events)

    async def _filter(self, kind: Literal["subscribe", "unsubscribe"], events: Iterable[str]) -> Filter:
        state = self._session.filter

        def note(reply: Envelope) -> None:
            state.current = replies.filter_of(reply)
            state.subscribed = state.subscribed or kind == "subscribe"

        reply = await self._session.command({"t": kind, "data": {"events": _patterns(events)}}, note)
        return replies.filter_of(reply)

    async def publish(
        self,
        room: str | None,
        event: str,
        data: Any = None,
        *,
        mid: str | None = None,
        critical: bool = False,
    ) -> Published:
        """Publish to ``room`` (None: to the whole organisation); returns the event's position.

        A ``critical`` event (for services only) overtakes messages queued for slow clients.

        If the connection is lost before the reply, the publish is repeated on the next one with the same
        message id, so that it counts once. To repeat one that timed out, pass the same ``mid``.
        """
        mid = uuid.uuid4().hex if mid is None else mid
        fields = {"t": "publish", "room": room, "event": event, "data": data, "mid": mid}
        if critical:
            fields["critical"] = True
        return replies.published(await self._session.command(fields), mid)

    async def send(
        self, event: str, data: Any = None, *, user: str | None = None, connection: str | None = None
    ) -> Sent:
        """Send to all connections of ``user``, or to one ``connection``.

        Raises CommandInterrupted if the connection is lost before the reply.
        """
        if (user is None) == (connection is None):
            raise ValueError("name a user or a connection")
        to: dict[str, Any] = {"connection": connection} if user is None else {"user": user}
        if data is not None:
            to["data"] = data
        reply = await self._session.command({"t": "send", "event": event, "data": to}, repeat=False)
        return replies.sent(reply)

    async def call(self, name: str, data: Any = None, *, timeout: float | None = None) -> Any:
        """Call a handler of the backend; returns its result.

        ``timeout`` in seconds replaces ``command_timeout``. Raises CommandInterrupted if the connection is
        lost before the reply.
        """
        fields = {"t": "call", "event": name, "data": data}
        return (await self._session.command(fields, repeat=False, timeout=timeout)).data

    async def ask(
        self,
        title: str,
        *,
        users: Iterable[str] | None = None,
        role: str | None = None,
        message: str | None = None,
        data: Any = None,
        choices: Iterable[str] | None = None,
        deadline: float | None = None,
        fallback: str | None = None,
        execution: str | None = None,
        task: str | None = None,
        id: str | None = None,
    ) -> Decision:
        """Ask ``users``, or all users with ``role``, for an approval, and wait for the decision (services
        only).

        The wait survives lost connections, restarts of the gateway and long silences. Bound it by
        ``deadline`` (seconds, after which the choice ``fallback`` is taken) or by a timeout of your loop,
        which ends the wait and leaves the approval open. With the same ``id`` a restarted program waits for
        the approval that it had asked for. ``choices`` are approve and reject by default.

        Raises CommandError for refusals of the gateway, ``Disconnected`` when the client has given up, and
        ValueError unless exactly one of ``users`` and ``role`` is given.
        """
        if (users is None) == (role is None):
            raise ValueError("name users or a role")
        wanted = {
            "id": uuid.uuid4().hex if id is None else id,
            "title": title,
            "users": None if users is None else list(users),
            "role": role,
            "message": message,
            "data": data,
            "choices": None if choices is None else list(choices),
            "deadline": deadline,
            "fallback": fallback,
            "execution": execution,
            "task": task,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        return await ask(self._session, given, timeout=self._session.options.command_timeout)

    async def typing(self, room: str, start: bool = True) -> None:
        """Report to the others in ``room`` that this user starts or stops typing (stops by itself after a
        while).
        """
        data = {"state": "start" if start else "stop"}
        await self._session.command({"t": "typing", "room": room, "data": data})

    async def ack(self, room: str, seq: int) -> None:
        """Record on the gateway the position of this connection in ``room``; ``info`` shows it."""
        await self._session.command({"t": "ack", "room": room, "seq": seq})

    async def history(
        self, room: str, *, since: tuple[str, int] | None = None, limit: int | None = None
    ) -> HistoryPage:
        """Read kept events, oldest first: at most ``limit`` after ``since``, or the newest ones."""
        data = since_data(since)
        if limit is not None:
            data["limit"] = limit
        return replies.history(
            await self._session.command({"t": "history", "room": room, "data": data or None})
        )

    async def presence(self, room: str) -> Presence:
        """The users in ``room``."""
        return replies.presence(await self._session.command({"t": "presence", "room": room}))

    async def info(self) -> Any:
        """The gateway's data about this connection (the data of ``info`` in docs/protocol.md)."""
        return (await self._session.command({"t": "info"})).data

    async def stats(self) -> Any:
        """The statistics of the client's organisation, as of ``GET /api/v1/stats``."""
        return (await self._session.command({"t": "stats"})).data

    async def ping(self) -> float:
        """Round-trip time to the gateway in seconds, including a wait for a connection."""
        began = anyio.current_time()
        await self._session.command({"t": "ping"})
        return anyio.current_time() - began

    async def refresh(self, token: str) -> Refreshed:
        """Renew the token of the open connection; its permissions apply at once.

        The token is also used for reconnecting, unless ``connect`` was given a callable; then this call is
        not needed, because the client renews by itself.
        """
        return await self._session.refresh(token)


def _patterns(events: Iterable[str]) -> list[str]:
    if isinstance(events, str):
        raise TypeError("events are several patterns, not one text")
    return list(events)
