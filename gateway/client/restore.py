"""Making a new connection what the lost one was: the filter, then every room from where it was left."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import trio

from gateway.client.backoff import Backoff
from gateway.client.ended import Ended
from gateway.client.errors import CommandError, CommandFailed, CommandTimeout
from gateway.client.link import Command, Link, LinkLost, OnReply
from gateway.client.messages import Event, Filter
from gateway.client.replies import command_error, joined
from gateway.client.rooms import Room, Rooms, lost
from protocol.envelope import Envelope

__all__ = ["FilterState", "Restorer"]

_AT_ONCE: Final = 32
"""Rooms being rejoined at the same time: enough to hide the round trip, far below the gateway's limit."""


@dataclass(slots=True)
class FilterState:
    """The connection's filter, and what it takes to have the same on a new connection."""

    current: Filter | None = None
    subscribed: bool = False
    """A ``subscribe`` has narrowed it, so that the next one will add."""

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

    async def run(self) -> None:
        """Restore; returns when all is as before or the link has ended."""
        try:
            for kind, patterns in self.filter.commands():
                await self._insist({"t": kind, "data": {"events": patterns}})
        except (LinkLost, CommandFailed) as error:
            self.link.end(Ended.broken(f"the filter could not be restored: {error}"))
            return
        rooms = iter(list(self.rooms.joined.values()))
        async with trio.open_nursery() as nursery:
            for _ in range(min(_AT_ONCE, len(self.rooms.joined))):
                nursery.start_soon(self._rejoin_some, rooms)

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
            if 300 <= error.code < 400:
                raise
            # It will not be let in by another try either: for the application to know and to decide.
            self.rooms.leave(room.name)
            await self.emit(lost(room.name, since, None, f"refused: {error}"))

    async def _insist(self, fields: dict[str, Any], on_reply: OnReply | None = None) -> None:
        """Send a command, and again while the gateway says that it cannot be done now (3xx)."""
        for attempt in itertools.count(1):
            command = self.link.command(fields, on_reply)
            self.link.post(command)
            reply = await self._patiently(command)
            if reply.t != "error":
                return
            error = command_error(reply)
            if not 300 <= error.code < 400 or self.policy.exhausted(attempt):
                raise error
            await trio.sleep(self.policy.delay(attempt, error.retry_after))

    async def _patiently(self, command: Command) -> Envelope:
        """Wait for the answer; time in which the application takes no events does not count."""
        while True:
            with trio.move_on_after(self.timeout):
                return await command.answer()
            if not self.link.paused:
                raise CommandTimeout(f"no reply within {self.timeout:g} s")
