"""One port: accepts sockets, reads each request head, and gives the connection to whom it is for.

``GET /ws`` goes to the WebSocket side, paths that were named with ``streams`` to their handlers, everything
else, untouched, to HTTP. A peer has
``head_timeout`` seconds for the TLS handshake and its whole head, and ``head_bytes`` of room;
a silent peer, a byte a second, or 100 kB of head cost no more than that. While it waits for the place of a
handshake its time stands still, for as long again at most.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import trio

from gateway.wire.newcomers import Newcomers
from gateway.wire.sockets import bind
from gateway.wire.tls import Handshakes, TlsSocket, TlsStream
from gateway.wire.upgrade import (
    Refusal,
    Request,
    UpgradeRequest,
    parse_request,
    parse_upgrade,
    refusal_response,
)

__all__ = ["Accepted", "HttpHandler", "Life", "Listener", "StreamHandler", "WebSocketHandler"]

log = logging.getLogger(__name__)

_CHUNK: Final = 65536
_FAREWELL: Final = 0.5
"""Seconds for the answer to a connection that is one too many."""
_LATE: Final = 1.0
"""Seconds for the answer to a connection whose request did not come in time."""
_BACKLOG: Final = 4096
_NO_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(slots=True)
class Accepted:
    """One accepted connection: ``sock``, plain or TLS, or a ``stream`` in memory."""

    peer: str
    """The peer's IP address."""
    sock: socket.socket | TlsSocket | None = None
    stream: trio.abc.Stream | None = None

    async def receive(self) -> bytes:
        """The next chunk; empty at the end."""
        if self.stream is not None:
            return bytes(await self.stream.receive_some(_CHUNK))
        assert self.sock is not None
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            try:
                return self.sock.recv(_CHUNK)
            except BlockingIOError:
                continue

    def receive_now(self) -> bytes | None:
        """As :meth:`receive`, without waiting: None where that would be needed."""
        if self.sock is None:
            return None
        try:
            return self.sock.recv(_CHUNK)
        except BlockingIOError:
            return None

    def send_now(self, data: bytes) -> bytes:
        """Send without waiting; returns what is left."""
        if self.sock is None:
            return data
        try:
            return data[self.sock.send(data) :]
        except BlockingIOError:
            return data

    async def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        if self.stream is not None:
            await self.stream.send_all(data)
            return
        assert self.sock is not None
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    def as_stream(self) -> trio.abc.Stream:
        """The connection as a Trio stream, which owns the socket from now on."""
        if self.stream is not None:
            return self.stream
        if isinstance(self.sock, TlsSocket):
            return TlsStream(self.sock)
        assert self.sock is not None
        return trio.SocketStream(trio.socket.from_stdlib_socket(self.sock))

    async def finish(self) -> None:
        """Half-close and read what still comes, so that our answer is not lost to a reset."""
        if self.sock is not None:
            self.sock.shutdown(socket.SHUT_WR)
        for _ in range(64):
            if not await self.receive():
                return

    async def close(self) -> None:
        """Close at once; may be called again."""
        if self.sock is not None:
            self.sock.close()
        if self.stream is not None:
            await trio.aclose_forcefully(self.stream)


Life = Awaitable[bytes | None]
"""Serves a connection, to be awaited at once: until it has ended, or until another request follows, of which
it returns what has come (nothing, perhaps). None says that the connection is to be closed."""
WebSocketHandler = Callable[[Accepted, UpgradeRequest, bytes], Awaitable[Life]]
"""Takes in one upgrade request, given what came behind its head; raises Refusal, or returns what goes on."""
StreamHandler = Callable[[Accepted, Request], Awaitable[Life]]
"""Takes in one GET request; raises Refusal, or returns the rest."""
HttpHandler = Callable[[trio.abc.Stream, bytes], Awaitable[bytes | None]]
"""Serves one HTTP connection, given what was read of it; returns the bytes of a later upgrade, if any."""


class Door(Protocol):
    """Counts the connections of each peer."""

    def enter(self, peer: str) -> bool:
        """One more; False when it is to be refused."""

    def leave(self, peer: str) -> None:
        """One less."""


class Listener:
    """The listening sockets of one node and the tasks of every connection that came through them."""

    def __init__(
        self,
        *,
        websocket: WebSocketHandler,
        http: HttpHandler | None,
        streams: Mapping[str, StreamHandler] | None = None,
        path: str | None = "/ws",
        head_bytes: int = 16384,
        head_timeout: float = 10.0,
        keep_alive: float = 75.0,
        max_connections: int = 100_000,
        door: Door | None = None,
        ssl_context: ssl.SSLContext | None = None,
        newcomers: Newcomers | None = None,
    ) -> None:
        """``path`` is where WebSockets live; None takes upgrades on all paths, without an HTTP side.

        ``streams``: path → who answers a GET of it. Behind such an answer the next request has ``keep_alive``
        seconds to come.
        """
        self._websocket = websocket
        self._http = http
        absolute = rb"(?:[Hh][Tt][Tt][Pp][Ss]?://[^/ ?]*)?"
        self._ours = re.compile(
            rb"[A-Z]{1,16} " + (b"" if path is None else absolute + re.escape(path.encode()) + rb"[ ?]")
        )
        self._streams = dict(streams or {})
        paths = b"|".join(re.escape(each.encode()) for each in self._streams) or rb"(?!)"
        self._stream = re.compile(rb"GET " + absolute + rb"(?:" + paths + rb")[ ?]")
        self._head_bytes = head_bytes
        self._head_timeout = head_timeout
        self._keep_alive = keep_alive
        self._max_connections = max_connections
        self._newcomers = newcomers or Newcomers()
        self._handshakes = None if ssl_context is None else Handshakes(ssl_context, newcomers=self._newcomers)
        self._door = door
        self._sockets: list[socket.socket] = []
        self._accepting = trio.CancelScope()
        self._asking: set[trio.CancelScope] = set()
        """One for each connection on which no request is in hand."""
        self._ending = False
        self.open = 0
        self.refused = 0
        self.port = 0

    async def bind(self, host: str, port: int, *, shared: bool = False) -> None:
        """Open listening sockets, beside those of an earlier call; raises OSError.

        ``shared``: other processes may listen there, too.
        """
        self._sockets += await bind(host, port, shared=shared)
        for sock in self._sockets:
            sock.listen(_BACKLOG)
        self.port = self._sockets[0].getsockname()[1]

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections go on."""
        self._accepting.cancel()

    def end(self) -> None:
        """Stop accepting, and close the connections on which nothing was asked (yet)."""
        self.stop_accepting()
        self._ending = True
        for scope in self._asking:
            scope.cancel()

    async def run(self) -> None:
        """Serve until :meth:`stop_accepting` was called and every connection has ended."""
        async with trio.open_nursery() as connections:
            try:
                with self._accepting:
                    async with trio.open_nursery() as nursery:
                        for sock in self._sockets:
                            nursery.start_soon(self._accept, sock, connections)
            finally:
                self.close()

    def close(self) -> None:
        """Close the listening sockets, also those of a listener that never ran."""
        for sock in self._sockets:
            sock.close()

    async def _accept(self, sock: socket.socket, connections: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            # A slice of a storm: the connections just accepted get their turn in between.
            for _ in range(16):
                try:
                    accepted, address = sock.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _NO_RESOURCES:
                        log.error("cannot accept a connection: %s", error)
                        await trio.sleep(0.1)
                    break
                accepted.setblocking(False)
                self.open += 1
                connections.start_soon(self.serve, Accepted(str(address[0]), accepted))

    async def serve(self, connection: Accepted) -> None:
        """Serve one connection, which is counted in ``open``, until it has ended, and close it."""
        admitted = self._door is None or self._door.enter(connection.peer)
        try:
            if not admitted or self.open > self._max_connections:
                await self._turn_away(connection, admitted)
                return
            life = await self._receive(connection, None)
            while life is not None and (unread := await life) is not None:
                life = await self._receive(connection, unread)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer went away
        except* Exception:
            log.exception("a connection failed")
        finally:
            self.open -= 1
            if self._door is not None:
                self._door.leave(connection.peer)
            await connection.close()

    async def _turn_away(self, connection: Accepted, admitted: bool) -> None:
        """Refuse a connection that is one too many before anything is read of it."""
        self.refused += 1
        if self._handshakes is not None:
            return  # an answer would cost a handshake
        detail = "this node is full" if admitted else "this address has too many connections"
        with trio.move_on_after(_FAREWELL):
            await connection.send(refusal_response(Refusal(503, detail, code=402, retry_after=1.0)))
            await connection.finish()

    async def _receive(self, connection: Accepted, earlier: bytes | None) -> Life | None:
        """Answer requests until one is upgraded; returns the rest of that one's life.

        What is only of use until then (the request, its deadline) goes before that begins. ``earlier`` is
        what was read behind an answer; None for a new connection.
        """
        try:
            head, unread = await self._ask(connection, earlier)
            while not self._ours.match(head) and not self._stream.match(head):
                assert self._http is not None
                upgrade = await self._http(connection.as_stream(), head + unread)
                if upgrade is None:
                    return None
                head, unread = await self._ask(connection, upgrade)
            await self._newcomers.upgrade()
            if self._stream.match(head):
                plain = parse_request(head, max_bytes=self._head_bytes)
                if unread and plain.mark:
                    plain = replace(plain, mark=b"")  # what was sent behind it is dropped
                return await self._streams[plain.path](connection, plain)
            request = parse_upgrade(head, max_bytes=self._head_bytes)
            return await self._websocket(connection, request, unread)
        except Refusal as refusal:
            self.refused += 1
            late = refusal.status == 408
            with trio.move_on_after(_LATE if late else self._head_timeout):
                await connection.send(refusal_response(refusal))
                if not late:
                    await connection.finish()
        return None

    async def _ask(self, connection: Accepted, data: bytes | None) -> tuple[bytes, bytes]:
        """As :meth:`_read_head`, behind the TLS handshake; until :meth:`end`. None: a new connection.

        Raises ``Refusal`` 408 when it takes longer than ``head_timeout``, ClosedResourceError when a later
        request takes longer than ``keep_alive``.
        """
        timeout = self._head_timeout if data is None else self._keep_alive
        with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
            self._asking.add(scope)
            if self._ending:
                scope.cancel()
            try:
                if self._handshakes is not None and isinstance(connection.sock, socket.socket):
                    connection.sock = await self._handshakes.secure(connection.sock, connection.peer, scope)
                return await self._read_head(connection, data or b"")
            finally:
                self._asking.discard(scope)
        if self._ending or data is not None:
            raise trio.ClosedResourceError
        raise Refusal(408, "the request head took too long")

    async def _read_head(self, connection: Accepted, data: bytes) -> tuple[bytes, bytes]:
        """One request head and what came behind it; ``data`` was read before."""
        data = data or connection.receive_now() or b""  # it comes with the connection, or right behind
        while True:
            end = data.find(b"\r\n\r\n")
            if 0 <= end <= self._head_bytes - 4:
                return data[: end + 4], data[end + 4 :]
            if end >= 0 or len(data) > self._head_bytes:
                raise Refusal(431, f"the request head is limited to {self._head_bytes} bytes")
            if data and not _may_be_http(data):
                raise Refusal(400, "this is not HTTP")
            chunk = await connection.receive()
            if not chunk:
                raise trio.BrokenResourceError
            data += chunk


_REQUEST_LINE: Final = re.compile(rb"[A-Z]{1,16}( [!-~]*( (H(T(T(P(/.*)?)?)?)?)?)?)?\Z", re.DOTALL)


def _may_be_http(data: bytes) -> bool:
    """Tell garbage from a request line that may still grow (RFC 9112, section 3)."""
    line = data.partition(b"\r\n")[0]
    return _REQUEST_LINE.match(line) is not None
