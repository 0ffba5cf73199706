"""How a client finds its way to the nodes: what it knows of them, and the connection that can break."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import httpx
import trio

from gateway.auth.tokens import Authenticator
from gateway.client.transport import Address
from gateway.config.settings import AuthSettings

__all__ = ["Place", "Route", "View"]


class Place:
    """A node as clients know it."""

    def __init__(self, name: str, port: int, *, tls: bool) -> None:
        self.name = name
        self.port = port
        self.tls = tls
        self.ready = False

    @property
    def url(self) -> str:
        """Where REST is."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"


class View:
    """Both nodes; what is needed to talk to them."""

    def __init__(self, places: list[Place], secret: str, authority: str) -> None:
        """``authority``: the PEM of who signed the certificates."""
        self.places = places
        self.secret = secret
        self.authority = authority
        self.trust = ssl.create_default_context(cadata=authority)
        self._auth = Authenticator(AuthSettings(secret=secret))

    def token(self, org: str, user: str | None = None, *roles: str) -> str:
        """For the whole run."""
        return self._auth.issue(org=org, user=user, roles=list(roles), ttl=86400).token

    def to_json(self) -> dict[str, Any]:
        """For another process."""
        places = [{"name": each.name, "port": each.port, "tls": each.tls} for each in self.places]
        return {"places": places, "secret": self.secret, "authority": self.authority}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> View:
        """What ``to_json`` gave."""
        return cls([Place(**each) for each in found["places"]], found["secret"], found["authority"])


class Wire(trio.abc.Stream):
    """The TCP connection of one client: it can break, and its client can stop to read."""

    def __init__(self, stream: trio.SocketStream, reading: trio.Event) -> None:
        self._stream = stream
        self.reading = reading
        """Nothing is read while this is not set."""

    def cut(self, *, reset: bool = False) -> None:
        """Break it, with a reset (RFC 9293, section 3.5.3) or an end."""
        self.reading.set()
        with contextlib.suppress(OSError):  # it may have been closed
            if reset:
                self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._stream.socket.shutdown(socket.SHUT_RDWR)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self.reading.wait()
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("cut") from None

    async def wait_send_all_might_not_block(self) -> None:
        try:
            await self._stream.wait_send_all_might_not_block()
        except trio.ClosedResourceError:
            raise trio.BrokenResourceError("cut") from None

    async def aclose(self) -> None:
        await self._stream.aclose()


class Route:
    """Brings one client to its own node, or while that is away to the other."""

    def __init__(self, view: View, home: Place, *, buffer: int = 0) -> None:
        """``buffer``: bytes that the kernel takes before somebody reads; 0 is as usual."""
        self._view = view
        self._home = home
        self._buffer = buffer
        self.at: Place | None = None
        """Where it was brought last."""
        self.wire: Wire | None = None
        self.reading = trio.Event()
        self.reading.set()

    @property
    def away(self) -> bool:
        """It is not where it belongs, and could be."""
        return self.at is not self._home and self._home.ready

    def pick(self) -> Place:
        """A node that is ready; raises OSError when there is none."""
        for node in (self._home, *self._view.places):
            if node.ready:
                self.at = node
                return node
        raise OSError("no node is ready")

    async def dial(self, address: Address) -> trio.abc.Stream:
        """Open the byte stream below a WebSocket."""
        node = self.pick()
        sock = trio.socket.socket()
        if self._buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._buffer)
        try:
            await sock.connect(("127.0.0.1", node.port))
        except BaseException:
            sock.close()
            raise
        self.reading.set()
        self.wire = Wire(trio.SocketStream(sock), self.reading)
        if not node.tls:
            return self.wire
        secure = trio.SSLStream(
            self.wire, self._view.trust, server_hostname="127.0.0.1", https_compatible=True
        )
        try:
            await secure.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(self.wire)
            raise
        return secure

    def http(self) -> RoutedHttp:
        """The same for requests."""
        return RoutedHttp(self.pick, lambda: httpx.AsyncHTTPTransport(verify=self._view.trust))


class RoutedHttp(httpx.AsyncBaseTransport):
    """Sends each request to the node that is chosen then."""

    def __init__(self, pick: Callable[[], Place], make: Callable[[], httpx.AsyncHTTPTransport]) -> None:
        self._pick = pick
        self._make = make
        self._used: httpx.AsyncHTTPTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> Any:
        try:
            node = self._pick()
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        request.url = request.url.copy_with(scheme="https" if node.tls else "http", port=node.port)
        if self._used is None:  # closed, and used again by the next connection
            self._used = self._make()
        return await self._used.handle_async_request(request)

    async def aclose(self) -> None:
        used, self._used = self._used, None
        if used is not None:
            await used.aclose()
