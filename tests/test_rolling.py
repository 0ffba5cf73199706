"""A release: two nodes over one Redis are replaced one after the other, while 200 clients listen.

Each node is a process. A balancer sends new connections to nodes whose ``/readyz`` says yes, as any load
balancer does; clients are ours. Every number of every room is checked at every client.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import trio

from gateway.testing.settings import SECRET
from tests.processes import DEADLINE, Folder
from tests.redis_server import redis_server
from tests.releases import ROOMS, TOKENS, Balancer, Listener, connected, heard_all, listen, node, retire
from tests.support import until

CLIENTS = 200
PACE = 50


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
                await listen(listening, listeners, balancer)
                assert {each.client.connection.node for each in listeners} == {"a1", "b1"}
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
    heard_all(listeners, lasts)
