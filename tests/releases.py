"""What a release needs: a balancer that asks ``/readyz``, nodes that start and retire, and clients."""

from __future__ import annotations

import itertools
import signal
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx
import trio

from gateway.auth.tokens import Authenticator
from gateway.client import Backoff, Client, Lost, connect
from gateway.client.transport import Address
from gateway.client.trio_socket import tcp_dial
from gateway.config.settings import AuthSettings
from gateway.testing.settings import SECRET
from tests.processes import DEADLINE, Folder, Served, serving

__all__ = ["ROOMS", "TOKENS", "Balancer", "Listener", "connected", "heard_all", "listen", "node", "retire"]

ROOMS = 8
TOKENS = Authenticator(AuthSettings(secret=SECRET))


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


class Listener:
    """One client, and what it heard of its two rooms."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.rooms = (f"r{number % ROOMS}", f"r{(number * 3 + 1) % ROOMS}")
        self.first: dict[str, int] = {}
        self.seen: dict[str, list[int]] = {room: [] for room in self.rooms}
        self.client: Client
        self.joined = trio.Event()
        self.complete = trio.Event()

    async def run(self, balancer: Balancer) -> None:
        """Listen until cancelled; complete when both rooms' last event has come."""
        token = TOKENS.issue(org="acme", user=f"user{self.number}").token
        async with connected(balancer, token) as self.client:
            for room in self.rooms:
                self.first[room] = (await self.client.join(room)).seq + 1
            self.joined.set()
            waiting = set(self.rooms)
            async for event in self.client:
                assert not isinstance(event, Lost), event
                assert event.room is not None and event.seq is not None
                self.seen[event.room].append(event.seq)
                if event.event == "last":
                    waiting.discard(event.room)
                    if not waiting:
                        self.complete.set()


def connected(balancer: Balancer, token: str) -> Any:
    backoff = Backoff(base=0.5, maximum=2.0, tries=100)
    return connect("ws://127.0.0.1/ws", token=token, dial=balancer.dial, reconnect=backoff)


async def listen(nursery: trio.Nursery, listeners: Sequence[Listener], balancer: Balancer) -> None:
    """Start them, and wait until each has joined its rooms."""
    for listener in listeners:
        nursery.start_soon(listener.run, balancer)
    with trio.fail_after(DEADLINE):
        for listener in listeners:
            await listener.joined.wait()


def heard_all(listeners: Sequence[Listener], lasts: Mapping[str, int]) -> None:
    """Each heard every number of its rooms, in order and once, up to those of ``lasts``."""
    for listener in listeners:
        for room, seen in listener.seen.items():
            assert seen == list(range(listener.first[room], lasts[room] + 1)), (listener.number, room)
