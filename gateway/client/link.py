"""The life of one connection: a reader, a writer and a heartbeat, and the commands in flight.

Everything a command changes in the client is changed by the reader, before it reads the next
message: events that follow a reply find the rooms as the reply left them.

The reader waits while the application does not take its events; then nothing is read from the
socket, and TCP tells the gateway. The heartbeat does not count that as the gateway's silence.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec

from gateway.client.ended import Ended
from gateway.client.errors import UnexpectedReply
from gateway.client.messages import Event
from gateway.client.transport import SocketClosed, Transport
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import ProtocolError

__all__ = ["Command", "Handlers", "Link", "LinkLost", "OnReply"]

OnReply = Callable[[Envelope], Event | list[Event] | None]
"""Called by the reader with the ``reply``; may return what is to be handed to the application.

May raise :class:`UnexpectedReply`, which the command then raises.
"""


class LinkLost(Exception):
    """The connection ended before the reply; ``sent`` tells whether the command may have gone out."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the connection was lost before the reply")
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Handlers:
    """Who takes what comes in. May wait; nothing is read meanwhile."""

    message: Callable[[Envelope], Awaitable[None]]
    """Takes every message, before anything else is done about it; ``event`` and ``lost`` end here."""
    emit: Callable[[Event], Awaitable[None]]
    """Takes what an ``OnReply`` returned."""


class Command:
    """One command until its reply."""

    __slots__ = ("_done", "failure", "id", "on_reply", "payload", "reply", "sent")

    def __init__(self, id: int, payload: bytes, on_reply: OnReply | None) -> None:
        self.id = id
        self.payload = payload
        self.on_reply = on_reply
        self.sent = False
        """The writer took it: it may have reached the gateway."""
        self.reply: Envelope | None = None
        self.failure: UnexpectedReply | None = None
        self._done = anyio.Event()

    def settle(self) -> None:
        """Wake whoever waits."""
        self._done.set()

    async def answer(self) -> Envelope:
        """Wait for the ``reply``, ``pong`` or ``error``. Raises :class:`LinkLost` or UnexpectedReply."""
        await self._done.wait()
        if self.failure is not None:
            raise self.failure
        if self.reply is None:
            raise LinkLost(sent=self.sent)
        return self.reply


class Link:
    """One connection after its handshake, until :meth:`run` returns."""

    def __init__(
        self,
        transport: Transport,
        codec: Codec,
        handlers: Handlers,
        *,
        heartbeat: float,
        heartbeat_timeout: float,
        max_payload: int,
    ) -> None:
        """``heartbeat`` seconds without a byte cause a ping, ``heartbeat_timeout`` more end the link.

        ``max_payload`` bytes is what the gateway takes in one message.
        """
        self._transport = transport
        self._codec = codec
        self._handlers = handlers
        self._heartbeat_interval = heartbeat
        self._heartbeat_timeout = heartbeat_timeout
        self.max_payload = max_payload
        self._ids = itertools.count(1)
        self._pending: dict[int, Command] = {}
        self._outbox: deque[Command] = deque()
        self._wake = anyio.Event()
        self._settled = anyio.Event()
        self._scope = anyio.CancelScope()
        self._closing: Ended | None = None
        self._resumed = -math.inf
        self.paused = False
        """The application does not take its events, so the reader does not read."""
        self.usable = True
        """False once new commands have to wait for the next connection."""
        self.ended: Ended | None = None

    async def run(self) -> Ended:
        """Work until the connection ends for whatever reason; then no command waits any more."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._read)
                    tasks.start_soon(self._write)
                    tasks.start_soon(self._heartbeat)
        finally:
            self.end(Ended.broken("the client stopped"))
        assert self.ended is not None
        return self.ended

    def end(self, ended: Ended) -> None:
        """End the link, if it has not ended yet, for this reason."""
        if self.ended is None:
            self.ended = ended
        self.usable = False
        self._scope.cancel()
        self._outbox.clear()
        for command in self._pending.values():
            command.settle()
        self._pending.clear()

    async def idle(self) -> None:
        """Wait until no command is without a reply."""
        while self._pending:
            self._settled = anyio.Event()
            await self._settled.wait()

    def drain(self) -> None:
        """Let new commands wait for the next connection: this one will end soon."""
        self.usable = False

    @property
    def pending(self) -> int:
        """Commands without a reply, also those that nobody waits for any more."""
        return len(self._pending)

    def command(self, fields: dict[str, Any], on_reply: OnReply | None = None) -> Command:
        """Make a command. Raises what the codec raises for values that it cannot write."""
        id = next(self._ids)
        return Command(id, self._codec.encode(Envelope(id=id, **fields)), on_reply)

    def post(self, command: Command) -> None:
        """Send it, after those before it. Raises :class:`LinkLost`."""
        if self.ended is not None:
            raise LinkLost(sent=False)
        self._pending[command.id] = command
        self._queue(command)

    async def request(self, command: Command) -> Envelope:
        """Post a command and wait for its answer.

        When the wait is cancelled, ``on_reply`` is still called if a reply comes: what the gateway did
        is done, whether anybody waits or not.
        """
        self.post(command)
        try:
            return await command.answer()
        except anyio.get_cancelled_exc_class():
            self._abandon(command)
            raise

    def _queue(self, command: Command) -> None:
        self._outbox.append(command)
        self._wake.set()

    def _abandon(self, command: Command) -> None:
        if not command.sent and self.ended is None:
            self._outbox.remove(command)
        if not command.sent or command.on_reply is None:
            self._pending.pop(command.id, None)

    async def _write(self) -> None:
        try:
            while True:
                while self._outbox:
                    command = self._outbox.popleft()
                    command.sent = True
                    await self._transport.send(command.payload)
                self._wake = anyio.Event()
                await self._wake.wait()
        except SocketClosed as closed:
            self.end(Ended.closed(closed.code, closed.reason, self._closing))

    async def _read(self) -> None:
        try:
            while True:
                try:
                    # The gateway is trusted, and a page of history may be long.
                    envelope = self._codec.decode(await self._transport.receive(), max_items=sys.maxsize)
                except ProtocolError as error:
                    if error.fatal is not None:
                        raise SocketClosed(error.fatal, f"the gateway sent: {error.message}") from error
                    self._misunderstood(error)
                else:
                    await self._dispatch(envelope)
        except SocketClosed as closed:
            self.end(Ended.closed(closed.code, closed.reason, self._closing))
        except msgspec.ValidationError as error:
            self.end(Ended.violation(str(error)))

    async def _dispatch(self, envelope: Envelope) -> None:
        await self._handed_on(self._handlers.message, envelope)
        match envelope.t:
            case "reply" | "pong" | "error":
                await self._settle(envelope)
            case "closing":
                self._closing = Ended.announced(envelope)
                self.drain()

    async def _settle(self, envelope: Envelope) -> None:
        command = self._pending.pop(envelope.id, None) if envelope.id is not None else None
        if command is None:
            return
        command.reply = envelope
        self._settled.set()
        items: Event | list[Event] | None = None
        if command.on_reply is not None and envelope.t != "error":
            try:
                items = command.on_reply(envelope)
            except UnexpectedReply as error:
                command.failure = error
        command.settle()
        if items is not None:
            for item in items if isinstance(items, list) else [items]:
                await self._handed_on(self._handlers.emit, item)

    def _misunderstood(self, error: ProtocolError) -> None:
        """A message of a kind or a version of the future is not for us, unless somebody waits for it."""
        command = self._pending.pop(error.id, None) if error.id is not None else None
        if command is not None:
            command.failure = UnexpectedReply(error.message)
            command.settle()

    async def _handed_on(self, handler: Callable[[Any], Awaitable[None]], item: object) -> None:
        self.paused = True
        await handler(item)
        self.paused = False
        self._resumed = anyio.current_time()

    async def _heartbeat(self) -> None:
        while True:
            heard = self._heard()
            due = heard + self._heartbeat_interval
            if anyio.current_time() < due:
                await anyio.sleep_until(due)
                continue
            if not self._outbox:  # else something that will be answered is on its way already
                self._queue(self.command({"t": "ping"}))
            await anyio.sleep(self._heartbeat_timeout)
            if self._heard() == heard:
                self.end(Ended.broken("the gateway does not answer"))

    def _heard(self) -> float:
        """When the gateway last gave a sign of life."""
        if self.paused:
            return anyio.current_time()
        return max(self._transport.last_received, self._resumed)
