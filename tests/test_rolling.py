"""A release: two nodes over one Redis are replaced one after the other, while 200 clients listen.

Each node is a process. A balancer sends new connections to nodes whose ``/readyz`` says yes, as any load
balancer does; clients are ours. Every number of every room is checked at every client.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import trio

from gateway.auth.tokens import Authenticator
from gateway.client import Backoff, Client, Lost, connect
from gateway.config.settings import AuthSettings
from gateway.testing.settings import SECRET
from tests.processes import DEADLINE, Folder
from tests.redis_server import redis_server
from tests.releases import Balancer, node, retire
from tests.support import until

CLIENTS = 200
ROOMS = 8
PACE = 50
TOKENS = Authenticator(AuthSettings(secret=SECRET))


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
