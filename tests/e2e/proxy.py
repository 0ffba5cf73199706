"""A proxy that does what proxies do: refuses WebSockets, cuts streams, blocks everything, falls silent."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

import trio

from gateway.testing.server import Server

__all__ = ["Proxy", "in_front_of"]

_UPGRADE: Final = re.compile(rb"^upgrade: *websocket", re.IGNORECASE | re.MULTILINE)
_CONNECTION: Final = re.compile(rb"^connection:.*\r\n", re.IGNORECASE | re.MULTILINE)
_REFUSAL: Final = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Looks at each connection's one request. Its public fields may be set from any thread."""

    def __init__(self, target: str) -> None:
        self.websocket = True
        self.streams = True
        self.everything = True
        """Whether these get through."""
        self.period: float | None = None
        """Seconds after which a stream is cut off."""
        self.asked: list[str] = []
        """The paths that were asked for."""
        self.cuts = 0
        """Streams that were cut off after the period."""
        self.port = 0
        self.started = trio.Event()
        self._host, self._port = urlsplit(target).hostname or "", urlsplit(target).port or 0
        self._open: dict[trio.CancelScope, str] = {}
        self._flowing = trio.Event()
        self._flowing.set()

    @property
    def origin(self) -> str:
        """Where pages find it."""
        return f"http://127.0.0.1:{self.port}"

    async def run(self) -> None:
        """Forward until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        self.started.set()
        await trio.serve_listeners(self._serve, listeners)

    def cut(self, path: str = "") -> None:
        """End all connections whose path begins so; in the proxy's loop."""
        for scope, asked in self._open.items():
            if asked.startswith(path):
                scope.cancel()

    def freeze(self) -> None:
        """Pass nothing on of the connections that are open, which stay open; in the proxy's loop."""
        self._flowing = trio.Event()

    def thaw(self) -> None:
        """Pass on again; in the proxy's loop."""
        self._flowing.set()

    async def _serve(self, near: trio.SocketStream) -> None:
        async with near:
            head = await self._head(near) if self.everything else b""
            if not head:
                return
            path = urlsplit(head.split(b" ", 2)[1].decode()).path
            self.asked.append(path)
            upgrade = _UPGRADE.search(head) is not None
            stream = path.endswith("/stream")
            if (upgrade and not self.websocket) or (stream and not self.streams):
                await near.send_all(_REFUSAL)
                return
            if not upgrade:
                head = _CONNECTION.sub(b"", head).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            seconds = self.period if stream and self.period is not None else float("inf")
            with trio.move_on_after(seconds) as scope:
                self._open[scope] = path
                try:
                    await self._forward(near, head, scope)
                finally:
                    del self._open[scope]
            self.cuts += scope.cancelled_caught and stream and trio.current_time() >= scope.deadline

    async def _head(self, near: trio.SocketStream) -> bytes:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                chunk = await near.receive_some()
                if not chunk:
                    return b""
                head += chunk
        except trio.BrokenResourceError:
            return b""
        return head

    async def _forward(self, near: trio.SocketStream, head: bytes, scope: trio.CancelScope) -> None:
        async with await trio.open_tcp_stream(self._host, self._port) as far, trio.open_nursery() as nursery:
            await far.send_all(head)
            nursery.start_soon(self._copy, near, far, scope)
            nursery.start_soon(self._copy, far, near, scope)

    async def _copy(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        try:
            async for chunk in source:
                await self._flowing.wait()
                await sink.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


def in_front_of(server: Server) -> Proxy:
    """A proxy that runs as long as the server does, in its loop."""
    proxy = Proxy(server.url)
    server.run_sync(trio.lowlevel.spawn_system_task, proxy.run)
    server.run(proxy.started.wait)
    return proxy
