"""Where a poll waits for an event, its time, or the end of its client, without a task for any of them.

Most polls end in vain, and their clients ask the same again on the same connection. Both are done here
without waking the poll's task. When its time has come, the timers call, it is answered, and *rests*. When the
pump then brings the same request again, it waits on, as the session that it was. Whatever else happens ends a
session that rests, an event as well: what was said meanwhile is dropped, and the next request goes on from
its cursor.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from gateway.session.session import Session
from gateway.wire.engine import Engine
from gateway.wire.listener import Accepted
from gateway.wire.outbox import Frame, Outbox
from gateway.wire.signal import Signal
from gateway.wire.timers import Alarm
from gateway.wire.upgrade import mark_of

__all__ = ["PollTransport", "Repeated"]

_BEAT: Final = 0.1
"""Seconds between the times at which polls end: one wake-up of the process then does for many."""
_ON_BEAT: Final = 5.0
"""Polls of so many seconds may end up to a beat early."""
_REST: Final = 5.0
"""Seconds for which a poll may rest: its answer and the next request are under way."""


class Repeated(Protocol):
    """A poll that may be answered, and asked again, while it waits."""

    mark: bytes
    """Of its request's head; empty where it is answered once."""
    timeout: float
    """Seconds that it waits."""

    def in_vain(self) -> bytes | None:
        """The answer with nothing in it, behind which the connection stays open; None where there is none."""

    def again(self) -> bool:
        """The same was asked again; False when that has to be looked at more closely."""


class PollTransport:
    """Keeps what the session says until it is taken, all at once; outbox, timers and pump call it."""

    __slots__ = (
        "_accepted",
        "_called",
        "_due",
        "_engine",
        "_gone",
        "_nursery",
        "_over",
        "_poll",
        "_resting",
        "_session",
        "_spawned",
        "_woken",
        "alarm",
        "armed",
        "close_code",
        "message_bytes",
        "outbox",
        "queued",
        "received_bytes",
        "received_messages",
        "stays",
        "unread",
        "unsent",
    )

    kind: Final = "poll"

    def __init__(self, engine: Engine, accepted: Accepted, max_messages: int, max_bytes: int) -> None:
        self.outbox = Outbox(engine.flusher, None, max_messages=max_messages, max_bytes=max_bytes)
        self.outbox.on_blocked = self._call
        self._engine = engine
        self._accepted = accepted
        self.message_bytes = 0
        self.close_code = 1006
        self.received_messages = 0
        self.received_bytes = 0
        self.alarm: Alarm | None = None
        self.armed = self.queued = False
        self.stays = engine.pump is not None and accepted.sock is not None
        """Another request may follow on the connection: nothing was sent before this one was answered."""
        self.unread = b""
        """What came behind an answer, and is no repetition."""
        self.unsent = b""
        """What is left of an answer."""
        self._poll: Repeated | None = None
        self._session: Session | None = None
        self._due = math.inf
        """When the poll ends, or has rested long enough."""
        self._resting = False
        self._gone = False
        """The client is no longer there."""
        self._over = False
        """There is nothing to wait for."""
        self._nursery: trio.Nursery | None = None
        self._spawned: list[Callable[[], Awaitable[None]]] = []
        """Tasks that want a nursery, which is opened for the first."""
        self._called = Signal()
        """There is something to take or to do, or nothing more will come."""
        self._woken = False

    @property
    def closing(self) -> bool:
        """It takes nothing more."""
        return self.outbox.sealed

    def close(self, code: int, reason: str = "", *, flush_timeout: float = 0.0) -> None:
        """Answer with what is there."""
        if not self.outbox.sealed:
            self.close_code = int(code)
            self.outbox.shut()
            self._call()

    def end(self) -> None:
        """Nothing is to be taken any more."""
        self.outbox.on_blocked = None  # a cycle would stay until the collector comes
        self.outbox.end()

    def spawn(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task that ends with the poll."""
        if self._nursery is not None:
            self._nursery.start_soon(function)
        else:
            self._spawned.append(function)
            self._call()

    def reschedule(self) -> None:
        """The session's ``deadline`` has moved nearer."""
        if self.alarm is not None:  # it waits
            self._call()

    def _call(self) -> None:
        if not self._woken:
            self._woken = True
            self._engine.wakes.wake(self._called)

    # --- what happens while the task sleeps -------------------------------------------------------------

    def on_time(self) -> None:
        """The timers call: one of our times has come."""
        session = self._session
        if session is None or not self._is_vain(session) or not self._answer():
            self._call()

    def _is_vain(self, session: Session) -> bool:
        """The poll's time has come, and nothing else has."""
        now = trio.current_time()
        outbox = self.outbox
        outbox.settle()
        return (
            self._due <= now < session.deadline
            and self.stays
            and self._nursery is None
            and not (self._resting or self._over or self._spawned or outbox.size or outbox.sealed)
        )

    def _answer(self) -> bool:
        """Answer with nothing, and rest; False where that cannot be done here."""
        answer = self._poll.in_vain() if self._poll is not None and self._poll.mark else None
        if answer is None:
            return False
        self._resting = True
        self._rest()
        try:
            self.unsent = self._accepted.send_now(answer)
        except OSError:
            self._gone = True
        if self.unsent or self._gone:
            self._end()
        return True

    def _rest(self) -> None:
        assert self._session is not None
        self._due = trio.current_time() + _REST
        self._engine.timers.set(self, min(self._due, self._session.deadline))

    def on_readable(self) -> None:
        """The pump calls: notice when the client has gone, or asks again."""
        try:
            chunk = self._accepted.receive_now()
        except OSError:
            chunk = b""
        self._heard(chunk)

    def _heard(self, chunk: bytes | None) -> None:
        if chunk == b"":
            self._gone = True
            self._end()
        elif chunk is not None:
            if not self._resting:
                self.stays = False  # what is sent before the answer is dropped, and the connection ends
            elif not self._goes_on(chunk):
                self.unread = chunk
                self._end()

    def _goes_on(self, chunk: bytes) -> bool:
        """Wait on if this is the same request again, and nothing has happened meanwhile."""
        poll, session, outbox = self._poll, self._session, self.outbox
        outbox.settle()
        if (
            poll is None or session is None or self._over or self._woken or outbox.size or outbox.sealed
            or mark_of(chunk) != poll.mark or not poll.again()
        ):  # fmt: skip
            return False
        self._resting = False
        self._due = _end(poll.timeout)
        self._engine.timers.set(self, min(self._due, session.deadline))
        return True

    def _end(self) -> None:
        self._over = True
        self._disarm()
        self._call()

    def _disarm(self) -> None:
        if self._engine.pump is not None and self._accepted.sock is not None:
            self._engine.pump.disarm(self._accepted.sock, self)

    # --- the task ---------------------------------------------------------------------------------------

    async def wait(self, session: Session, poll: Repeated, begun: float) -> bool:
        """Wait until there is something to take, or the time has come that the poll has since the Trio time
        ``begun``. False when there is nobody to answer, or the last request was answered."""
        self._session, self._poll = session, poll
        self._due = _end(poll.timeout, begun)
        pump, sock = self._engine.pump, self._accepted.sock
        if pump is None or sock is None:
            self._spawned.append(self._watch)
        else:
            pump.arm(sock, self)
        try:
            if self._spawned or not await self._until(session):
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    for function in self._spawned:
                        nursery.start_soon(function)
                    self._spawned.clear()
                    await self._until(session)
                    nursery.cancel_scope.cancel()
        finally:
            self._nursery = self._session = self._poll = None
            self._engine.timers.set(self, math.inf)
            self._disarm()
        return not self._gone and not self._resting

    @property
    def gone(self) -> bool:
        """The client is no longer there."""
        return self._gone

    async def _until(self, session: Session) -> bool:
        """Wait; False when there are tasks to begin."""
        outbox = self.outbox
        outbox.settle()
        while not (outbox.size or outbox.sealed or self._over):
            if self._spawned and not self._resting:
                return False
            now = trio.current_time()
            if now >= self._due or (self._spawned and self._resting):
                break
            if now >= session.deadline:
                session.on_deadline()
                continue
            self._engine.timers.set(self, min(self._due, session.deadline))
            await self._called.wait()
            self._woken = False
            outbox.settle()
        return True

    async def _watch(self) -> None:
        """As :meth:`on_readable`, where there is no pump."""
        while not self._gone:
            try:
                chunk = await self._accepted.receive()
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                chunk = b""
            self._heard(chunk)

    def take(self) -> list[Frame]:
        """All that is there, which counts as sent."""
        outbox = self.outbox
        outbox.settle()
        return outbox.take()

    async def send(self, answer: bytes, timeout: float) -> bytes | None:
        """Send the answer within ``timeout`` seconds; returns what was read behind it if the connection
        stays open for another request, else None once the client has heard it."""
        accepted = self._accepted
        rest = accepted.send_now(answer) if answer else b""
        if self.stays and not rest:
            return self.unread
        if not rest and isinstance(accepted.sock, socket.socket) and accepted.receive_now() is None:
            return None  # nothing is unread, so the connection may be closed without a reset
        with trio.move_on_after(timeout):
            await accepted.send(rest)
            if self.stays:
                return self.unread
            await accepted.finish()
        return None


def _end(timeout: float, begun: float | None = None) -> float:
    """The Trio time at which a poll ends that began at ``begun`` or now."""
    end = (trio.current_time() if begun is None else begun) + timeout
    return end if timeout < _ON_BEAT else math.floor(end / _BEAT) * _BEAT
