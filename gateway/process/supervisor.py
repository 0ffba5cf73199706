"""``gateway serve --workers N``: processes that share one port, and somebody who watches over them.

Each worker is a whole gateway (``gateway/process/worker.py``); the broker joins them as it joins
machines, and the kernel spreads new connections over them (SO_REUSEPORT). The supervisor serves nobody. It

- starts a worker again that has died, after a pause that grows with every death, until too many have died
  in too short a time; then it ends everything, with an exit code of its own;
- passes SIGTERM and SIGINT on, so that all workers drain, and ends those that take longer than a drain may;
- on SIGHUP replaces the workers one by one: a new one listens before the old one is retired, and while none
  can start the old ones go on;
- replaces a worker from which it hears nothing for a while: it stands still, and yet gets connections.

Workers are in sessions of their own: Ctrl-C in a terminal reaches the supervisor alone, or they would
be asked twice, which means not to wait. They see by their leash when the supervisor has gone.
"""

from __future__ import annotations

import math
import secrets
import signal
import socket
import sys
from collections import deque
from typing import Final

import msgspec
import structlog
import trio

from gateway.config.settings import Settings
from gateway.wire.sockets import bind

__all__ = ["GAVE_UP", "KILLED", "READY", "supervise"]

log = structlog.get_logger(__name__)

READY: Final = b"ready\n"
"""What a worker says on its leash when it listens."""
BEAT: Final = b"."
"""What it says from then on, every ``BEAT_EVERY`` seconds."""
BEAT_EVERY: Final = 1.0

KILLED: Final = 1
"""Exit code: a worker did not end in time and was killed."""
GAVE_UP: Final = 3
"""Exit code: workers died too often."""
_UNUSABLE: Final = 2
"""A worker's exit code when its configuration cannot be used: starting it again cannot help."""

_FAST: Final = 3
"""Brief lives of one slot, one after the other, after which it is not tried any more."""
_BRIEF: Final = 5.0
"""Seconds of listening that end a brief life; a worker that never listened had one, too."""
_GRACE: Final = 5.0
"""Seconds that a worker has beyond the longest drain."""


def supervise(settings: Settings) -> int:
    """Run ``settings.workers`` workers until SIGTERM or SIGINT; returns the exit code."""
    try:
        return trio.run(Supervisor(settings).run)
    except OSError as error:
        print(f"gateway: cannot listen on {settings.host}:{settings.port}: {error}", file=sys.stderr)
        return 1


class Worker:
    """One process."""

    def __init__(self, slot: int, node: str, old: Worker | None = None) -> None:
        """``old`` is the one whose place it takes when it listens."""
        self.slot = slot
        self.node = node
        self.old = old
        self.process: trio.Process
        self.retired = False
        self.listened_at = math.inf
        """Trio's time."""
        self.ended = trio.Event()

    @property
    def listened(self) -> bool:
        """It has got so far."""
        return self.listened_at < math.inf

    @property
    def settled(self) -> bool:
        """It serves, and did not die at once."""
        return not self.ended.is_set() and trio.current_time() >= self.listened_at + _BRIEF

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)


class Supervisor:
    """The workers of one node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = settings.node or f"n{secrets.token_hex(3)}"
        self._started = 0
        self._running: set[Worker] = set()
        self._serving: dict[int, Worker] = {}
        self._deaths: deque[float] = deque()
        self._stopping = trio.Event()
        self._replacing = trio.Event()
        self._keepers: trio.Nursery
        self._limit = trio.CancelScope()
        self._exit_code = 0

    async def run(self) -> int:
        """Work until told to stop; returns the exit code. Raises OSError when the port is taken."""
        settings = self._settings
        # Bound, but never listening: it keeps the port, and with port 0 says which one it is.
        reserved = await bind(settings.host, settings.port, shared=True)
        port = reserved[0].getsockname()[1]
        self._settings = msgspec.structs.replace(settings, port=port)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._pass_on_signals)
                nursery.start_soon(self._replace_when_asked)
                with self._limit:
                    async with trio.open_nursery() as self._keepers:
                        every = [trio.Event() for _ in range(settings.workers)]
                        for slot, listening in enumerate(every):
                            self._keepers.start_soon(self._keep, slot, listening)
                        self._keepers.start_soon(self._announce, every)
                if self._limit.cancelled_caught:
                    log.error("killed workers that did not end in time")
                    self._exit_code = self._exit_code or KILLED
                nursery.cancel_scope.cancel()
        finally:
            for sock in reserved:
                sock.close()
        return self._exit_code

    async def _announce(self, every: list[trio.Event]) -> None:
        for listening in every:
            await _either(listening, self._stopping)
        if self._stopping.is_set():
            return
        settings = self._settings
        log.info("all workers listen", workers=settings.workers, host=settings.host, port=settings.port)
        if settings.dev:
            from gateway.welcome import welcome  # the supervisor is small without the server

            welcome(settings, settings.port)

    # --- one worker ---------------------------------------------------------------------------

    async def _keep(
        self, slot: int, listening: trio.Event, old: Worker | None = None, failed: trio.Event | None = None
    ) -> None:
        """Keep a worker in this slot until it is retired or everything ends; the first sets ``listening``.

        With ``old`` it takes that one's place; if it ends before it listens, ``failed`` is set and no other
        one is tried.
        """
        brief = 0
        while not self._stopping.is_set():
            worker = self._new(slot, old)
            self._running.add(worker)
            try:
                await self._run(worker, listening)
            finally:
                self._running.discard(worker)
                worker.ended.set()
            if worker.retired or self._stopping.is_set():
                return
            if failed is not None and not listening.is_set():
                log.error("new worker did not start", node=worker.node, exit_code=worker.process.returncode)
                failed.set()
                return
            old = None
            lived = trio.current_time() - worker.listened_at
            brief = 0 if lived >= _BRIEF else brief + 1
            await self._mourn(worker, brief)
            serving = self._serving.get(slot)
            if serving is not None and serving is not worker and not serving.ended.is_set():
                return  # a successor has listened meanwhile

    def _new(self, slot: int, old: Worker | None) -> Worker:
        # No name twice: what others still know of a dead worker is not the new one's.
        self._started += 1
        return Worker(slot, f"{self._name}-{self._started}", old)

    async def _run(self, worker: Worker, listening: trio.Event) -> None:
        ours, theirs = socket.socketpair()
        leash = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        with theirs:
            worker.process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", "gateway.process.worker"],
                stdin=theirs.fileno(),
                start_new_session=True,
            )
        try:
            async with leash, trio.open_nursery() as nursery:
                nursery.start_soon(self._greet, worker, leash, listening)
                await worker.process.wait()
                nursery.cancel_scope.cancel()
        finally:
            if worker.process.poll() is None:
                worker.process.kill()
                with trio.CancelScope(shield=True):
                    await worker.process.wait()

    async def _greet(self, worker: Worker, leash: trio.SocketStream, listening: trio.Event) -> None:
        """Give a worker its settings, and wait until it listens."""
        settings = self._settings
        own_port = settings.own_port + worker.slot if settings.own_port else 0
        mine = msgspec.structs.replace(settings, node=worker.node, own_port=own_port)
        said = b""
        try:
            with trio.move_on_after(settings.supervisor.start_timeout):
                await leash.send_all(msgspec.json.encode(mine) + b"\n")
                while READY not in said:
                    chunk = await leash.receive_some()
                    if not chunk:
                        return  # it ended; that is seen elsewhere
                    said += chunk
            if not said:
                log.error("worker did not start in time", node=worker.node)
                worker.process.kill()
                return
            log.info("a worker listens", node=worker.node, pid=worker.process.pid)
            worker.listened_at = trio.current_time()
            if worker.old is not None:
                worker.old.retired = True
                worker.old = None
            self._serving[worker.slot] = worker
            listening.set()
            await self._listen(worker, leash)
        except trio.BrokenResourceError:
            return

    async def _listen(self, worker: Worker, leash: trio.SocketStream) -> None:
        """Take its beats; end it when they stop to come."""
        silence = self._settings.supervisor.silence
        while True:
            with trio.move_on_after(silence) as scope:
                if not await leash.receive_some():
                    return
            if scope.cancelled_caught and not self._stopping.is_set():
                log.error("worker does not respond; replacing it", node=worker.node, seconds=silence)
                worker.process.kill()
                return

    async def _mourn(self, worker: Worker, brief: int) -> None:
        """Wait before another one is started in its place, or give up.

        ``brief``: so many in this place died at once. Backing off keeps them below any number of deaths in
        a window for ever; so that is a reason by itself, unless others serve well.
        """
        settings = self._settings.supervisor
        now = trio.current_time()
        self._deaths.append(now)
        while self._deaths[0] < now - settings.window:
            self._deaths.popleft()
        deaths = len(self._deaths)
        code = worker.process.returncode
        log.error("worker died", node=worker.node, exit_code=code, deaths=deaths)
        others = any(not each.ended.is_set() for each in self._serving.values())
        if code == _UNUSABLE and not others:
            self._end(_UNUSABLE)
        elif brief >= _FAST and not any(each.settled for each in self._serving.values()):
            log.error("giving up: workers die at once", node=worker.node, tries=brief)
            self._end(GAVE_UP)
        elif deaths > settings.restarts and (worker.listened or not others):
            log.error("giving up: workers die too often", deaths=deaths, seconds=settings.window)
            self._end(GAVE_UP)
        pause = min(settings.backoff_maximum, settings.backoff * 2 ** min(deaths - 1, 30))
        with trio.move_on_after(pause):
            await self._stopping.wait()

    # --- all of them --------------------------------------------------------------------------

    async def _pass_on_signals(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    self._replacing.set()
                else:
                    self._end(0)

    def _end(self, exit_code: int) -> None:
        """Have all workers drain; asked again, they do not wait."""
        if not self._stopping.is_set():
            self._exit_code = exit_code
            self._stopping.set()
            settings = self._settings
            longest = settings.drain.delay + settings.drain.timeout + settings.shutdown_timeout
            self._limit.deadline = trio.current_time() + longest + _GRACE
        for worker in self._running:
            worker.send_signal(signal.SIGTERM)

    async def _replace_when_asked(self) -> None:
        """One after the other: a new worker listens before the old one leaves."""
        while True:
            await self._replacing.wait()
            self._replacing = trio.Event()
            log.info("replacing the workers one by one")
            for slot, old in sorted(self._serving.items()):
                if old.ended.is_set():
                    continue  # another one is about to take its place anyway
                listening, failed = trio.Event(), trio.Event()
                self._keepers.start_soon(self._keep, slot, listening, old, failed)
                await _either(listening, failed, self._stopping)
                if not listening.is_set():
                    log.error("no new worker could start; keeping the old ones", node=old.node)
                    break
                old.send_signal(signal.SIGHUP)
                with trio.move_on_after(
                    self._settings.drain.timeout + self._settings.shutdown_timeout + _GRACE
                ) as scope:
                    await old.ended.wait()
                if scope.cancelled_caught:
                    old.send_signal(signal.SIGKILL)
            else:
                log.info("all workers replaced")


async def _either(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
