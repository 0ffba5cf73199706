"""The peers that act out a plan: one in memory, one on a socket, with TLS or without."""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
from dataclasses import dataclass, field

import trio

from tests.fuzz.plan import Plan

__all__ = ["Heard", "MemoryPeer", "act_on_socket", "act_over_tls"]


LONG = 30.0
"""Seconds of silence after which a peer may count as dead: the heartbeat."""


@dataclass
class Heard:
    """What came back, and who ended the connection."""

    data: bytearray = field(default_factory=bytearray)
    said_last: float = 0.0
    silent_until: float = -math.inf
    """When it spoke again after a silence in which it may have counted as dead."""
    """When the peer sent its last byte."""
    ended: float = math.inf
    """When the gateway ended the connection; infinite while it has not."""
    all_said: bool = False
    """The gateway took everything that the peer had to say."""
    left: bool = False
    """The peer ended its side, or was gone."""


class _NoSocket:
    family = socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    getsockname = getpeername


class MemoryPeer(trio.abc.HalfCloseableStream):
    """The gateway's end of a connection whose other end acts out ``plan``."""

    socket = _NoSocket()

    def __init__(self, plan: Plan) -> None:
        self.heard = Heard(said_last=trio.current_time())
        self._plan = plan
        self._next = 0
        self._rest = b""
        self._closed = trio.Event()
        self._broken = False
        self._receiving = False
        self._sending = False
        self._deaf_until = math.inf

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._receiving:
            raise trio.BusyResourceError("two tasks receive")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            return await self._receive(max_bytes or 65536)
        finally:
            self._receiving = False

    async def _receive(self, max_bytes: int) -> bytes:
        self._check()
        plan = self._plan
        if not self._rest and self._next < len(plan.pieces):
            pause, piece = plan.pieces[self._next]
            if pause:
                await self._wait(pause)
            if pause >= LONG:
                self.heard.silent_until = trio.current_time()
            self._next += 1
            self._rest = piece
        if self._rest:
            piece, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
            self.heard.said_last = trio.current_time()
            self.heard.all_said = not self._rest and self._next == len(plan.pieces)
            return piece
        self.heard.all_said = True
        if plan.end == "stay":
            await self._wait(math.inf)
        self.heard.left = True
        if plan.end == "reset":
            self._broken = True
            raise trio.BrokenResourceError
        return b""

    async def _wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._closed.wait()
        self._check()

    def _check(self) -> None:
        if self._closed.is_set():
            raise trio.ClosedResourceError
        if self._broken:
            raise trio.BrokenResourceError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("two tasks send")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check()
            plan = self._plan
            if 0 <= plan.deaf_after <= len(self.heard.data):
                if self._deaf_until == math.inf and plan.deaf_for:
                    self._deaf_until = trio.current_time() + plan.deaf_for
                await self._wait(max(0.0, self._deaf_until - trio.current_time()))
            self.heard.data += data
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()

    async def aclose(self) -> None:
        self.heard.ended = min(self.heard.ended, trio.current_time())
        self._closed.set()
        await trio.lowlevel.checkpoint()


async def act_on_socket(plan: Plan, sock: socket.socket) -> Heard:
    """Act out ``plan`` on a plain socket, which is closed at the end."""
    return await _act(plan, trio.SocketStream(trio.socket.from_stdlib_socket(sock)))


async def act_over_tls(plan: Plan, sock: socket.socket, context: ssl.SSLContext) -> Heard:
    """Act out ``plan`` within TLS."""
    transport = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    stream = trio.SSLStream(transport, context, server_hostname="localhost", https_compatible=True)
    try:
        await stream.do_handshake()
    except trio.BrokenResourceError:
        return Heard(ended=trio.current_time())
    return await _act(plan, stream)


async def _act(plan: Plan, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> Heard:
    heard = Heard(said_last=trio.current_time())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_say, plan, stream, heard, nursery.cancel_scope)
            nursery.start_soon(_listen, plan, stream, heard)
    finally:
        await trio.aclose_forcefully(stream)
    return heard


async def _say(
    plan: Plan,
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
    heard: Heard,
    everything: trio.CancelScope,
) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for pause, piece in plan.pieces:
            # A moment between pieces has the gateway read each by itself.
            await trio.sleep(pause or 0.0001)
            if pause >= LONG:
                heard.silent_until = trio.current_time()
            heard.said_last = trio.current_time()
            await stream.send_all(piece)
        heard.all_said = True
        if plan.end == "eof":
            heard.left = True
            if isinstance(stream, trio.SSLStream):
                await stream.transport_stream.send_eof()
            else:
                await stream.send_eof()
        elif plan.end == "reset":
            heard.left = True
            everything.cancel()


async def _listen(plan: Plan, stream: trio.abc.ReceiveStream, heard: Heard) -> None:
    deaf = plan.deaf_after >= 0
    try:
        while True:
            if deaf and plan.deaf_after <= len(heard.data):
                await trio.sleep(plan.deaf_for or 300)
                deaf = False
            chunk = await stream.receive_some(65536)
            if not chunk:
                break
            heard.data += chunk
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    heard.ended = trio.current_time()
