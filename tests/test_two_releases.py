"""A roll from the release before to this one, and back: nodes of both on one Redis, under load.

The wheel of the release before lies in ``tests/wheels``. Clients are of this release. Every number of every
room is checked at every client, whichever nodes it was on and whichever release took the event.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import httpx
import trio

from gateway.client import Client, Event, Lost
from gateway.testing.settings import SECRET
from tests.processes import DEADLINE, Folder, Served
from tests.redis_server import redis_server
from tests.releases import ROOMS, TOKENS, Balancer, Listener, connected, heard_all, listen, node, retire
from tests.support import until

WHEEL = next((Path(__file__).parent / "wheels").glob("*.whl"))
CLIENTS = 40
ROUNDS = 5


class Only(Balancer):
    """Connects to one node."""

    def __init__(self, node: Served) -> None:
        super().__init__()
        self.nodes[node] = True


def service(node: Served, org: str = "acme") -> Any:
    return connected(Only(node), TOKENS.issue(org=org, roles=["service"]).token)


async def following(client: Client, name: str) -> Event:
    """The next event of this name."""
    with trio.fail_after(DEADLINE):
        async for event in client:
            assert not isinstance(event, Lost), event
            if event.event == name:
                return event
    raise AssertionError("the client ended")


async def publish(nodes: list[Served], stop: trio.Event, lasts: dict[str, int]) -> None:
    """Publish in all rooms in turn through all of these nodes in turn, ``ROUNDS`` times at least."""
    async with service(nodes[0]) as first, service(nodes[-1]) as second:
        for number in itertools.count():
            if stop.is_set() and number >= ROUNDS * ROOMS:
                return
            client = first if number // ROOMS % 2 else second
            found = await client.publish(f"r{number % ROOMS}", "e", number)
            lasts[f"r{number % ROOMS}"] = found.seq or 0
            await trio.sleep(0.005)


async def all_have(listeners: list[Listener], lasts: dict[str, int]) -> None:
    """Wait for the last event of each room at each client."""
    for listener in listeners:
        for room, seen in listener.seen.items():
            await until(lambda seen=seen, room=room: seen and seen[-1] == lasts[room], room)


async def crossed(here: Served, there: Served) -> None:
    """What ``here`` takes reaches clients ``there``: for the organisation, a user, a connection."""
    token = TOKENS.issue(org="other", user="alice").token
    async with connected(Only(there), token) as alice, service(here, "other") as sender:
        await sender.publish(None, "all", 1)
        assert (await following(alice, "all")).data == 1
        await until_present(here, alice.connection.connection)
        sent = await sender.send("mine", 2, user="alice")
        assert sent.connections == 1
        assert (await following(alice, "mine")).data == 2
        await sender.send("this", 3, connection=alice.connection.connection)
        assert (await following(alice, "this")).data == 3
        await sender.publish("here", "kept", 4)
        assert [each.data for each in (await alice.history("here")).events][-1] == 4


async def until_present(node: Served, connection: str) -> None:
    """Wait until ``node`` lists a connection, which is another's."""
    headers = {"Authorization": f"Bearer {TOKENS.issue(org='other', roles=['service']).token}"}
    async with httpx.AsyncClient(timeout=DEADLINE, headers=headers) as http:
        with trio.fail_after(DEADLINE):
            while True:
                answer = (await http.get(f"{node.http}/api/v1/connections")).json()
                if connection in [each["connection"] for each in answer["connections"]]:
                    return
                await trio.sleep(0.05)


async def test_a_roll_to_this_release_and_back_loses_nothing(tmp_path: Path) -> None:
    balancer = Balancer()
    listeners = [Listener(number) for number in range(CLIENTS)]
    lasts: dict[str, int] = {}
    async with redis_server(tmp_path / "redis") as redis:
        environ = {
            "GATEWAY_AUTH_SECRET": SECRET,
            "GATEWAY_BROKER": redis.url,
            "GATEWAY_RETRY_AFTER": "0.2",
        }
        this = Folder(tmp_path, environ | {"GATEWAY_DATABASE": "none"})
        before = Folder(tmp_path, environ).of_release(WHEEL)

        async def replaced(old: Served, new: Served) -> None:
            """Publish through both while clients move from one to the other by themselves."""
            stop = trio.Event()
            async with trio.open_nursery() as publishing:
                publishing.start_soon(publish, [new], stop, lasts)
                await retire(old)
                await until(lambda: {each.client.connection.node for each in listeners} == {names[new]})
                stop.set()
            await all_have(listeners, lasts)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(balancer.watch)
            names: dict[Served, str] = {}

            async def start(folder: Folder, name: str) -> Served:
                started: Served = await nursery.start(node, folder, balancer, name)
                names[started] = name
                return started

            old, new = await start(before, "old"), await start(this, "new")
            async with trio.open_nursery() as listening:
                await listen(listening, listeners, balancer)
                assert {listener.client.connection.node for listener in listeners} == {"old", "new"}
                (stop := trio.Event()).set()
                await publish([old, new], stop, lasts)
                await all_have(listeners, lasts)
                await crossed(old, new)
                await crossed(new, old)
                moving = next(each for each in listeners if each.client.connection.node == "old")
                await replaced(old, new)
                counted = (await moving.client.info())["messages_in"]
                assert counted == 2, "the resumption, and this question: no room was joined by itself"
                back = await start(before, "back")
                await replaced(new, back)
                listening.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    heard_all(listeners, lasts)
