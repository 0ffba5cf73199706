"""A raw HTTP/1.1 client and a small server, for what well-behaved clients do not do."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import h11
import msgspec
import trio

from gateway.testing.settings import make_settings
from gateway.wire.http import HttpServer

DEADLINE = 10.0


@dataclass
class Answer:
    """One whole HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    whole: bool = True

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class HttpPeer:
    """Sends bytes as they are, and reads whole answers."""

    stream: trio.abc.Stream
    _parser: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))

    async def send(self, data: bytes) -> None:
        with trio.fail_after(DEADLINE):
            await self.stream.send_all(data)

    async def answer(self, method: str = "GET") -> Answer | None:
        """The next answer; None when the server closed instead."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        if left := self._parser.trailing_data[0]:  # nothing would mean the end
            parser.receive_data(left)
        self._parser = parser
        found: Answer | None = None
        with trio.fail_after(DEADLINE):
            while True:
                try:
                    event = parser.next_event()
                except h11.RemoteProtocolError:  # the end came too early
                    if found is not None:
                        found.whole = False
                    return found
                if event is h11.NEED_DATA:
                    try:
                        parser.receive_data(await self.stream.receive_some(65536))
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        parser.receive_data(b"")
                elif isinstance(event, h11.Response):
                    names = {name.decode(): value.decode() for name, value in event.headers}
                    found = Answer(event.status_code, names)
                elif isinstance(event, h11.Data):
                    assert found is not None
                    found.body += event.data
                elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed) or event is h11.PAUSED:
                    return found

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        await self.send(data)
        answer = await self.answer(method)
        assert answer is not None, "the server closed the connection"
        return answer

    async def ended(self) -> bool:
        """Wait for the server to close; False when it sent something first."""
        with trio.fail_after(DEADLINE):
            try:
                return not await self.stream.receive_some(1)
            except trio.BrokenResourceError:
                return True


@contextlib.asynccontextmanager
async def http_peer(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[HttpPeer]:
    """A connection to a server on this machine."""
    stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_hostname="localhost", https_compatible=True)
    try:
        yield HttpPeer(stream)
    finally:
        await trio.aclose_forcefully(stream)


@dataclass
class TestServer:
    """An HttpServer behind a listening socket."""

    __test__ = False

    http: HttpServer
    port: int
    upgrades: list[bytes] = field(default_factory=list)
    served: int = 0
    """Calls of ``serve_stream`` that have returned."""
    nursery: trio.Nursery | None = None


App = Callable[[Any, Any, Any], Awaitable[None]]


@contextlib.asynccontextmanager
async def http_server(app: App, *, first: bytes = b"", **limits: Any) -> AsyncIterator[TestServer]:
    """Serve ``app``; ``first`` is handed over as already read of every connection."""
    shutdown = limits.pop("shutdown_timeout", 1.0)
    server = TestServer(HttpServer(app, make_settings(limits=limits, shutdown_timeout=shutdown)), 0)

    async def serve(stream: trio.SocketStream) -> None:
        left = await server.http.serve_stream(stream, first)
        server.served += 1
        if left is not None:
            server.upgrades.append(left)
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        server.nursery = nursery
        await nursery.start(server.http.run)
        listeners = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that reads the body and tells what it got."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    told = {
        "method": scope["method"],
        "path": scope["path"],
        "scheme": scope["scheme"],
        "client": scope["client"][0],
        "headers": sorted(name.decode() for name, _ in scope["headers"]),
        "size": len(body),
    }
    await respond(send, msgspec.json.encode(told))


async def watchful(scope: Any, receive: Any, send: Any) -> None:
    """As ``echo``, built as quart-trio is: a second task cancels the first once the client is done with."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    complete = trio.Event()

    async def watch(scope_: trio.CancelScope) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            if not message.get("more_body", False):
                complete.set()
        scope_.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        await complete.wait()
        await respond(send, b"{}")
        nursery.cancel_scope.cancel()


async def lifespan(receive: Any, send: Any) -> None:
    """What an application does that needs no start and no end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def respond(send: Any, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
