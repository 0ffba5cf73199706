"""What a release needs: a balancer that asks ``/readyz``, and nodes that start and retire."""

from __future__ import annotations

import itertools
import signal
import ssl
from dataclasses import replace
from typing import Any

import httpx
import trio

from gateway.client.transport import Address
from gateway.client.trio_socket import tcp_dial
from tests.processes import DEADLINE, Folder, Served, serving

__all__ = ["Balancer", "node", "retire"]


class Balancer:
    """Knows which nodes are ready, and connects to those in turn."""

    def __init__(self) -> None:
        self.nodes: dict[Served, bool] = {}
        self._turn = itertools.count()
        self._tcp = tcp_dial()

    async def watch(self) -> None:
        """Ask every node all the time."""
        async with httpx.AsyncClient(timeout=DEADLINE) as http:
            while True:
                for served in list(self.nodes):
                    try:
                        ready = (await http.get(f"{served.http}/readyz")).status_code == 200
                    except httpx.TransportError:
                        ready = False
                    self.nodes[served] = ready
                await trio.sleep(0.02)

    def port(self) -> int:
        """That of a node that is ready; raises OSError where none is."""
        ready = [served for served, is_ready in self.nodes.items() if is_ready]
        if not ready:
            raise OSError("no node is ready")
        return ready[next(self._turn) % len(ready)].port

    async def dial(self, address: Address) -> trio.abc.Stream:
        """Connect to a node that is ready."""
        return await self._tcp(replace(address, port=self.port()))

    def http(self) -> httpx.AsyncBaseTransport:
        """Carries the requests of one client, each to a node that is ready."""
        return _Routed(self)


class _Routed(httpx.AsyncBaseTransport):
    """Closed and used again, as a client does that goes from one connection to the next."""

    _context = ssl.create_default_context()

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._pool: httpx.AsyncHTTPTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._pool is None:
            self._pool = httpx.AsyncHTTPTransport(verify=self._context)
        try:
            request.url = request.url.copy_with(port=self._balancer.port())
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return await self._pool.handle_async_request(request)

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.aclose()


async def node(
    folder: Folder,
    balancer: Balancer,
    name: str,
    *,
    seconds: float = DEADLINE,
    task_status: trio.TaskStatus[Any],
) -> None:
    """A node from its start, and when it is ready within so many seconds, to its end."""
    async with serving(folder, GATEWAY_NODE=name) as served:
        balancer.nodes[served] = False
        with trio.fail_after(seconds):
            while not balancer.nodes[served]:  # noqa: ASYNC110 - what the balancer found at its last look
                await trio.sleep(0.01)
        task_status.started(served)
        await served.process.wait()
        del balancer.nodes[served]


async def retire(old: Served, seconds: float = DEADLINE) -> None:
    """Stop a node as a release does; it must be gone within so many seconds."""
    old.process.send_signal(signal.SIGTERM)
    with trio.fail_after(seconds):
        assert await old.process.wait() == 0
