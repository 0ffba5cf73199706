"""What comes in on one connection: frames cut straight out of the chunk that was read, many at a time.

Nothing here waits. Most messages are handled in :meth:`Reader.on_readable`, which the pump calls, without a
task switch. Whatever has to wait (a command's work, the slow lane, the end) is left to the connection's
reader task, which is woken for it and does what the state says.

The states, and the only ways from one to another (``_WAYS``):

- READING: nothing is left over. The pump watches the socket; where there is no pump, the task waits for it.
- LEFT: frames are cut and wait for their next turn, because this one's time was over. The pump gives it if it
  watches the socket, else the task does, after a checkpoint.
- WORKING: the handler returned something to be awaited. The task awaits it, and then goes on with the frames
  that were left. Nothing is read meanwhile, so commands keep their order, and a peer that sends more feels
  it.
- FOREIGN: the next byte begins something that is not a whole, unfragmented, masked frame of less than 64 KiB.
  The rest of the connection belongs to trio-websocket (``gateway/wire/slow_lane.py``); nothing leads back.
- ENDED: nothing more is read. Every state leads here, because others may end a connection at any time.

A chunk can hold whole frames and the beginning of something foreign behind them; ``_then`` is where the last
of those frames leads, READING or FOREIGN. ``armed`` and ``queued`` are no states of the reader: with them the
pump notes what it has registered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Coroutine
from enum import Enum
from typing import Final, Protocol

import trio

from gateway.wire.outbox import Outbox
from gateway.wire.pump import Pump
from gateway.wire.signal import Signal
from gateway.wire.sockets import WireSocket
from protocol.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    cut_frames,
    cut_message,
    parse_close,
    server_frame,
)

__all__ = ["CHUNK", "Handler", "Owner", "Reader", "State"]

log = logging.getLogger(__name__)

CHUNK: Final = 65536
"""Bytes read at a time."""
_MAX_PIECES: Final = 16
"""Chunks in which one frame may come before the slow lane gets it."""
_TURN: Final = 0.0005
"""Seconds for which one connection's messages are handled before it is another one's turn."""


class State(Enum):
    """What the reader is at; see the top of this file."""

    READING = "reading"
    LEFT = "left"
    WORKING = "working"
    FOREIGN = "foreign"
    ENDED = "ended"


_ENDED: Final = State.ENDED
"""Looked at for every message: to look up a member of an enumeration is dear."""

_WAYS: Final = {
    State.READING: {State.LEFT, State.WORKING, State.FOREIGN, State.ENDED},
    State.LEFT: {State.READING, State.LEFT, State.WORKING, State.FOREIGN, State.ENDED},
    State.WORKING: {State.READING, State.LEFT, State.WORKING, State.FOREIGN, State.ENDED},
    State.FOREIGN: {State.ENDED},
    State.ENDED: {State.ENDED},
}


class Handler(Protocol):
    """What a connection carries. None of its methods may block, and none should raise."""

    deadline: float
    """Trio time at which ``on_deadline`` is to be called; ``math.inf`` for never."""

    def on_message(self, payload: bytes, text: bool) -> Awaitable[None] | None:
        """Handle one message; what is returned is awaited before the next message is handled."""

    def on_deadline(self) -> None:
        """``deadline`` has come; set the next one."""


class Owner(Protocol):
    """The connection, as its reader sees it."""

    def handler_failed(self) -> None:
        """The handler raised the exception that is being handled: close."""

    def refuse_size(self) -> None:
        """A message is too large: close."""

    def peer_closed(self, code: int) -> None:
        """The peer's Close has come: answer it, and call :meth:`Reader.finish`."""


class Reader:
    """The reading part of one connection."""

    __slots__ = (
        "_backlog",
        "_owner",
        "_pieces",
        "_pump",
        "_then",
        "armed",
        "attention",
        "handler",
        "heard",
        "message_bytes",
        "outbox",
        "pending",
        "queued",
        "received_bytes",
        "received_messages",
        "sock",
        "state",
        "work",
    )

    def __init__(
        self,
        owner: Owner,
        outbox: Outbox,
        sock: WireSocket | None,
        pump: Pump | None,
        *,
        message_bytes: int,
        unread: bytes,
    ) -> None:
        self._owner = owner
        self.outbox = outbox
        self.sock = sock
        self._pump = pump if sock is not None else None
        self.message_bytes = message_bytes
        """A message may have so many bytes; may be changed."""
        self.handler: Handler
        self.state = State.READING
        self._then = State.READING
        self.pending = unread
        """What was read and is not a whole frame yet."""
        self._pieces = 0
        self._backlog: list[tuple[int, bytes]] | None = None
        """Frames that were cut and wait for their turn."""
        self.work: Awaitable[None] | None = None
        """What the handler returned."""
        self.heard = True
        """Something has come since the last ping."""
        self.attention = Signal()
        """Wakes the reader task."""
        self.armed = False
        self.queued = False
        self.received_messages = 0
        self.received_bytes = 0

    # --- called by the pump -------------------------------------------------------------------

    def on_readable(self) -> None:
        """Read one chunk and handle what is in it; contains every error."""
        assert self.sock is not None
        if self._backlog is not None:
            self.resume()
            return
        try:
            chunk = self.sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.finish()
            return
        self.heard = True
        self.received_bytes += len(chunk)
        message = None if self.pending else cut_message(chunk)
        if message is None:
            self.feed(chunk)
            return
        # As ``_handle`` does for many: one message in a chunk is the usual, and each step counts.
        try:
            work = self.deliver(message[1], message[0] == TEXT)
        except Exception:
            self._owner.handler_failed()
        else:
            if work is not None:
                self._await(work)

    # --- called by the reader task ------------------------------------------------------------

    def watch(self) -> bool:
        """Have the pump watch the socket; False where there is no pump, or the socket is of no use to it."""
        if self._pump is None or self.sock is None:
            return False
        if not self.armed:
            self._pump.arm(self.sock, self)
        return True

    async def receive(self, stream: trio.abc.ReceiveStream | None) -> bytes:
        """Read the next chunk from the socket, or else from ``stream``; empty at the end, however it came."""
        try:
            if self.sock is None:
                assert stream is not None
                chunk = bytes(await stream.receive_some(CHUNK))
            else:
                while True:
                    await trio.lowlevel.wait_readable(self.sock)
                    try:
                        chunk = self.sock.recv(CHUNK)
                        break
                    except BlockingIOError:
                        continue
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        self.heard = True
        self.received_bytes += len(chunk)
        return chunk

    def feed(self, chunk: bytes) -> None:
        """Handle what was read."""
        if self.pending:
            chunk = self.pending + chunk
        frames, consumed, foreign = cut_frames(chunk)
        if foreign:
            self._then = State.FOREIGN
        if frames:
            self.pending = b"" if consumed == len(chunk) else chunk[consumed:]
            self._pieces = 0
            self._handle(frames)
            return
        # Each further piece of one frame is put behind the others and looked at again, which a peer
        # that sends byte by byte could make expensive; the slow lane keeps its place in a frame.
        self.pending = chunk
        self._pieces += 1
        if foreign or self._pieces > _MAX_PIECES:
            self._enter(State.FOREIGN)
            self._call_task()

    def resume(self) -> None:
        """Go on with the frames that were left: behind an awaited command, or when the turn was over."""
        backlog, self._backlog = self._backlog, None
        if backlog is not None:
            self._handle(backlog)
        elif self.state is not State.ENDED:
            self._enter(self._then)

    def take_work(self) -> Awaitable[None]:
        """What is to be awaited now."""
        work, self.work = self.work, None
        assert work is not None
        return work

    def deliver(self, payload: bytes, text: bool) -> Awaitable[None] | None:
        """Give one whole message to the handler, or close with 1009 if it is too large."""
        if self.outbox.sealed:
            return None
        self.received_messages += 1
        if len(payload) > self.message_bytes:
            self._owner.refuse_size()
            return None
        return self.handler.on_message(payload, text)

    # --- its end -----------------------------------------------------------------------------

    def finish(self) -> None:
        """Nothing more is to be read."""
        self._enter(State.ENDED)
        self._call_task()

    def end(self, owner: Owner, handler: Handler) -> None:
        """Let go of everything; ``owner`` and ``handler`` take the places of those that are to be freed."""
        self.disarm()
        self.state = State.ENDED
        if isinstance(self.work, Coroutine):
            self.work.close()
        self.work = self._backlog = self._pump = None
        self.pending = b""
        self._owner, self.handler = owner, handler

    def disarm(self) -> None:
        """Have the pump leave the socket alone."""
        if self._pump is not None and self.sock is not None:
            self._pump.disarm(self.sock, self)

    # --- inside ------------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        assert state in _WAYS[self.state], (self.state, state)
        self.state = state

    def _await(self, work: Awaitable[None]) -> None:
        self.work = work
        self._enter(State.WORKING)
        self._call_task()

    def _handle(self, frames: list[tuple[int, bytes]]) -> None:
        """Handle frames in order, until one has to be awaited or the turn is over."""
        begun = time.perf_counter() if len(frames) > 1 else 0.0
        done = 0
        for opcode, payload in frames:
            done += 1
            try:
                # Most of what comes is a message, and each call counts.
                if opcode <= BINARY:
                    work = self.deliver(payload, opcode == TEXT)
                    if work is not None:
                        self._backlog = frames[done:] or None
                        self._await(work)
                        return
                else:
                    self._handle_control(opcode, payload)
            except Exception:
                # No more messages are handled, but the peer's Close may be among these frames.
                self._owner.handler_failed()
                continue
            if self.state is _ENDED:
                return
            # One command can take long: a publish to ten thousand members takes several milliseconds.
            if done < len(frames) and time.perf_counter() - begun > _TURN:
                self._backlog = frames[done:]
                self._enter(State.LEFT)
                if self.armed:
                    assert self._pump is not None
                    self._pump.queue(self)
                return
        if self.state is not self._then and self.state is not State.ENDED:
            self._enter(self._then)
            if self._then is State.FOREIGN:
                self._call_task()

    def _handle_control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.outbox.put_urgent(server_frame(PONG, payload))
        elif opcode == CLOSE:
            self._owner.peer_closed((parse_close(payload) or (1002, ""))[0])

    def _call_task(self) -> None:
        self.disarm()
        self.attention.set()
