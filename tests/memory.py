"""A gateway whose clients come over streams in memory instead of sockets.

Together with ``trio.testing.MockClock`` (the fixture ``clock``) a test of time-outs takes
no time, because nothing that the test waits for is outside of Trio. The client is
trio-websocket, as in ``tests/support.py``, so both sides are the real thing.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import trio
import trio_websocket

from gateway.app import Gateway
from gateway.testing.broker import FaultyBroker
from gateway.testing.link import Link, LinkEnd
from gateway.wire.listener import Accepted
from protocol.codec import Codec
from protocol.json import JSON
from tests.support import DEADLINE, Raw, greeted, settings

__all__ = ["MemoryGateway", "memory_gateway"]


class MemoryGateway(Gateway):
    """One node; :meth:`run` it in a nursery, then :meth:`connect`."""

    def __init__(self, **changes: Any) -> None:
        """``changes`` are settings, as in ``tests.support.settings``."""
        made = settings(**changes)
        broker = FaultyBroker(made.history)
        super().__init__(made, broker=broker, listen=False)
        self.broker: FaultyBroker = broker
        self._streams: trio.Nursery

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._streams = nursery
            await nursery.start(super().run)
            task_status.started()
            await trio.sleep_forever()

    def open(self) -> LinkEnd:
        """A new connection to this node, on which nothing was said yet: the client's end."""
        link = Link()
        self._streams.start_soon(self._serve, link.node)
        return link.client

    async def _serve(self, stream: trio.abc.Stream) -> None:
        # Accepted names the streams that sockets have; it needs no more of them than any stream has.
        self.listener.open += 1
        await self.listener.serve(
            Accepted("memory", stream=cast("trio.SSLStream[trio.SocketStream]", stream))
        )

    @contextlib.asynccontextmanager
    async def connect(
        self,
        *,
        org: str = "acme",
        user: str | None = "alice",
        codec: Codec = JSON,
        token: str | None = None,
        resource: str | None = None,
        greet: bool = True,
        **claims: Any,
    ) -> AsyncIterator[Raw]:
        """A client, authenticated and greeted; with ``greet=False`` it is not waited for the greeting."""
        if resource is None:
            token = token or self.auth.issue(org=org, user=user, **claims).token
            resource = f"/ws?token={token}"
        async with trio.open_nursery() as nursery:
            stream = self.open()
            socket = await trio_websocket.wrap_client_stream(
                nursery,
                cast("trio.SocketStream", stream),
                "memory",
                resource,
                subprotocols=[codec.subprotocol],
            )
            raw = Raw(socket, codec)  # which is patient for an hour, a virtual one
            raw.link = stream.link
            yield await greeted(raw) if greet else raw
            with trio.move_on_after(DEADLINE):
                await socket.aclose()
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def memory_gateway(**changes: Any) -> AsyncIterator[MemoryGateway]:
    """A node for the length of the block."""
    async with trio.open_nursery() as nursery:
        gateway = MemoryGateway(**changes)
        await nursery.start(gateway.run)
        yield gateway
        nursery.cancel_scope.cancel()
