"""A gateway that says only what the test tells it to, in memory or over a pair of sockets.

Nothing of it takes real time, so a test with a virtual clock sees exact times.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import trio
import trio.testing
from wsproto.events import Request

from gateway.client import Client, Event, connect
from gateway.client.inbox import Inbox
from gateway.client.transport import Address
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.negotiation import choose_subprotocol
from tests.client import loops
from tests.client.loops import Stream
from tests.client.peer_socket import PeerClosed, PeerSocket

__all__ = ["Peer", "Refusal", "ScriptedGateway", "Stuck", "beside", "stuck_pair", "take"]

URL = "ws://gateway.example"
WELCOME = {"connection": "n1-1", "org": "acme", "user": "alice", "node": "n1", "heartbeat": 30.0}

HANDSHAKE = 60.0
"""Seconds after which a client that asked for nothing is forgotten."""

Responder = Callable[["Peer", Envelope], Awaitable[None]]


class Refusal:
    """An HTTP answer in place of the upgrade."""

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.status = status
        self.body = body
        self.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]


class Stuck(trio.abc.SendStream):
    """Takes everything; when told so, half a message and no more until it is released."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self.stuck = False
        self.released = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        half = len(data) // 2 if self.stuck else len(data)
        await self._stream.send_all(data[:half])
        if self.stuck:
            await self.released.wait()
            await self._stream.send_all(data[half:])

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Peer:
    """The gateway's end of one connection."""

    def __init__(self, socket: PeerSocket, stream: Stream, codec: Codec) -> None:
        self.socket = socket
        self.stream = stream
        self.codec = codec
        self.headers: dict[str, str] = {}
        self.path = ""
        self.commands: list[Envelope] = []

    async def receive(self) -> Envelope:
        """The next command."""
        message = await self.socket.get_message()
        assert isinstance(message, bytes) == self.codec.binary
        command = self.codec.decode(message if isinstance(message, bytes) else message.encode())
        self.commands.append(command)
        return command

    async def send(self, t: str, **fields: Any) -> None:
        payload = self.codec.encode(Envelope(t, **fields))
        await self.raw(payload if self.codec.binary else payload.decode())

    async def raw(self, message: bytes | str) -> None:
        await self.socket.send_message(message)

    async def reply(self, command: Envelope, t: str = "reply", **fields: Any) -> None:
        await self.send(t, id=command.id, **fields)

    async def answer(self, t: str = "reply", **fields: Any) -> Envelope:
        """Receive one command and reply to it."""
        command = await self.receive()
        await self.reply(command, t, **fields)
        return command

    async def event(self, seq: int | None = None, **fields: Any) -> None:
        """Send an event of the room ``r``, epoch ``e``."""
        ordered = {} if seq is None else {"seq": seq, "epoch": "e", "mid": f"m{seq}"}
        await self.send("event", **{"room": "r", "event": "x", "ts": 1, **ordered, **fields})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self.socket.aclose(code, reason)

    async def drop(self) -> None:
        """Cut the connection without a word."""
        await self.stream.aclose()

    async def closed_with(self) -> int:
        """Wait until the client closes; returns its code."""
        try:
            while True:
                await self.receive()
        except PeerClosed as closed:
            return closed.reason.code


class ScriptedGateway:
    """Answers each dial as ``plan`` says (None or an empty plan: accept), and notes when it came."""

    def __init__(self, tasks: anyio.abc.TaskGroup | trio.Nursery | None) -> None:
        """Without ``tasks`` it waits for :meth:`begin`."""
        if tasks is not None:
            self.begin(tasks)
        self.plan: deque[Exception | Refusal | str | None] = deque()
        self.dials: list[float] = []
        self.welcome: dict[str, Any] = dict(WELCOME)
        self.subprotocol: str | None = ""
        """What is answered to the offered subprotocols; empty: as the gateway does."""
        self.responder: Responder | None = None
        self.pair: Callable[[], tuple[Any, Stream]] = loops.pair

    def begin(self, tasks: anyio.abc.TaskGroup | trio.Nursery) -> None:
        """Serve in ``tasks``."""
        self._tasks = tasks
        self.accepted: Inbox[Peer] = Inbox(100)
        self.peers: list[Peer] = []

    def connect(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        """A client of this gateway."""
        return connect(URL, **{"token": "t", "dial": self.dial, **options})

    async def dial(self, address: Address) -> Any:
        await anyio.lowlevel.checkpoint()
        self.dials.append(anyio.current_time())
        step = self.plan.popleft() if self.plan else None
        if isinstance(step, Exception):
            raise step
        client, server = self.pair()
        self._tasks.start_soon(self._serve, server, step)
        return client

    async def listen(self, context: ssl.SSLContext | None = None) -> int:
        """Listen on a real port, with TLS when there is a context; returns the port."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def serve(stream: trio.SocketStream) -> None:
            secure = None if context is None else trio.SSLStream(stream, context, server_side=True)
            try:
                if secure is not None:
                    await secure.do_handshake()
            except trio.BrokenResourceError:
                return  # the client did not like the certificate
            await self._serve(secure or stream, None)

        self._tasks.start_soon(trio.serve_listeners, serve, [listener])
        port: int = listener.socket.getsockname()[1]
        return port

    async def peer(self) -> Peer:
        """The next connection that was accepted and welcomed."""
        return await self.accepted.get()

    async def _serve(self, stream: Stream, step: Refusal | str | None) -> None:
        try:
            await self._play(stream, step)
        except (PeerClosed, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client went away during the handshake
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
            if isinstance(stream, loops.SocketStream):
                stream.dispose()

    async def _play(self, stream: Stream, step: Refusal | str | None) -> None:
        if step == "silent":
            while await stream.receive_some():
                pass
            return
        if step == "eof":
            await stream.receive_some()
            return
        socket = PeerSocket(stream)
        request = None
        with anyio.move_on_after(HANDSHAKE):  # a client may have nothing to say
            request = await socket.request()
        if request is None:
            return
        if isinstance(step, Refusal):
            await socket.reject(step.status, step.headers, step.body)
            return
        peer = await self._welcome(request, socket, stream, silent=step == "unwelcome")
        if step == "deaf":
            self.peers.append(peer)
            await self.accepted.put(peer)
            while await stream.receive_some():
                pass
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.run)
            self.peers.append(peer)
            await self.accepted.put(peer)
            try:
                while self.responder is not None:
                    await self.responder(peer, await peer.receive())
            except PeerClosed:
                pass

    async def _welcome(self, request: Request, socket: PeerSocket, stream: Stream, *, silent: bool) -> Peer:
        codec = choose_subprotocol(request.subprotocols)
        subprotocol = codec.subprotocol if self.subprotocol == "" else self.subprotocol
        await socket.accept(subprotocol)
        peer = Peer(socket, stream, codec)
        peer.headers = {name.decode().lower(): value.decode() for name, value in request.extra_headers}
        peer.path = request.target
        if not silent:
            await peer.send("connected", ts=1, data=self.welcome)
        return peer


def stuck_pair() -> tuple[Stuck, tuple[trio.abc.Stream, trio.abc.Stream]]:
    """A client's and a gateway's end, and what the client sends through."""
    client, server = trio.testing.memory_stream_pair()
    stuck = Stuck(client.send_stream)
    return stuck, (trio.StapledStream(stuck, client.receive_stream), server)


@asynccontextmanager
async def beside(function: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Run ``function`` while the block runs, and wait for both."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)
        yield


async def take(client: Client, count: int) -> list[Event]:
    """The next ``count`` items of the iteration."""
    return [await anext(client) for _ in range(count)]
