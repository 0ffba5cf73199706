"""Nothing crosses from one organisation to another: random operations, and everybody's post is checked."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from gateway.app import Gateway
from protocol.cbor import CBOR
from protocol.json import JSON
from tests.support import Raw, connected, running_gateway

ORGANISATIONS = ("acme", "umbrella", "acme.r")
"""One of them looks like a prefix of another with a separator behind."""
USERS = ("alice", "bob", None)
ROOMS = ("chat:1", "chat:2", "r", "o")


class World:
    """What the test itself knows: who is in which room, and what each must have received."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.clients: list[tuple[str, str | None, Raw]] = []
        self.rooms: dict[Raw, set[str]] = {}
        self.expected: dict[Raw, list[str]] = {}
        self.number = 0

    def payload(self, org: str) -> dict[str, Any]:
        self.number += 1
        return {"org": org, "n": self.number}

    def expect(self, org: str, data: dict[str, Any], chosen: Any) -> None:
        for of, user, client in self.clients:
            if of == org and chosen(user, client):
                self.expected[client].append(str(data["n"]))


async def operate(world: World, rng: random.Random) -> None:
    org, user, client = rng.choice(world.clients)
    room = rng.choice(ROOMS)
    hub = world.gateway.hub
    match rng.randrange(7):
        case 0:
            assert (await client.ask("join", room=room)).t == "reply"
            world.rooms[client].add(room)
        case 1:
            answer = await client.ask("leave", room=room)
            assert answer.t == ("reply" if room in world.rooms[client] else "error")
            world.rooms[client].discard(room)
        case 2:
            data = world.payload(org)
            assert (await client.ask("publish", room=room, event="said", data=data)).t == "reply"
            world.expect(org, data, lambda _, other: room in world.rooms[other])
        case 3:
            data = world.payload(org)
            excluded = rng.choice(USERS[:2])
            await hub.publish(org, None, "news", data, exclude=frozenset((excluded,)))
            world.expect(org, data, lambda name, _: name != excluded)
        case 4:
            data = world.payload(org)
            target = rng.choice(USERS[:2])
            sent = await client.ask("send", event="direct", data={"user": target, "data": data})
            assert sent.t == "reply"
            world.expect(org, data, lambda name, _: name == target)
        case 5:
            other_org, _, other = rng.choice(world.clients)
            data = world.payload(org)
            wanted = {"connection": other.greeting.data["connection"], "data": data}
            answer = await client.ask("send", event="direct", data=wanted)
            assert answer.t == ("reply" if other_org == org else "error"), answer
            if other_org == org:
                world.expect(org, data, lambda _, it: it is other)
        case 6:
            stats = (await client.ask("stats")).data
            assert stats["connections"] == sum(of == org for of, _, _ in world.clients)
            for name, members in stats["rooms"].items():
                there = [c for of, _, c in world.clients if of == org and name in world.rooms[c]]
                assert members == len(there)


@pytest.mark.parametrize("seed", range(6))
async def test_random_operations_never_cross_organisations_and_lose_nothing(seed: int) -> None:
    rng = random.Random(seed)
    async with running_gateway() as gateway, contextlib.AsyncExitStack() as stack:
        world = World(gateway)
        for org in ORGANISATIONS:
            for user in USERS:
                codec = rng.choice((JSON, CBOR))
                client = await stack.enter_async_context(connected(gateway, org=org, user=user, codec=codec))
                world.clients.append((org, user, client))
                world.rooms[client] = set()
                world.expected[client] = []
        for _ in range(150):
            await operate(world, rng)
        for org, _, client in world.clients:
            events = await client.settled()
            assert {event.data["org"] for event in events} <= {org}
            assert [str(event.data["n"]) for event in events] == world.expected[client]


async def test_history_presence_and_disconnect_stay_inside_the_organisation(gateway: Gateway) -> None:
    async with connected(gateway, org="acme") as ours, connected(gateway, org="umbrella") as theirs:
        await ours.ask("join", room="plans")
        await ours.ask("publish", room="plans", event="said", data="secret")
        page = await theirs.ask("history", room="plans")
        assert page.data["events"] == [] and page.seq == 0
        assert (await theirs.ask("presence", room="plans")).data == {"members": [], "connections": 0}
        assert (await theirs.ask("join", room="plans", data={"since": {"epoch": "x", "seq": 0}})).seq == 0
        # A resume token of ours says nothing to them.
        token = ours.greeting.data["resume"]
        assert (await theirs.ask("join", data={"resume": token})).code == 109
