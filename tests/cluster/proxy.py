"""A TCP proxy that misbehaves when told to: it stands between a node and its broker."""

from __future__ import annotations

import socket
import struct

import trio

__all__ = ["Proxy"]

_CHUNK = 65536


class Proxy:
    """Passes bytes between whoever connects to ``port`` and 127.0.0.1:``target``; :meth:`run` it."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.cuts = 0
        """Connections that were cut under an answer."""
        self._open = trio.Event()
        self._open.set()
        self._refusing = False
        self._swallowing = 0
        self._streams: set[trio.SocketStream] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._serve, [listener])
            task_status.started()

    def stall(self) -> None:
        """Hold everything back, in both directions; connections stay, and can be made."""
        self._open = trio.Event()

    def refuse(self) -> None:
        """Reset all connections, and new ones at once."""
        self._refusing = True
        for stream in self._streams:
            _reset(stream)

    def cut_under_answers(self, count: int) -> None:
        """On the next ``count`` connections where the broker answers: swallow that, and reset them."""
        self._swallowing = count

    @property
    def cutting(self) -> bool:
        """Some of those cuts are still to come."""
        return self._swallowing > 0

    def accept(self) -> None:
        """Take connections again."""
        self._refusing = False

    def mend(self) -> None:
        """Pass everything on again."""
        self._refusing = False
        self._open.set()

    async def _serve(self, node: trio.SocketStream) -> None:
        if self._refusing:
            _reset(node)
            await node.aclose()
            return
        try:
            broker = await trio.open_tcp_stream("127.0.0.1", self.target)
        except OSError:
            _reset(node)
            await node.aclose()
            return
        async with node, broker:
            self._streams |= {node, broker}
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass, node, broker, False, nursery.cancel_scope)
                    nursery.start_soon(self._pass, broker, node, True, nursery.cancel_scope)
            finally:
                self._streams -= {node, broker}

    async def _pass(
        self, source: trio.SocketStream, sink: trio.SocketStream, answers: bool, both: trio.CancelScope
    ) -> None:
        try:
            while chunk := await source.receive_some(_CHUNK):
                await self._open.wait()
                if answers and self._swallowing:
                    self._swallowing -= 1
                    self.cuts += 1
                    _reset(sink)
                    break
                await sink.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one side has gone; the other is to go, too
        both.cancel()


def _reset(stream: trio.SocketStream) -> None:
    """Close without a goodbye, so that what is under way is lost."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
