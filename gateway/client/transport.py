"""One WebSocket on trio-websocket, which nothing else in the client touches.

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

import http
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec
import trio
from trio_websocket import ConnectionClosed as WsClosed
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import LocalProtocolError

from gateway.client.errors import ConnectionFailed, ConnectionRefused

__all__ = ["Address", "Dial", "SocketClosed", "Transport", "open_transport", "parse_url", "tcp_dial"]

Dial = Callable[["Address"], Awaitable[trio.abc.Stream]]
"""Opens the byte stream below the WebSocket; raises OSError or trio.BrokenResourceError."""

_RECEIVE_BYTES = 65536
_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Address:
    """Where the gateway is."""

    host: str
    port: int
    resource: str
    tls: bool

    @property
    def authority(self) -> str:
        """The Host header (RFC 9110, section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def parse_url(url: str) -> Address:
    """Understand ``ws://``, ``wss://``, ``http://`` and ``https://``; without a path it is ``/ws``.

    Raises ValueError for anything else.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
        raise ValueError(f"not the address of a gateway, such as ws://127.0.0.1:8000/ws: {url!r}")
    tls = parts.scheme in ("wss", "https")
    path = parts.path if parts.path not in ("", "/") else "/ws"
    resource = f"{path}?{parts.query}" if parts.query else path
    return Address(parts.hostname, parts.port or (443 if tls else 80), resource, tls)


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


class SocketClosed(Exception):
    """The WebSocket is closed; 1006 when there was no Close frame (RFC 6455, section 7.1.5)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


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

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.scope = trio.CancelScope(shield=True)
        self.handshake = trio.CancelScope()
        self.error: Exception | None = None

    def start_soon(self, function: Callable[[], Awaitable[object]]) -> None:
        self._nursery.start_soon(self._run, function)

    async def _run(self, function: Callable[[], Awaitable[object]]) -> None:
        try:
            with self.scope:
                await function()
        except Exception as error:
            self.error = error
        finally:
            # A reader that ended before the handshake did leaves it waiting for ever.
            self.handshake.cancel()


class Transport:
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


async def open_transport(
    nursery: trio.Nursery,
    address: Address,
    *,
    dial: Dial,
    subprotocol: str,
    binary: bool,
    headers: dict[str, str],
    max_message_bytes: int,
) -> Transport:
    """Connect and upgrade; one task lives in ``nursery`` until ``aclose``. Has no deadline of its own.

    Raises :class:`ConnectionRefused` or :class:`ConnectionFailed`.
    """
    try:
        stream = _Watched(await dial(address))
    except (OSError, trio.BrokenResourceError) as error:
        raise _dial_failed(address, error) from error
    reader = _ReaderTask(nursery)
    try:
        with reader.handshake:
            ws = await wrap_client_stream(
                cast(trio.Nursery, reader),
                cast(trio.SocketStream, stream),
                address.authority,
                address.resource,
                subprotocols=[subprotocol],
                extra_headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                max_message_size=max_message_bytes,
                receive_buffer_size=_RECEIVE_BYTES,
            )
        if reader.handshake.cancelled_caught:
            raise _handshake_failed(address, reader.error)
        if ws.subprotocol != subprotocol:
            raise ConnectionFailed(f"the server does not speak {subprotocol}", retry=False)
    except BaseException:
        reader.scope.cancel()
        await trio.aclose_forcefully(stream)
        raise
    return Transport(ws, stream, reader, binary=binary)


def _dial_failed(address: Address, error: Exception) -> ConnectionFailed:
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    # A certificate does not become valid by trying again.
    retry = not isinstance(cause, ssl.SSLCertVerificationError)
    return ConnectionFailed(f"cannot connect to {address.authority}: {cause or error}", retry=retry)


def _handshake_failed(address: Address, error: Exception | None) -> Exception:
    if not isinstance(error, ConnectionRejected):
        why = error or "the connection was closed"
        failed = ConnectionFailed(f"no WebSocket handshake with {address.authority}: {why}")
        failed.__cause__ = error
        return failed
    headers = {name.lower(): value for name, value in error.headers}
    return ConnectionRefused(
        error.status_code,
        _reason(error.status_code, error.body or b""),
        retry_after=_seconds(headers.get(b"retry-after", b"")),
        address=address.authority,
    )


def _reason(status: int, body: bytes) -> str:
    """The ``detail`` of a problem document (RFC 9457), or the text of the body, or the status' own name."""
    try:
        problem: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        problem = None
    if isinstance(problem, dict):
        text = problem.get("detail") or problem.get("title")
        if isinstance(text, str):
            return text[:_REASON_CHARACTERS]
    text = " ".join(body.decode(errors="replace").split())
    if text:
        return text[:_REASON_CHARACTERS]
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "no reason was given"


def _seconds(header: bytes) -> float | None:
    """Retry-After in seconds; one that names a date is not used."""
    return float(header) if header.isdigit() else None
