"""WebSockets on Trio, by trio-websocket, which nothing else in the client touches.

What is done here about trio-websocket 0.12:

- A cancelled send leaves half a frame on the wire. Only one task sends, and a socket that was
  left in the middle of a send is dropped without a closing handshake.
- Its reader task would end with the caller's cancellation, and then no closing handshake can
  finish. It runs shielded, and ends when this module says so.
- Whatever that task raises (also for what the peer did) would bring down the whole nursery. It is
  caught and becomes the reason why the socket is closed.
- Opening and closing have no deadline of their own; they are bounded by the caller and here.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import cast

import anyio.abc
import trio
from trio_websocket import ConnectionClosed as WsClosed
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

from gateway.client.errors import ConnectionFailed
from gateway.client.transport import Address, Asked, SocketClosed, dial_failed, refused

__all__ = ["Dial", "TrioSocket", "TrioSockets", "tcp_dial"]

Dial = Callable[["Address"], Awaitable[trio.abc.Stream]]
"""Opens the byte stream below the WebSocket; raises OSError or trio.BrokenResourceError."""

_RECEIVE_BYTES = 65536


def tcp_dial(ssl_context: ssl.SSLContext | None = None) -> Dial:
    """Dial over TCP, with TLS where the address says so (default: the system's certificates)."""

    async def dial(address: Address) -> trio.abc.Stream:
        stream = await trio.open_tcp_stream(address.host, address.port)
        if not address.tls:
            return stream
        secure = trio.SSLStream(
            stream,
            ssl_context or ssl.create_default_context(),
            server_hostname=address.host,
            https_compatible=True,
        )
        try:
            # Now, because trio-websocket would swallow the reason of a failure.
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secure

    return dial


class _Watched(trio.abc.Stream):
    """Notes when the last bytes came in: pings, which trio-websocket hides, are signs of life too."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.last_received = trio.current_time()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self.last_received = trio.current_time()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _ReaderTask:
    """Stands where trio-websocket wants a nursery, for the one task that it starts there."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self.scope = trio.CancelScope(shield=True)
        self.handshake = trio.CancelScope()
        self.error: Exception | None = None

    def start_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        self._tasks.start_soon(self._run, function)

    async def _run(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            with self.scope:
                await function()
        except Exception as error:
            self.error = error
        finally:
            # A reader that ended before the handshake did leaves it waiting for ever.
            self.handshake.cancel()


class TrioSocket:
    """An open WebSocket that speaks one subprotocol. One task may send, and one receive."""

    def __init__(
        self, ws: WebSocketConnection, stream: _Watched, reader: _ReaderTask, *, binary: bool
    ) -> None:
        self._ws = ws
        self._stream = stream
        self._reader = reader
        self._binary = binary
        self._sending = False

    @property
    def last_received(self) -> float:
        """Trio's time at which anything last came in."""
        return self._stream.last_received

    async def send(self, payload: bytes) -> None:
        """Send one message. A cancelled send ends the connection. Raises :class:`SocketClosed`."""
        self._sending = True
        try:
            await self._ws.send_message(payload if self._binary else payload.decode())
        except (WsClosed, LocalProtocolError):
            raise self._closed() from None
        self._sending = False

    async def receive(self) -> bytes:
        """Wait for one message. Raises :class:`SocketClosed`."""
        try:
            message = await self._ws.get_message()
        except WsClosed:
            raise self._closed() from self._reader.error
        if isinstance(message, bytes) != self._binary:
            raise SocketClosed(1003, "the gateway sent text for binary, or binary for text")
        return message if isinstance(message, bytes) else message.encode()

    async def aclose(self, code: int, timeout: float) -> None:
        """Close with ``code``, also when cancelled; the handshake gets at most ``timeout`` seconds."""
        try:
            if not self._sending:
                with trio.move_on_after(timeout, shield=True):
                    await self._ws.aclose(code)
        finally:
            self._reader.scope.cancel()
            await trio.aclose_forcefully(self._stream)

    def _closed(self) -> SocketClosed:
        reason = self._ws.closed
        if reason is None or reason.code == 1006:
            return SocketClosed(1006, "the connection broke")
        return SocketClosed(reason.code, reason.reason or "")


class TrioSockets:
    """Opens WebSockets on Trio; see :class:`~gateway.client.transport.Sockets`."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial

    async def open(self, tasks: anyio.abc.TaskGroup, asked: Asked) -> TrioSocket:
        """Connect and upgrade."""
        address = asked.address
        try:
            stream = _Watched(await self._dial(address))
        except (OSError, trio.BrokenResourceError) as error:
            cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else None
            raise dial_failed(address, cause or error) from error
        reader = _ReaderTask(tasks)
        try:
            with reader.handshake:
                ws = await wrap_client_stream(
                    cast(trio.Nursery, reader),
                    cast(trio.SocketStream, stream),
                    address.authority,
                    address.resource,
                    subprotocols=[asked.subprotocol],
                    extra_headers=[(name.encode(), value.encode()) for name, value in asked.headers.items()],
                    max_message_size=asked.max_message_bytes,
                    receive_buffer_size=_RECEIVE_BYTES,
                )
            if reader.handshake.cancelled_caught:
                raise _handshake_failed(address, reader.error)
            if ws.subprotocol != asked.subprotocol:
                raise ConnectionFailed(f"the server does not speak {asked.subprotocol}", retry=False)
        except BaseException:
            reader.scope.cancel()
            await trio.aclose_forcefully(stream)
            raise
        return TrioSocket(ws, stream, reader, binary=asked.binary)


def _handshake_failed(address: Address, error: Exception | None) -> Exception:
    if not isinstance(error, ConnectionRejected):
        why = error or "the connection was closed"
        failed = ConnectionFailed(f"no WebSocket handshake with {address.authority}: {why}")
        failed.__cause__ = error
        return failed
    headers = {name.lower(): value.decode("latin-1") for name, value in error.headers}
    return refused(address, error.status_code, error.body or b"", headers.get(b"retry-after"))
