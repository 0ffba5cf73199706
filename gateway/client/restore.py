"""Making a new connection what the lost one was: the filter, then every room from where it was left.

With the lost connection's resume token that is one command, which also brings what was sent to the
organisation and the user meanwhile. Where the gateway does not know the token (any more) it is the filter,
then a ``join`` with ``since`` for each room; so it is for rooms that could not be entered at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import anyio

from gateway.client.backoff import Backoff
from gateway.client.ended import Ended
from gateway.client.errors import CommandError, CommandFailed, CommandTimeout, UnexpectedReply
from gateway.client.link import Command, Link, LinkLost, OnReply
from gateway.client.messages import Event, Filter, Position
from gateway.client.replies import command_error, joined, resumed, went_on
from gateway.client.rooms import Room, Rooms, lost, since_data
from protocol.envelope import Envelope
from protocol.errors import ErrorCode

__all__ = ["FilterState", "Restorer"]

_ALSO_FOR_NOW: Final = frozenset(
    {
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.TOKEN_EXPIRED,
        ErrorCode.TOKEN_REVOKED,
        ErrorCode.TOO_MANY_PENDING,
    }
)

_AT_ONCE: Final = 32
"""Rooms being rejoined at the same time: enough to hide the round trip, far below the gateway's limit."""


@dataclass(slots=True)
class FilterState:
    """The connection's filter, and what it takes to have the same on a new connection."""

    current: Filter | None = None
    subscribed: bool = False
    """A ``subscribe`` has narrowed it, so that the next one will add."""

    def resumed(self, whole: Filter) -> None:
        """The gateway has brought this back; it may know of a command whose reply was lost."""
        if self.current is None and (whole.events != ("*",) or whole.excepted):
            self.subscribed = whole.events != ("*",)
        if self.current is not None or self.subscribed or whole.excepted:
            self.current = whole

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Kinds and patterns, to be sent in this order."""
        if self.current is None:
            return
        if self.subscribed:
            yield "subscribe", list(self.current.events) or ["*"]
        if not self.current.events:
            yield "unsubscribe", ["*"]
        if self.current.excepted:
            yield "unsubscribe", list(self.current.excepted)


@dataclass(slots=True)
class Restorer:
    """One restoration. When it does not succeed, the link is ended, to be tried anew."""

    link: Link
    rooms: Rooms
    filter: FilterState
    policy: Backoff
    timeout: float
    """Seconds for one reply."""
    emit: Callable[[Event], Awaitable[None]]
    resume: str | None = None
    """The lost connection's resume token."""

    async def run(self) -> None:
        """Restore; returns when all is as before or the link has ended."""
        try:
            left = await self._resume()
            if left is None:
                await self._restore_filter()
                await self._go_on()
                left = list(self.rooms.joined.values())
        except (LinkLost, CommandFailed) as error:
            self.link.end(Ended.broken(f"the connection could not be restored: {error}"))
            return
        rooms = iter(left)
        async with anyio.create_task_group() as tasks:
            for _ in range(min(_AT_ONCE, len(left))):
                tasks.start_soon(self._rejoin_some, rooms)

    async def _resume(self) -> list[Room] | None:
        """Resume; returns the rooms that are still to be joined, or None when nothing was brought back."""
        known = dict(self.rooms.joined)
        if self.resume is None or not (known or self.filter.current):
            return None
        since = {name: room.position for name, room in known.items()}
        positions = {name: {"epoch": epoch, "seq": seq} for name, (epoch, seq) in since.items()}
        own = self.rooms.missed(all=True)
        data = {"resume": self.resume, "positions": positions, **_own_data(own)}
        fields = {"t": "join", "data": data}
        entered: list[str] = []

        def on_reply(reply: Envelope) -> list[Event]:
            rooms, whole = resumed(reply)
            self.filter.resumed(whole)
            entered.extend(room.room for room in rooms)
            self.rooms.unasked.update(name for name in entered if name not in known)
            events = [
                news
                for room in rooms
                if room.room in known
                for news in self.rooms.join(room, known[room.room].options, since[room.room])
            ]
            return [*self.rooms.went_on(went_on(reply), own), *events]

        try:
            await self._insist(fields, on_reply, but=ErrorCode.TIMEOUT)
        except (CommandError, UnexpectedReply) as error:
            if isinstance(error, CommandError) and _for_now(error) and error.code != ErrorCode.TIMEOUT:
                raise
            return None
        for name in list(self.rooms.unasked):  # joined by a command whose reply was lost
            await self._insist({"t": "leave", "room": name}, lambda reply: self.rooms.unasked.clear())
        return [room for name, room in known.items() if name not in entered]

    async def _go_on(self) -> None:
        """Ask for what was sent to the organisation and the user meanwhile, if there was anything."""
        since = self.rooms.missed(all=False)
        if not since:
            return
        try:
            await self._insist(
                {"t": "join", "data": _own_data(since)},
                lambda reply: self.rooms.went_on(went_on(reply), since),
            )
        except CommandError as error:
            if _for_now(error):
                raise
            for of in since:
                for event in self.rooms.gave_up(of, f"refused: {error}"):
                    await self.emit(event)

    async def _restore_filter(self) -> None:
        for kind, patterns in self.filter.commands():
            await self._insist({"t": kind, "data": {"events": patterns}})

    async def _rejoin_some(self, rooms: Iterator[Room]) -> None:
        for room in rooms:
            try:
                await self._rejoin(room)
            except (LinkLost, CommandFailed) as error:
                self.link.end(Ended.broken(f"the rooms could not be restored: {error}"))
                return

    async def _rejoin(self, room: Room) -> None:
        since = room.position
        fields = {"t": "join", "room": room.name, "data": room.options.data(since)}

        def on_reply(reply: Envelope) -> Any:
            return self.rooms.join(joined(reply), room.options, since)

        try:
            await self._insist(fields, on_reply)
        except CommandError as error:
            if _for_now(error):
                raise
            # It will not be let in by another try either: for the application to know and to decide.
            self.rooms.leave(room.name)
            await self.emit(lost(room.name, since, None, f"refused: {error}"))

    async def _insist(
        self, fields: dict[str, Any], on_reply: OnReply | None = None, *, but: int | None = None
    ) -> None:
        """Send a command, and again while the gateway says that it cannot be done now (3xx ``but`` one)."""
        for attempt in itertools.count(1):
            command = self.link.command(fields, on_reply)
            if len(command.payload) > self.link.max_payload:
                # The gateway would close the connection over it.
                raise CommandError(ErrorCode.TOO_LARGE, "larger than the gateway accepts")
            self.link.post(command)
            reply = await self._patiently(command)
            if reply.t != "error":
                return
            error = command_error(reply)
            if not _for_now(error) or error.code == but or self.policy.exhausted(attempt):
                raise error
            await anyio.sleep(self.policy.delay(attempt, error.retry_after))

    async def _patiently(self, command: Command) -> Envelope:
        """Wait for the answer; time in which the application takes no events does not count."""
        while True:
            with anyio.move_on_after(self.timeout):
                return await command.answer()
            if not self.link.paused:
                raise CommandTimeout(f"no reply within {self.timeout:g} s")


def _own_data(since: dict[str, Position]) -> dict[str, Any]:
    return {of: since_data(position) for of, position in since.items()}


def _for_now(error: CommandError) -> bool:
    """The same command may succeed later; after those of the token, on the next connection."""
    return 300 <= error.code < 400 or error.code in _ALSO_FOR_NOW
