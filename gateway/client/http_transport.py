"""A connection made of HTTP requests, by httpx, on either event loop; ``emulation`` says what they are."""

from __future__ import annotations

import ssl
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import msgspec

from gateway.client.course import TransportKind
from gateway.client.emulation import Emulation, Lane
from gateway.client.errors import ConnectError, ConnectionFailed, ConnectionRefused
from gateway.client.event_stream import EventStreamParser, EventTooLarge
from gateway.client.inbox import Inbox, InboxClosed
from gateway.client.rooms import Rooms
from gateway.client.transport import Address, SocketClosed, dial_failed, refused
from protocol.envelope import Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON

__all__ = ["HttpDoor", "HttpTransport"]

_SETTLE: Final = 0.005
"""Seconds in which further changes join the first: many rooms are entered by one request."""
_BATCH: Final = 50
_POLL: Final = 25.0
"""Seconds that a poll waits; proxies cut off what is silent for longer."""
_SILENCE: Final = 90.0
"""Seconds without a byte after which a stream is dead: the gateway says something every 30."""
_SLOWEST_CALL: Final = 300.0
"""Seconds; the command's own time is shorter as a rule."""
_SHORT: Final = 1.0
"""Seconds: a stream that ends sooner is not begun again at once."""
_BUFFER: Final = 16
_LOST: Final = 1006
_REFUSED: Final = 1008


@dataclass(frozen=True, slots=True)
class HttpDoor:
    """How HTTP gets to the gateway."""

    address: Address
    ssl_context: Any
    transport: httpx.AsyncBaseTransport | None
    """In place of the network."""

    @property
    def base(self) -> str:
        """Where the paths of REST begin; ``/ws`` lies beside ``/api``."""
        path = self.address.resource.partition("?")[0]
        prefix = path.removesuffix("/ws") if path.endswith("/ws") else ""
        return f"{'https' if self.address.tls else 'http'}://{self.address.authority}{prefix}/api/v1"

    @property
    def query(self) -> list[tuple[str, Any]]:
        """What the address carries itself, such as a token."""
        return list(httpx.QueryParams(self.address.resource.partition("?")[2]).multi_items())

    def client(self) -> httpx.AsyncClient:
        """A client, to be closed by whoever asks for it."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=4)
        if self.transport is not None:
            return httpx.AsyncClient(transport=self.transport, limits=limits)
        return httpx.AsyncClient(verify=self.ssl_context or True, limits=limits)


class HttpTransport:
    """See :class:`~gateway.client.transport.Transport`; always speaks JSON."""

    def __init__(
        self,
        kind: TransportKind,
        door: HttpDoor,
        headers: Mapping[str, str],
        rooms: Rooms,
        *,
        timeout: float,
        max_message_bytes: int,
    ) -> None:
        """``timeout`` in seconds holds for whatever is answered at once."""
        self._kind = kind
        self._door = door
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._client = door.client()
        self._emulation = Emulation(rooms)
        self._timeout = timeout
        self._max_message_bytes = max_message_bytes
        self._inbox: Inbox[Envelope] = Inbox(_BUFFER)
        self._unheard: deque[Envelope] = deque()
        """What the client is to get of the last message that came."""
        self._scope = anyio.CancelScope()
        self._lanes: dict[Lane, anyio.CancelScope] = {}
        self._changed = anyio.Event()
        self._posted = anyio.Event()
        self._over = anyio.Event()
        self._failure: ConnectError | SocketClosed | None = None
        self._welcomed = False
        self._heard = anyio.current_time()

    @property
    def last_received(self) -> float:
        """The loop's time at which anything last came in."""
        return self._heard

    def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin; the first message is ``connected``."""
        tasks.start_soon(self._run)

    async def send(self, payload: bytes) -> None:
        """Take one command. Raises :class:`SocketClosed`."""
        await anyio.lowlevel.checkpoint()
        if self._failure is not None:
            raise self._closed()
        for answer in self._emulation.take(JSON.decode(payload, max_items=sys.maxsize)):
            await self._inbox.put(answer)
        if self._emulation.posts:
            self._posted.set()
        self._changed.set()

    async def receive(self) -> bytes:
        """Wait for one message. Raises :class:`SocketClosed`; a ConnectError before the first message."""
        try:
            message = await self._inbox.get()
        except InboxClosed:
            raise self._closed() from None
        self._welcomed = True
        return JSON.encode(message)

    def _closed(self) -> ConnectError | SocketClosed:
        failure = self._failure
        if failure is None:
            return SocketClosed(_LOST, "the connection broke")
        if isinstance(failure, SocketClosed) or not self._welcomed:
            return failure
        return SocketClosed(_REFUSED if failure.token else _LOST, str(failure))

    async def aclose(self, code: int, timeout: float) -> None:
        """End all requests, also when cancelled."""
        self._scope.cancel()
        self._inbox.close()
        with anyio.move_on_after(timeout, shield=True):
            await self._over.wait()  # a request that begins now would find the client closed
        with anyio.move_on_after(timeout, shield=True):
            await self._client.aclose()

    # ---- the tasks ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._post_all, tasks)
                    while True:
                        self._changed = anyio.Event()
                        self._follow(tasks)
                        await self._changed.wait()
                        await anyio.sleep(_SETTLE)
        finally:
            self._inbox.close()
            self._over.set()

    def _fail(self, failure: ConnectError | SocketClosed) -> None:
        self._failure = self._failure or failure
        self._scope.cancel()

    def _follow(self, tasks: anyio.abc.TaskGroup) -> None:
        """Have a request under way for each lane that asks for what is wanted now."""
        for lane in [lane for lane in self._lanes if lane not in self._emulation.lanes]:
            self._lanes.pop(lane).cancel()
        for lane in self._emulation.lanes:
            if lane not in self._lanes:
                self._lanes[lane] = anyio.CancelScope()
                tasks.start_soon(self._guarded, self._keep_asking, lane)
            elif lane.dirty:
                self._lanes[lane].cancel()

    async def _guarded(self, function: Any, *args: Any) -> None:
        """Whatever goes wrong with a request ends the connection, which is then made anew."""
        where = self._door.address.authority
        if self._scope.cancel_called:
            return
        try:
            await function(*args)
        except (ConnectError, SocketClosed) as failure:
            self._fail(failure)
        except httpx.ConnectError as error:
            self._fail(dial_failed(self._door.address, _root(error)))
        except httpx.HTTPError as error:
            self._fail(ConnectionFailed(f"{self._kind}: no answer from {where}: {error!r}"))
        except EventTooLarge:
            self._fail(SocketClosed(1009, "the gateway sent too large a message"))
        except (ProtocolError, msgspec.MsgspecError) as error:
            self._fail(ConnectionFailed(f"{self._kind}: {where} sent something else: {error}"))

    async def _keep_asking(self, lane: Lane) -> None:
        ask = self._stream if self._kind is TransportKind.SSE else self._poll
        # An answer may come at the moment of the end: httpx then raises RuntimeError for the next request.
        while lane in self._lanes and not self._scope.cancel_called:
            with self._lanes[lane]:
                await self._hear()
                await ask(lane)
            if lane in self._lanes:
                self._lanes[lane] = anyio.CancelScope()

    async def _hand_on(self, lane: Lane, payload: bytes) -> None:
        message = JSON.decode(payload, max_items=sys.maxsize)
        self._unheard.extend(self._emulation.receive(lane, message))
        await self._hear()
        if any(each.dirty for each in self._emulation.lanes):
            self._changed.set()

    async def _hear(self) -> None:
        """Put what was received into the inbox. What a cancelled request leaves is put by the next one."""
        while self._unheard:
            each = self._unheard.popleft()
            try:
                await self._inbox.put(each)
            except BaseException:
                self._unheard.appendleft(each)
                raise
            if each.t == "closing":
                raise SocketClosed(_LOST, each.message or "the gateway closed")

    async def _stream(self, lane: Lane) -> None:
        """One stream, until its end; a proxy may end it, and then the next goes on from there."""
        parser = EventStreamParser(self._max_message_bytes)
        timeout = httpx.Timeout(self._timeout, read=_SILENCE if self._welcomed else self._timeout)
        began, received = anyio.current_time(), 0
        async with self._client.stream(
            "GET", f"{self._door.base}/stream", **self._request(lane), timeout=timeout
        ) as response:
            self._heard = anyio.current_time()
            await self._check(response)

            async def handle(chunk: bytes) -> None:
                nonlocal received
                self._heard = anyio.current_time()
                for payload in parser.feed(chunk):
                    received += 1
                    await self._hand_on(lane, payload)

            await _each_chunk(response, handle)
        if not received:
            raise ConnectionFailed("sse: the stream ended before it began")
        if anyio.current_time() < began + _SHORT:
            raise SocketClosed(_LOST, "the stream was cut off at once")

    async def _poll(self, lane: Lane) -> None:
        """One poll."""
        tell = self._emulation.waits(lane)
        extra = [("tell", "true"), ("timeout", "0")] if tell else [("timeout", f"{_POLL:g}")]
        timeout = httpx.Timeout(self._timeout, read=self._timeout + _POLL)
        request = self._request(lane, extra)
        response = await self._client.get(f"{self._door.base}/poll", **request, timeout=timeout)
        self._heard = anyio.current_time()
        await self._check(response)
        answer = msgspec.json.decode(response.content, type=_Polled)
        for payload in answer.messages:
            await self._hand_on(lane, bytes(payload))
        if not lane.dirty:
            lane.cursor = answer.cursor
            if tell and self._emulation.waits(lane):
                raise ConnectionFailed("poll: the answer lacks the positions of the rooms")

    def _request(self, lane: Lane, extra: list[tuple[str, str]] | None = None) -> dict[str, Any]:
        query = [*self._door.query, *self._emulation.query(lane), *(extra or [])]
        return {"params": query, "headers": self._bearer()}

    def _bearer(self) -> dict[str, str]:
        if self._emulation.token is None:
            return self._headers
        return {**self._headers, "Authorization": f"Bearer {self._emulation.token}"}

    async def _check(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            raise self._refusal(response, await response.aread())
        wanted = "text/event-stream" if self._kind is TransportKind.SSE else "application/json"
        if not response.headers.get("content-type", "").startswith(wanted):
            raise ConnectionFailed(f"{self._kind}: the answer did not come from a gateway")

    def _refusal(self, response: httpx.Response, body: bytes) -> ConnectionRefused:
        retry_after = response.headers.get("retry-after")
        return refused(self._door.address, response.status_code, body, retry_after)

    # ---- commands ----------------------------------------------------------------------------------------

    async def _post_all(self, tasks: anyio.abc.TaskGroup) -> None:
        posts = self._emulation.posts
        while True:
            self._posted = anyio.Event()
            while posts:
                if posts[0].t == "call":  # may take long, and has no order among the others
                    tasks.start_soon(self._guarded, self._post, [posts.popleft()])
                    continue
                batch: list[Envelope] = []
                while posts and posts[0].t != "call" and len(batch) < _BATCH:
                    batch.append(posts.popleft())
                await self._guarded(self._post, batch)
            await self._posted.wait()

    async def _post(self, commands: list[Envelope]) -> None:
        body = b"[" + b",".join(JSON.encode(command) for command in commands) + b"]"
        response = await self._client.post(
            f"{self._door.base}/commands",
            params=self._door.query,
            content=body,
            headers={**self._bearer(), "Content-Type": "application/json"},
            timeout=httpx.Timeout(self._timeout, read=_SLOWEST_CALL),
        )
        self._heard = anyio.current_time()
        if response.status_code != 200:
            await self._refuse(commands, self._refusal(response, response.content))
            return
        answers = msgspec.json.decode(response.content, type=_Answers)
        found = [JSON.decode(bytes(each), max_items=sys.maxsize) for each in answers.messages]
        for answer in found:
            await self._inbox.put(answer)

    async def _refuse(self, commands: list[Envelope], refusal: ConnectionRefused) -> None:
        if refusal.code is None:
            raise SocketClosed(_LOST, str(refusal))
        code = ErrorCode.TOO_LARGE if refusal.status == 413 else refusal.code
        for command in commands:
            await self._inbox.put(self._emulation.refused(command, code, refusal.reason, refusal.retry_after))


async def _each_chunk(response: httpx.Response, handle: Callable[[bytes], Awaitable[None]]) -> None:
    """Hand on what comes, and leave none of httpx's generators half-way, which only their loop may end."""
    failure: BaseException | None = None
    with anyio.CancelScope() as scope:
        async for chunk in response.aiter_raw():
            if failure is None:
                try:
                    await handle(chunk)
                except BaseException as error:
                    failure = error
                    scope.cancel()  # the next wait, which is inside of them, ends them
    if failure is not None:
        raise failure


def _root(error: BaseException) -> BaseException:
    """The certificate that did not fit, or what the system said: httpx wraps it several times."""
    found = error
    while not isinstance(found, ssl.SSLCertVerificationError):
        below = found.__cause__ or found.__context__
        if below is None:
            return found
        found = below
    return found


class _Polled(msgspec.Struct):
    messages: list[msgspec.Raw]
    cursor: str


class _Answers(msgspec.Struct):
    messages: list[msgspec.Raw]
