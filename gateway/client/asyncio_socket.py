"""WebSockets on asyncio, by ``websockets``, which nothing else in the client touches.

Used are its connection object and its handshake, not its ``connect``: that follows redirects, asks the
environment for proxies and has timeouts of its own, none of which the client on Trio has.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from gateway.client.errors import ConnectError, ConnectionFailed
from gateway.client.transport import Address, Asked, SocketClosed, dial_failed, refused

__all__ = ["AsyncioSocket", "AsyncioSockets", "Dial"]

Dial = Callable[[Address], Awaitable[socket.socket]]
"""Gives a connected socket; raises OSError. TLS comes on top where the address says so."""

_FRAMES = 16
"""Frames that wait unread; with more nothing is read from the socket."""
_ABNORMAL = 1006


class _Connection(ClientConnection):
    """Notes when the last bytes came in: pings are signs of life too."""

    def __init__(self, protocol: ClientProtocol) -> None:
        # The client has a heartbeat of its own, and its own deadline for closing.
        super().__init__(
            protocol, ping_interval=None, ping_timeout=None, close_timeout=None, max_queue=_FRAMES
        )
        self.last_received = self.loop.time()

    def data_received(self, data: bytes) -> None:
        self.last_received = self.loop.time()
        super().data_received(data)


class AsyncioSocket:
    """An open WebSocket that speaks one subprotocol. One task may send, and one receive."""

    def __init__(self, ws: _Connection, *, binary: bool) -> None:
        self._ws = ws
        self._binary = binary
        self._sending = False

    @property
    def last_received(self) -> float:
        """The loop's time at which anything last came in."""
        return self._ws.last_received

    async def send(self, payload: bytes) -> None:
        """Send one message. A cancelled send ends the connection. Raises :class:`SocketClosed`."""
        self._sending = True
        try:
            await self._ws.send(payload if self._binary else payload.decode())
        except ConnectionClosed as closed:
            raise _closed(closed) from None
        self._sending = False

    async def receive(self) -> bytes:
        """Wait for one message. Raises :class:`SocketClosed`."""
        try:
            message = await self._ws.recv()
        except ConnectionClosed as closed:
            raise _closed(closed) from closed.__cause__
        if isinstance(message, bytes) != self._binary:
            raise SocketClosed(1003, "the gateway sent text for binary, or binary for text")
        return message if isinstance(message, bytes) else message.encode()

    async def aclose(self, code: int, timeout: float) -> None:
        """Close with ``code``, also when cancelled; the handshake gets at most ``timeout`` seconds."""
        try:
            if not self._sending:
                with anyio.move_on_after(timeout, shield=True):
                    await self._ws.close(code)
        finally:
            await _abort(self._ws)


class AsyncioSockets:
    """Opens WebSockets on asyncio; see :class:`~gateway.client.transport.Sockets`."""

    def __init__(self, dial: Dial | None, ssl_context: ssl.SSLContext | None) -> None:
        """Without ``dial`` it is TCP; ``ssl_context`` takes the place of the system's certificates."""
        self._dial = dial
        self._ssl_context = ssl_context

    async def open(self, tasks: anyio.abc.TaskGroup, asked: Asked) -> AsyncioSocket:
        """Connect and upgrade; nothing is started in ``tasks``."""
        address = asked.address
        try:
            ws = await self._connect(address, asked)
        except OSError as error:
            raise dial_failed(address, error) from error
        try:
            # The handshake says what it needs; of other headers it must know the name only.
            await ws.handshake(asked.headers, user_agent_header=None)
            if ws.subprotocol != asked.subprotocol:
                raise ConnectionFailed(f"the server does not speak {asked.subprotocol}", retry=False)
        except (InvalidHandshake, InvalidMessage, EOFError, OSError) as error:
            await _abort(ws)
            raise _handshake_failed(address, error) from error
        except BaseException:
            await _abort(ws)
            raise
        return AsyncioSocket(ws, binary=asked.binary)

    async def _connect(self, address: Address, asked: Asked) -> _Connection:
        scheme = "wss" if address.tls else "ws"
        uri = parse_uri(f"{scheme}://{address.authority}{address.resource}")

        def factory() -> _Connection:
            return _Connection(
                ClientProtocol(
                    uri,
                    subprotocols=[Subprotocol(asked.subprotocol)],
                    max_size=asked.max_message_bytes,
                )
            )

        options: dict[str, Any] = {}
        if address.tls:
            options["ssl"] = self._ssl_context or ssl.create_default_context()
            options["server_hostname"] = address.host
        loop = asyncio.get_running_loop()
        if self._dial is None:
            _, ws = await loop.create_connection(factory, address.host, address.port, **options)
            return ws
        sock = await self._dial(address)
        try:
            _, ws = await loop.create_connection(factory, sock=sock, **options)
        except BaseException:
            sock.close()
            raise
        return ws


async def _abort(ws: _Connection) -> None:
    """Drop the connection, and wait until its socket is gone."""
    ws.transport.abort()
    with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
        await asyncio.wait([ws.connection_lost_waiter])


def _closed(error: ConnectionClosed) -> SocketClosed:
    """What the peer said; or what was sent because of what it did; or that it broke."""
    said = error.rcvd or (error.sent if error.__cause__ is not None else None)
    if said is None or said.code == _ABNORMAL:
        return SocketClosed(_ABNORMAL, "the connection broke")
    return SocketClosed(said.code, said.reason)


def _handshake_failed(address: Address, error: Exception) -> ConnectError:
    if isinstance(error, InvalidStatus):
        answer = error.response
        return refused(
            address, answer.status_code, bytes(answer.body or b""), answer.headers.get("Retry-After")
        )
    return ConnectionFailed(f"no WebSocket handshake with {address.authority}: {error.__cause__ or error}")
