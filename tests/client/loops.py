"""Both event loops for one suite: running a test on either, on a virtual clock if it wants one."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
import pytest
import sniffio
import trio
import trio.testing

__all__ = ["LOOPS", "Stream", "on_trio", "pair", "run", "settle"]

LOOPS = ("trio", "asyncio")

on_trio = pytest.mark.parametrize("loop", ["trio"], indirect=True)
"""For a test whose streams, or whose counting of tasks, are Trio's."""

_ROUNDS = 200
"""Turns of asyncio's loop in which whatever is under way, sockets included, has come to rest."""


class Stream(Protocol):
    """What a scripted gateway needs of a connection."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def send_all(self, data: bytes) -> None: ...

    async def aclose(self) -> None: ...


class SocketStream:
    """One end of a pair of sockets, on asyncio."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._sock, max_bytes or 65536)
        except OSError:
            return b""

    async def send_all(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        """Cut it; the socket itself is closed by :meth:`dispose`, when nobody reads any more."""
        await asyncio.sleep(0)
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def dispose(self) -> None:
        self._sock.close()


def pair() -> tuple[Any, Stream]:
    """What ``dial`` gives the client on the loop that runs here, and the gateway's end of it."""
    if sniffio.current_async_library() == "trio":
        client, server = trio.testing.memory_stream_pair()
        return client, server
    near, far = socket.socketpair()
    near.setblocking(False)
    return near, SocketStream(far)


async def settle() -> None:
    """Wait until nothing more happens by itself, without time going on."""
    if sniffio.current_async_library() == "trio":
        await trio.testing.wait_all_tasks_blocked()
        return
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)


class _JumpingSelector(selectors.DefaultSelector):
    """Where everything waits for time, lets that go on at once."""

    loop: _VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None:  # for a thread, or a socket of the system
            return super().select(0.05)
        self.loop.jump(timeout)
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    """As Trio's ``MockClock(autojump_threshold=0)``; begins at 0."""

    def __init__(self) -> None:
        self._now = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        due = self._scheduled[0].when() if self._scheduled else self._now + seconds  # exactly then
        self._now = max(self._now, min(due, self._now + seconds + 1e-6))


def run(loop: str, function: Callable[[], Awaitable[None]], clock: trio.testing.MockClock | None) -> None:
    """Run a test on ``loop``, in virtual time if there is a ``clock``."""
    options: dict[str, Any] = {}
    if clock is not None:
        options = {"clock": clock} if loop == "trio" else {"loop_factory": _VirtualLoop}
    try:
        anyio.run(function, backend=loop, backend_options=options)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
