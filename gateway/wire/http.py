"""HTTP on one accepted stream, by hypercorn's Trio worker.

hypercorn accepts connections itself; here the listener does, because a WebSocket on the same
port goes another way. So its inner classes are used (``TCPServer``, ``H11Protocol``, ``Lifespan``,
``WorkerContext``), which are not documented and may change: the version is pinned, nothing else
of ours touches them, and ``tests/wire/test_http_contract.py`` checks the shapes relied upon.

What this adds to them, each with a test:

* Only HTTP/1.1. ``Upgrade: h2c`` and the HTTP/2 preface would open a second, differently
  bounded protocol on the same port.
* A WebSocket upgrade, or a GET of a path that the listener answers, on a kept-alive connection (browsers and
  reverse proxies reuse connections) is handed back to the listener, see :meth:`HttpServer.serve_stream`.
* The end of an answer is shielded. In hypercorn the application's task group is cancelled while
  its last send still has to close the connection or restart the keep-alive clock, so that
  at random neither happens and the connection stays for ever.
* A reader that waits for its turn is ended when the connection is closed or its peer takes nothing, and the
  keep-alive clock with the reader; hypercorn lets both hold on to a connection that is gone.
* A request with both ``Content-Length`` and ``Transfer-Encoding`` is refused (RFC 9112, section 6.1), and
  what surrounds the data of a chunked body has the bound of the head.
* Few pieces of a body wait for an application that does not ask for it, and they delay no next request.
* Closing while the request is still coming in is announced and lingers, so that a 413 or 408 arrives.
* Requests that are no HTTP get a problem document too, and exceptions stay in here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, Final, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from gateway.config.settings import Settings
from gateway.problems import CONTENT_TYPE, code_for_status, problem_bytes, problem_document
from gateway.wire.http_stream import ReplayStream, replay
from gateway.wire.upgrade import split_target

__all__ = ["HttpServer"]

log = logging.getLogger(__name__)

_LAST_WORDS: Final = 5.0
"""Seconds that the end of one request may take: telling the application, closing the stream."""

_PIECES: Final = 4
"""Pieces of at most 64 KiB."""
_CHUNK_HEAD: Final = 16
"""Bytes of a chunk's size and line ends that count as nothing."""

_DETAILS: Final[dict[int, str]] = {
    400: "This is not a valid HTTP/1.1 request.",
    431: "The request head is too large.",
    501: "This transfer encoding is not supported; use Content-Length or chunked.",
    505: "Only HTTP/1.0 and HTTP/1.1 are spoken here.",
}


class HttpServer:
    """Serves an ASGI application on streams that somebody else accepted."""

    def __init__(
        self,
        app: Any,
        settings: Settings,
        *,
        websocket_path: str = "/ws",
        stream_paths: Collection[str] = (),
        guest: Any = None,
        own_paths: tuple[str, ...] = (),
    ) -> None:
        """``app`` is an ASGI 3 application; times and sizes come from ``settings.limits``.

        A GET of one of ``stream_paths`` is for the listener. ``guest`` is another application, which gets the
        requests whose path begins with none of ``own_paths``.
        """
        self._guest = guest
        self._own_paths = own_paths
        limits = settings.limits
        self._app = app
        self._send_timeout = limits.send_timeout
        self._graceful = settings.shutdown_timeout / 2
        self._websocket_path = websocket_path.encode("ascii")
        self._stream_paths = frozenset(path.encode("ascii") for path in stream_paths)
        self._config = _config(keep_alive=limits.keep_alive, head_bytes=limits.head_bytes)
        self._context = WorkerContext(None)
        self._state: dict[str, Any] = {}
        self._stopping = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._open: set[_Connection] = set()

    @property
    def connections(self) -> int:
        """HTTP connections that are open now."""
        return len(self._open)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the application's lifespan until :meth:`stop`; raise what its start-up raises.

        After :meth:`stop`, idle connections close at once and requests in hand may finish, for half of
        ``settings.shutdown_timeout``; then whatever is left is cut off.
        """
        async with trio.open_nursery() as nursery:
            lifespans = []
            for app in (self._app, self._guest):
                if app is not None:
                    lifespans.append(await self._begin(app, nursery))
            task_status.started()
            await self._stopping.wait()
            await self._context.terminated.set()
            with trio.move_on_after(self._graceful):
                await self._idle.wait()
            for connection in self._open:
                connection.abort()
            for lifespan in reversed(lifespans):
                await lifespan.wait_for_shutdown()
            nursery.cancel_scope.cancel()

    async def _begin(self, app: Any, nursery: trio.Nursery) -> Lifespan:
        """Start the lifespan of ``app``; what its start-up raises comes out of ``nursery``."""
        failed = False

        async def run(scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any) -> None:
            async def watched_send(message: dict[str, Any]) -> None:
                nonlocal failed
                failed = failed or message["type"] == "lifespan.startup.failed"
                await send(message)

            await app(scope, receive, watched_send)

        lifespan = Lifespan(run, self._config, self._state)
        await nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        if failed:  # hypercorn says so by an exception, which is on its way
            await trio.sleep_forever()
        return lifespan

    def stop(self) -> None:
        """Begin the graceful end of :meth:`run`."""
        self._stopping.set()

    async def serve_stream(self, stream: trio.abc.Stream, unread: bytes) -> bytes | None:
        """Serve HTTP on ``stream`` until one side closes it, and close it.

        ``unread`` is what was already received. Returns None; or, when a later request on the
        connection is for the listener, the bytes received from that request's first on: then the
        stream is open and the caller's to answer. No exception of the connection comes out of
        here; they are logged.
        """
        connection = _Connection(
            self._call_app,
            self._config,
            self._context,
            ConnectionState(self._state.copy()),
            replay(stream, unread, send_timeout=self._send_timeout),
            self._websocket_path,
            self._stream_paths,
        )
        self._open.add(connection)
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        try:
            with connection.scope:
                await connection.run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            log.debug("HTTP connection lost", exc_info=True)
        except* Exception:
            log.exception("HTTP connection failed")
        finally:
            self._open.discard(connection)
            connection.part()
            if not self._open:
                self._idle.set()
            if connection.handed_over is None:
                await trio.aclose_forcefully(stream)
        return connection.handed_over

    async def _call_app(
        self,
        scope: Any,
        receive: Callable[..., Any],
        send: Callable[..., Any],
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        """Call the application; whatever it raises on a request becomes a problem document."""
        app = self._app
        if self._guest is not None and not scope["path"].startswith(self._own_paths):
            app = self._guest
        started = False

        async def watched_send(message: dict[str, Any]) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.body" and not message.get("more_body"):
                _drop_unread(receive)
            await send(message)

        status = 400
        if scope["path"]:  # "GET ?x HTTP/1.1": an empty path makes frameworks stumble
            try:
                await app(scope, receive, watched_send)
                return
            except Exception:
                log.exception("%s %s failed", scope["method"], scope["path"])
                if started:
                    return  # hypercorn closes the connection: the answer is cut off, not completed
                status = 500
        detail = _DETAILS[400] if status == 400 else "The gateway failed to handle this request."
        body = problem_bytes(problem_document(code_for_status(status), detail, status=status))
        headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class _Connection(TCPServer):
    """hypercorn's server of one stream, with our protocol in the place of its own."""

    protocol: Any

    def __init__(
        self,
        app: Any,
        config: Config,
        context: WorkerContext,
        state: ConnectionState,
        stream: ReplayStream,
        websocket_path: bytes,
        stream_paths: frozenset[bytes],
    ) -> None:
        super().__init__(app, config, context, state, cast("trio.SSLStream[trio.SocketStream]", stream))
        self.scope = trio.CancelScope()
        self.handed_over: bytes | None = None
        self._reader = trio.CancelScope()
        self._replay = stream
        self._over = False
        self._http1: _Http1 | None = None
        self._websocket_path = websocket_path
        self._stream_paths = stream_paths

    def abort(self) -> None:
        """Cut the connection off."""
        self.scope.cancel()
        self._replay.abort()

    def part(self) -> None:
        """It has ended: let go of what knows it. A cycle would stay until the collector comes."""
        self.protocol = self._http1 = None

    async def _read_data(self) -> None:
        wrapper = self.protocol
        self.protocol = self._http1 = _Http1(
            wrapper.app,
            wrapper.config,
            wrapper.context,
            wrapper.task_group,
            wrapper.state,
            wrapper.ssl,
            wrapper.client,
            wrapper.server,
            wrapper.send,
        )
        self._http1.replay = self._replay
        self._http1.websocket_path = self._websocket_path
        self._http1.stream_paths = self._stream_paths
        self._http1.connection = _Parser(wrapper.config.h11_max_incomplete_size)
        with self._reader:
            while True:
                try:
                    data = await self._replay.receive_some(MAX_RECV)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                await self.protocol.handle(RawData(data))
                self.handed_over = self._http1.upgrade
                if self.handed_over is not None:
                    self._replay.detach()
                    return
                if not data:
                    break
        self._over = True
        await self.idle_task.stop()
        await self.protocol.handle(Closed())

    async def protocol_send(self, event: Event) -> None:
        # The end of an answer that nobody takes any more must not start the keep-alive clock.
        if not (self._over and isinstance(event, Updated)):
            await super().protocol_send(event)
        if self._replay.unheard:
            # It may wait for its turn to handle a next request, which does not come any more.
            self._reader.cancel()

    async def _close(self) -> None:
        try:
            async with self.send_lock:
                pass  # another task has something to say: the refusal of a body that nobody asked for, say
        finally:
            await super()._close()
            self._reader.cancel()

    async def _idle_timeout(self) -> None:
        with trio.move_on_after(self.config.keep_alive_timeout):
            if self._http1 is None or self._http1.keep_alive_requests == 0:
                await trio.sleep_forever()  # the first request is served also while shutting down
            await self.context.terminated.wait()
        with trio.CancelScope(shield=True):
            await self._initiate_server_close()
            self._reader.cancel()


class _Parser(h11.Connection):
    """h11's parser, in which chunk extensions and trailers have the bound of the head.

    What follows the last request is not read (RFC 9112, section 9.6): to refuse it would race the answer.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=max_bytes)
        self._max_bytes = max_bytes
        self._around = 0
        """Bytes received since the head that are no data, those that wait for more included."""

    def receive_data(self, data: bytes) -> None:
        if data and self.their_state is h11.MUST_CLOSE:
            return
        self._around += len(data)
        super().receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.MUST_CLOSE and self.trailing_data[0]:
            return h11.NEED_DATA
        try:
            event = super().next_event()
        except h11.RemoteProtocolError:
            if self.our_state is h11.SEND_BODY:
                return h11.NEED_DATA  # the answer that has begun is brought to its end; then it closes
            raise
        if isinstance(event, h11.Request):
            self._around = len(self.trailing_data[0])
        elif isinstance(event, h11.Data):
            self._around -= len(event.data) + (_CHUNK_HEAD if event.chunk_start else 0)
        elif (
            self._around > self._max_bytes
            and event is not h11.PAUSED
            and self.their_state in {h11.SEND_BODY, h11.DONE}
            and self._around - len(self.trailing_data[0]) > self._max_bytes
        ):
            raise h11.RemoteProtocolError("the chunks' extensions or trailers are too large", 431)
        return event


class _Http1(H11Protocol):
    """hypercorn's HTTP/1.1, mended as the module's text says."""

    replay: ReplayStream
    websocket_path: bytes
    stream_paths: frozenset[bytes]
    upgrade: bytes | None = None
    """Request head and what follows it, when that is for the listener."""
    _method = b""

    async def _check_protocol(self, event: h11.Request) -> None:
        """No other protocol is switched to."""

    async def _create_stream(self, request: h11.Request) -> None:
        self._method = request.method
        if request.http_version not in {b"1.0", b"1.1"}:
            await self._refuse(505)
            return
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
            # The two are read differently by proxies: what one takes for the body is a request to another.
            await self._refuse(400)
            return
        if self.keep_alive_requests and request.method == b"GET" and self._path(request) in self.stream_paths:
            self.upgrade = _head(request) + self.connection.trailing_data[0]
            return
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        if len(headers) < len(request.headers):
            if self.keep_alive_requests and self._is_websocket(request):
                self.upgrade = _head(request) + self.connection.trailing_data[0]
                return
            # Without the header it is the plain request that RFC 9110, section 7.8, lets it be.
            request = h11.Request(
                method=request.method,
                target=request.target,
                headers=headers,
                http_version=request.http_version,
            )
        await super()._create_stream(request)

    def _is_websocket(self, request: h11.Request) -> bool:
        offered = [value.strip().lower() for name, value in request.headers if name == b"upgrade"]
        return (
            request.method == b"GET"
            and self._path(request) == self.websocket_path
            and b"websocket" in offered
        )

    def _path(self, request: h11.Request) -> bytes:
        return split_target(request.target)[0].encode("latin-1")

    async def _refuse(self, status: int) -> None:
        await self._send_error_response(status)
        await self.send(Closed())

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and (
            self.connection.their_state is h11.SEND_BODY or self.context.terminated.is_set()
        ):
            # Said before it is done, or the client sends its next request into a closing connection.
            event.headers.append((b"connection", b"close"))
        await super().stream_send(event)

    async def _maybe_recycle(self) -> None:
        with trio.move_on_after(_LAST_WORDS, shield=True):
            if self.connection.their_state in {h11.SEND_BODY, h11.ERROR}:
                self.replay.linger = True
            self._method = b""  # of the next request nothing is known yet
            await super()._maybe_recycle()

    async def _close_stream(self) -> None:
        # The application may be gone and its queue full; then nobody would ever take the message.
        with trio.move_on_after(_LAST_WORDS / 2, shield=True):
            await super()._close_stream()
        self.stream = None

    async def _send_error_response(self, status_code: int) -> None:
        self.replay.linger = True
        detail = _DETAILS.get(status_code, _DETAILS[400])
        body = problem_bytes(problem_document(code_for_status(status_code), detail, status=status_code))
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        answer: list[h11.Response | h11.Data | h11.EndOfMessage] = [
            h11.Response(status_code=status_code, headers=headers)
        ]
        if self._method != b"HEAD":
            answer.append(h11.Data(data=body))
        answer.append(h11.EndOfMessage())
        # In one piece: the application may answer the same request while a first part is being sent.
        await self.send(RawData(data=b"".join(self.connection.send(event) or b"" for event in answer)))


def _drop_unread(receive: Any) -> None:
    """Forget what the application did not read of a request that it answers: the end must get through."""
    channel: trio.MemoryReceiveChannel[Any] = receive.__self__
    try:
        while True:
            channel.receive_nowait()
    except (trio.WouldBlock, trio.EndOfChannel):
        pass


def _config(*, keep_alive: float, head_bytes: int) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = log
    config.include_server_header = False
    config.keep_alive_timeout = keep_alive  # also the time that the head of a later request may take
    config.h11_max_incomplete_size = head_bytes
    config.max_app_queue_size = _PIECES
    return config


def _head(request: h11.Request) -> bytes:
    lines = [request.method + b" " + request.target + b" HTTP/" + request.http_version]
    lines += [name + b": " + value for name, value in request.headers.raw_items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"
