"""One task that waits for all sockets: the shared readiness of every reader.

The obvious reader is a task that calls ``trio.lowlevel.wait_readable`` and then ``recv``.
Each such wait costs an ``epoll_ctl``, a trap into the scheduler and a task switch, about
10 µs, which is more than decoding and answering a command takes. So the sockets of all
connections stand in one epoll instance of ours, level-triggered and registered once; that
instance is itself a file descriptor, and one task waits for *it* with ``wait_readable``.
When it wakes, it reads every socket that has something, handles the messages on the spot,
flushes, and goes back to wait. One wait then serves all sockets that became readable
meanwhile: the busier the gateway, the cheaper each read.

The readers stay what they are, tasks in their connection's nursery: a reader arms its
socket here and sleeps until there is something for which it is needed (a command that has to
wait, a frame for the slow lane, the end). Errors of one connection are contained in its
``on_readable``. Fairness: at most ``_BATCH`` sockets and one read each per turn, and the
kernel's ready list rotates.

Needs ``select.epoll`` (Linux). Elsewhere, and for streams that are not plain sockets, the
reader task waits by itself: :meth:`Pump.create` then returns None.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

import trio

from gateway.wire.outbox import Flusher

__all__ = ["Pump"]

_BATCH: Final = 64
_TURN: Final = 0.002
"""Seconds of reading before other tasks get their turn."""


class Pump:
    """Watches plain sockets and calls back when they are readable."""

    def __init__(self, flusher: Flusher) -> None:
        if sys.platform != "linux":
            raise RuntimeError("the pump needs epoll")
        self._flusher = flusher
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    @classmethod
    def create(cls, flusher: Flusher) -> Pump | None:
        """Return a pump, or None where the platform has no epoll."""
        return cls(flusher) if sys.platform == "linux" else None

    def __len__(self) -> int:
        return len(self._callbacks)

    def arm(self, sock: socket.socket, on_readable: Callable[[], None]) -> None:
        """Call ``on_readable``, which must not raise, whenever ``sock`` can be read or has ended."""
        fd = sock.fileno()
        self._callbacks[fd] = on_readable
        self._epoll.register(fd, select.EPOLLIN)

    def disarm(self, sock: socket.socket) -> None:
        """Stop watching ``sock``; nothing happens if it is not watched."""
        fd = sock.fileno()
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Serve until cancelled."""
        poll = self._epoll.poll
        callbacks = self._callbacks
        flush = self._flusher.flush
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                deadline = time.perf_counter() + _TURN
                while events := poll(0, _BATCH):
                    for fd, _mask in events:
                        # A callback may disarm other sockets of the same batch.
                        on_readable = callbacks.get(fd)
                        if on_readable is not None:
                            on_readable()
                    flush()
                    if time.perf_counter() > deadline:
                        break
        finally:
            self._epoll.close()
            callbacks.clear()
