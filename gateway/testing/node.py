"""A node in memory: the real gateway without a port, with network and broker under the test's control."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import AsyncIterator
from typing import Any, Literal, cast

import httpx
import trio
import trio_websocket

from gateway.app import Gateway
from gateway.calls.registry import CallHandler
from gateway.client import Client, TransportKind, connect
from gateway.config.settings import Settings
from gateway.testing.broker import FaultyBroker
from gateway.testing.http import LinkTransport
from gateway.testing.link import Link, LinkEnd
from gateway.testing.raw import RawClient
from gateway.testing.settings import make_settings
from gateway.wire.listener import Accepted
from protocol.codec import Codec
from protocol.negotiation import CODECS

__all__ = ["Node", "make_settings", "run_node"]
_NAMED = {codec.name: codec for codec in CODECS.values()}


class Node:
    """One gateway with its network and broker. :func:`run_node` creates it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.broker = FaultyBroker(settings.history)
        """Outlives the gateway, as a broker on the network does."""
        self.links: list[Link] = []
        """Every open connection, oldest first."""
        self.down = False
        """Nobody can connect; open connections go on (cut their links to end them)."""
        self.blocked: set[TransportKind | str] = set()
        """What a proxy on the way of :meth:`client` lets nothing new through of: ``"websocket"``, ``"sse"``,
        ``"poll"``."""
        self._calls: dict[str, CallHandler] = {}
        self._gateway: Gateway | None = None
        self._life = trio.CancelScope()
        self._over = trio.Event()
        self._nursery: trio.Nursery

    @property
    def gateway(self) -> Gateway:
        """The running gateway: its ``hub``, ``auth``, ``guard`` and so on."""
        assert self._gateway is not None, "the node does not run"
        return self._gateway

    # --- its life -----------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until cancelled; started when the first gateway runs."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.start()
            task_status.started()
            await trio.sleep_forever()

    async def start(self) -> None:
        """Start a new gateway; the old one must have stopped."""
        assert self._gateway is None, "the node runs already"
        await self._nursery.start(self._run_gateway)

    async def _run_gateway(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        gateway = Gateway(self.settings, broker=self.broker, listen=False)
        for name, handler in self._calls.items():
            gateway.handle_call(name, handler)
        self._over = trio.Event()
        try:
            with trio.CancelScope() as self._life:
                async with trio.open_nursery() as nursery:
                    await nursery.start(gateway.run)
                    self._gateway, self._streams = gateway, nursery
                    task_status.started()
                    await gateway.finished.wait()
                    nursery.cancel_scope.cancel()
        finally:
            self._gateway = None
            self._over.set()

    async def stop(self) -> None:
        """Stop as SIGTERM does: clients are told, queues flushed, connections closed."""
        self.gateway.stop()
        await self._over.wait()

    async def kill(self) -> None:
        """Stop as SIGKILL does: every connection breaks without a Close frame."""
        for link in list(self.links):
            link.cut()
        self._life.cancel()
        await self._over.wait()

    def handle_call(self, name: str, handler: CallHandler) -> None:
        """Let ``handler`` answer the clients' calls of ``name``, now and after a restart."""
        self._calls[name] = handler
        self.gateway.handle_call(name, handler)

    # --- connections to it --------------------------------------------------------------------

    def links_of(self, user: str | None) -> list[Link]:
        """The open connections of one user's :meth:`client` and :meth:`raw`, oldest first."""
        return [link for link in self.links if link.user == user]

    def cut(self, user: str | None) -> None:
        """Break all of :meth:`links_of` ``user``; fails if there is none."""
        links = self.links_of(user)
        assert links, f"{user!r} has no connection"
        for link in links:
            link.cut()

    async def dial(self, address: object = None, *, user: str | None = None) -> LinkEnd:
        """A new connection, on which nothing was said yet. Raises ConnectionRefusedError.

        It is what :func:`gateway.client.connect` takes as ``dial``; ``address`` does not matter.
        """
        await trio.lowlevel.checkpoint()
        if self.down or self._gateway is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        link = Link(user)
        self.links.append(link)
        self._streams.start_soon(self._serve, self._gateway, link)
        return link.client

    async def _serve(self, gateway: Gateway, link: Link) -> None:
        gateway.listener.open += 1
        try:
            # Accepted names the streams that sockets have; it needs no more of them than any stream has.
            accepted = Accepted("memory", stream=cast("trio.SSLStream[trio.SocketStream]", link.node))
            await gateway.listener.serve(accepted)
        finally:
            self.links.remove(link)

    def token(self, *, org: str = "acme", user: str | None = "alice", **claims: Any) -> str:
        """A token; ``claims`` are ``roles``, ``rooms``, ``ttl`` (seconds)."""
        return self.gateway.auth.issue(org=org, user=user, **claims).token

    @contextlib.asynccontextmanager
    async def client(
        self,
        *,
        org: str = "acme",
        user: str | None = "alice",
        token: str | None = None,
        options: dict[str, Any] | None = None,
        **claims: Any,
    ) -> AsyncIterator[Client]:
        """The Python client, connected to this node; ``options`` are those of ``gateway.client.connect``."""
        token = token or self.token(org=org, user=user, **claims)
        http = LinkTransport(functools.partial(self.dial, user=user), self._lets_through)
        dial = functools.partial(self._dial_websocket, user=user)
        wanted = {"token": token, "dial": dial, "http": http, **(options or {})}
        async with connect("ws://node", **wanted) as client:
            yield client

    def _lets_through(self, path: str) -> bool:
        return not (
            ("sse" in self.blocked and path == "/api/v1/stream")
            or ("poll" in self.blocked and path == "/api/v1/poll")
        )

    async def _dial_websocket(self, address: object, *, user: str | None) -> LinkEnd:
        if "websocket" not in self.blocked:
            return await self.dial(user=user)
        await trio.lowlevel.checkpoint()
        if self.down or self._gateway is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        link = Link(user)
        self._streams.start_soon(_refuse_as_a_proxy, link)
        return link.client

    @contextlib.asynccontextmanager
    async def raw(
        self,
        *,
        org: str = "acme",
        user: str | None = "alice",
        token: str | None = None,
        codec: Codec | Literal["cbor", "json"] = "json",
        resource: str | None = None,
        greet: bool = True,
        **claims: Any,
    ) -> AsyncIterator[RawClient]:
        """A client that sends and receives single envelopes, after the greeting; ``greet=False`` does not
        wait for it.

        ``resource`` replaces the request target ``/ws`` with a token.
        """
        spoken = _NAMED[codec] if isinstance(codec, str) else codec
        resource = resource or f"/ws?token={token or self.token(org=org, user=user, **claims)}"
        async with _nursery() as nursery:
            stream = await self.dial(user=user)
            try:
                socket = await trio_websocket.wrap_client_stream(
                    nursery,
                    cast("trio.SocketStream", stream),
                    "node",
                    resource,
                    subprotocols=[spoken.subprotocol],
                )
                raw = RawClient(socket, spoken)
                raw.link = stream.link
                if greet:
                    await raw.greet()
                yield raw
                with trio.move_on_after(10):
                    await socket.aclose()
            finally:
                await trio.aclose_forcefully(stream)

    def http(self, **options: Any) -> httpx.AsyncClient:
        """An httpx client whose requests go to this node; ``options`` are httpx's."""
        return httpx.AsyncClient(transport=LinkTransport(self.dial), base_url="http://node", **options)

    async def publish(self, room: str | None, event: str, data: Any = None, **options: Any) -> None:
        """Publish from inside, as a service; options are those of ``gateway.hub.hub.Hub.publish``."""
        org = options.pop("org", "acme")
        await self.gateway.hub.publish(org, room, event, data, **options)


async def _refuse_as_a_proxy(link: Link) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await link.node.receive_some()
        await link.node.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nblocked")
        await link.node.aclose()


@contextlib.asynccontextmanager
async def run_node(**changes: Any) -> AsyncIterator[Node]:
    """A node for the length of the block; ``changes`` are settings, see :func:`make_settings`."""
    async with _nursery() as nursery:
        node = Node(make_settings(**changes))
        await nursery.start(node.run)
        yield node


@contextlib.asynccontextmanager
async def _nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks end with the block, and out of which the block's error comes as it is."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None
