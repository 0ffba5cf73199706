"""A gateway without sockets: real sessions, hub and broker over streams in memory.

Together with ``trio.testing.MockClock`` (pytest-trio's ``autojump_clock``) a test of time-outs takes
no time. The client is trio-websocket, as in ``tests/support.py``, so both sides are the real thing;
only the sockets, the HTTP side and the pump are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import trio
import trio.testing
import trio_websocket

from gateway.auth.tokens import Authenticator
from gateway.broker.memory import MemoryBroker
from gateway.hub.hub import Hub
from gateway.session.calls import Calls
from gateway.session.reception import Reception
from gateway.session.session import Services
from gateway.wire.flusher import Flusher
from gateway.wire.listener import Accepted
from gateway.wire.upgrade import Refusal, parse_upgrade, refusal_response
from protocol.codec import Codec
from protocol.json import JSON
from tests.support import DEADLINE, Raw, greeted, settings

__all__ = ["MemoryGateway", "memory_gateway"]


class MemoryGateway:
    """One node in memory; :meth:`run` it in a nursery, then :meth:`connect`."""

    def __init__(self, *, broker: MemoryBroker | None = None, **changes: Any) -> None:
        """``changes`` are settings, as in ``tests.support.settings``."""
        self.settings = settings(**changes)
        self.flusher = Flusher()
        self.broker = broker or MemoryBroker(self.settings.history)
        self.auth = Authenticator(self.settings.auth)
        self.calls = Calls()
        self.draining = False
        self.hub = Hub(
            self.broker,
            self.flusher,
            node="memory",
            command_timeout=self.settings.connection.command_timeout,
        )
        self.reception = Reception(
            Services(self.settings, self.hub, self.auth, self.calls),
            flusher=self.flusher,
            pump=None,
            is_draining=lambda: self.draining,
        )
        self._nursery: trio.Nursery

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.broker.run)
            nursery.start_soon(self.flusher.run)
            task_status.started()
            await trio.sleep_forever()

    def open(self) -> trio.StapledStream[Any, Any]:
        """A new connection to this node, on which nothing was said yet: the client's end."""
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        # Accepted names the streams that sockets have; it needs no more of them than any stream has.
        accepted = Accepted("memory", stream=cast("trio.SSLStream[trio.SocketStream]", stream))
        head, found, unread = b"", b"", b""
        while not found:
            chunk = await accepted.receive()
            if not chunk:
                return
            head, found, unread = (head + chunk).partition(b"\r\n\r\n")
        try:
            await self.reception.serve(accepted, parse_upgrade(head + found, max_bytes=65536), unread)
        except Refusal as refusal:
            await accepted.send(refusal_response(refusal))
        finally:
            await accepted.close()

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
            raw = Raw(socket, codec)
            yield await greeted(raw) if greet else raw
            with trio.move_on_after(DEADLINE):
                await socket.aclose()
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def memory_gateway(
    *, broker: MemoryBroker | None = None, **changes: Any
) -> AsyncIterator[MemoryGateway]:
    """A node in memory for the length of the block."""
    async with trio.open_nursery() as nursery:
        gateway = MemoryGateway(broker=broker, **changes)
        await nursery.start(gateway.run)
        yield gateway
        nursery.cancel_scope.cancel()
