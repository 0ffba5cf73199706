"""A release: two nodes over one Redis are replaced one after the other, while 200 clients listen.

Each node is a process. A balancer sends new connections to nodes whose ``/readyz`` says yes, as any load
balancer does; clients are ours. Every number of every room is checked at every client.
"""

from __future__ import annotations

import itertools
import signal
from dataclasses import replace
from pathlib import Path
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
from tests.redis_server import redis_server
from tests.support import until

CLIENTS = 200
ROOMS = 8
PACE = 50
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
                for node in list(self.nodes):
                    try:
                        ready = (await http.get(f"{node.http}/readyz")).status_code == 200
                    except httpx.TransportError:
                        ready = False
                    self.nodes[node] = ready
                await trio.sleep(0.02)

    async def dial(self, address: Address) -> trio.abc.Stream:
        """Connect to a node that is ready."""
        ready = [node for node, is_ready in self.nodes.items() if is_ready]
        if not ready:
            raise OSError("no node is ready")
        return await self._tcp(replace(address, port=ready[next(self._turn) % len(ready)].port))


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


async def node(
    folder: Folder, balancer: Balancer, name: str, *, task_status: trio.TaskStatus[Served]
) -> None:
    """A node from its start, and when it is ready, to its end."""
    async with serving(folder, GATEWAY_NODE=name) as served:
        balancer.nodes[served] = False
        await until(lambda: balancer.nodes[served], "readiness")
        task_status.started(served)
        await served.process.wait()
        del balancer.nodes[served]


async def publish(balancer: Balancer, stop: trio.Event, lasts: dict[str, int]) -> None:
    """Publish in all rooms in turn until told to stop; then the last event of each."""
    async with connected(balancer, TOKENS.issue(org="acme", roles=["service"]).token) as client:
        for number in itertools.count():
            if stop.is_set():
                break
            await client.publish(f"r{number % ROOMS}", "e", number)
            await trio.sleep(0.02)
        for number in range(ROOMS):
            room = f"r{number}"
            lasts[room] = (await client.publish(room, "last")).seq or 0


async def retire(old: Served) -> None:
    """Stop a node as a release does."""
    old.process.send_signal(signal.SIGTERM)
    with trio.fail_after(DEADLINE):
        assert await old.process.wait() == 0


async def test_a_release_loses_nothing(tmp_path: Path) -> None:
    balancer = Balancer()
    listeners = [Listener(number) for number in range(CLIENTS)]
    lasts: dict[str, int] = {}
    stop = trio.Event()
    async with redis_server(tmp_path / "redis") as redis:
        folder = Folder(
            tmp_path,
            {
                "GATEWAY_AUTH_SECRET": SECRET,
                "GATEWAY_BROKER": redis.url,
                "GATEWAY_DRAIN_DELAY": "0.2",
                "GATEWAY_DRAIN_PACE": str(PACE),
                "GATEWAY_RETRY_AFTER": "0.5",
            },
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(balancer.watch)
            old = [await nursery.start(node, folder, balancer, name) for name in ("a1", "b1")]
            async with trio.open_nursery() as listening:
                for listener in listeners:
                    listening.start_soon(listener.run, balancer)
                with trio.fail_after(DEADLINE):
                    for listener in listeners:
                        await listener.joined.wait()
                    assert {listener.client.connection.node for listener in listeners} == {"a1", "b1"}
                nursery.start_soon(publish, balancer, stop, lasts)
                for number, name in enumerate(("a2", "b2")):
                    await retire(old[number])
                    others = {"b1", "a2", "b2"} if number == 0 else {"a2", "b2"}
                    await until(lambda: {each.client.connection.node for each in listeners} <= others)  # noqa: B023
                    if number == 0:
                        await nursery.start(node, folder, balancer, name)
                stop.set()
                with trio.fail_after(DEADLINE):
                    for listener in listeners:
                        await listener.complete.wait()
                    counted = (await listeners[0].client.info())["messages_in"]
                listening.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    assert counted == 2, "the resumption, and this question: no room was joined by itself"
    assert min(lasts.values()) > 5
    for listener in listeners:
        for room, seen in listener.seen.items():
            assert seen == list(range(listener.first[room], lasts[room] + 1)), (listener.number, room)
