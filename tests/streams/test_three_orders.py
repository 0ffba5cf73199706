"""Rooms, the organisation and the user: one cursor over all of them, whoever ends a stream, and wherever."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from gateway.app import Gateway
from gateway.config.settings import UserHistory
from tests.cluster.together import together
from tests.redis_server import RedisServer
from tests.streams.support import Caller, Events
from tests.support import connected, running_gateway, until

ROOMS = ["a", "b"]
OWN = ["organisation", "user"]
ORDERS = [*ROOMS, *OWN]
NUMBER = 60
"""Events of each order in a flood."""
AHEAD = 25
"""Events of a flood that nobody has got yet."""


async def tell(gateway: Gateway, order: str, data: Any = None) -> None:
    if order == "user":
        await gateway.send_to_user("acme", "alice", "e", data)
    else:
        await gateway.publish("acme", None if order == "organisation" else order, "e", data)


def order_of(message: dict[str, Any]) -> str:
    return message.get("to") or message.get("room") or "organisation"


class Followed:
    """What a client has got of each order."""

    def __init__(self) -> None:
        self.came: dict[str, list[int]] = {order: [] for order in ORDERS}

    def take(self, message: dict[str, Any]) -> bool:
        """Whether it was an event."""
        assert message["t"] in {"connected", "reply", "event", "closing"}, message
        if message["t"] == "event":
            self.came[order_of(message)].append(message["data"])
        return bool(message["t"] == "event")

    @property
    def total(self) -> int:
        return sum(map(len, self.came.values()))

    @property
    def complete(self) -> bool:
        return self.total >= NUMBER * len(ORDERS)

    def check(self) -> None:
        for order, came in self.came.items():
            assert came == list(range(NUMBER)), order


async def flood(nodes: list[Gateway], followers: list[Followed]) -> None:
    """All events, never far ahead of the quickest of ``followers``."""
    rng = random.Random(7)
    left = {order: list(range(NUMBER)) for order in ORDERS}
    for number in range(NUMBER * len(ORDERS)):
        while number > AHEAD + max(followed.total for followed in followers):
            await trio.lowlevel.checkpoint()
        order = rng.choice([order for order, numbers in left.items() if numbers])
        await tell(nodes[number % len(nodes)], order, left[order].pop(0))


async def read_some(events: Events, followed: Followed, most: int) -> None:
    """Up to ``most`` events, or all that there are."""
    while most and not followed.complete:
        most -= followed.take(await events.next())


async def follow_by_socket(gateway: Gateway, followed: Followed, rng: random.Random) -> None:
    """By WebSocket, coming back with ``since`` wherever it was cut off."""
    place: dict[str, dict[str, Any]] = {}
    while not followed.complete:
        async with connected(gateway) as socket:
            if not place:
                greeted = socket.greeting.data["positions"]
                place = {of: {"epoch": each["epoch"], "seq": 0} for of, each in greeted.items()}
                for room in ROOMS:
                    place[room] = {"epoch": (await socket.ask("history", room=room)).epoch, "seq": 0}
            for room in ROOMS:
                await socket.ask("join", room=room, data={"since": place[room]})
            await socket.ask("join", data={of: {"since": place[of]} for of in OWN})
            # What came of these two before the reply comes again behind it.
            socket.events[:] = [event for event in socket.events if event.room is not None]
            for _ in range(rng.randrange(1, 60)):
                if followed.complete:
                    return
                event = await socket.event()
                order = event.room or event.to or "organisation"
                place[order]["seq"] = event.seq
                followed.came[order].append(event.data)


async def test_whoever_is_cut_off_in_a_flood_goes_on_where_they_were(gateway: Gateway) -> None:
    """On all transports; of streams some alone, and enough with the same rooms for one pass over them all."""
    caller = Caller(gateway)
    _, start = await caller.poll(join=ROOMS, timeout=0)
    followers = [Followed() for _ in range(23)]

    async def follow(followed: Followed, rooms: list[str], rng: random.Random) -> None:
        last_id = start
        while not followed.complete:
            async with caller.stream(join=rooms, last_id=last_id) as events:
                await read_some(events, followed, rng.randrange(1, 60))
            last_id = events.last_id

    async def poll(followed: Followed, rng: random.Random) -> None:
        cursor = start
        while not followed.complete:
            messages, following = await caller.poll(join=ROOMS, timeout=1, cursor=cursor)
            if rng.random() < 0.8:  # other answers get lost on the way
                cursor = following
                for message in messages:
                    followed.take(message)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, [gateway], followers)
            for seed, followed in enumerate(followers):
                rng = random.Random(seed)
                if seed < 18:
                    nursery.start_soon(follow, followed, ROOMS, rng)
                elif seed == 18:
                    nursery.start_soon(follow, followed, ["b", "a", "more"], rng)
                elif seed < 21:
                    nursery.start_soon(poll, followed, rng)
                else:
                    nursery.start_soon(follow_by_socket, gateway, followed, rng)
    for followed in followers:
        followed.check()


async def test_a_cursor_is_good_on_any_node_and_for_any_way_in(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", history={"messages": 1000}) as nodes:
        callers, followed, rng = [Caller(node) for node in nodes], Followed(), random.Random(3)
        _, cursor = await callers[0].poll(join=ROOMS, timeout=0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, nodes, [followed])
            with trio.fail_after(60):
                while not followed.complete:
                    caller = rng.choice(callers)
                    if rng.random() < 0.5:
                        messages, cursor = await caller.poll(join=ROOMS, cursor=cursor)
                        for message in messages:
                            followed.take(message)
                        continue
                    async with caller.stream(join=ROOMS, last_id=cursor) as events:
                        await read_some(events, followed, rng.randrange(1, 25))
                    cursor = events.last_id
        followed.check()


async def test_many_streams_share_their_bytes_and_each_has_its_own_place(gateway: Gateway) -> None:
    """Enough of them for the one pass over their sockets; some of them were sent something of their own."""
    names = [f"u{number}" for number in range(20)]
    last: dict[str, str] = {}
    async with trio.open_nursery() as nursery:
        ready = trio.Event()

        async def follow(name: str) -> None:
            caller = Caller(gateway, user=name)
            async with caller.stream(join="r") as events:
                await events.of("reply")
                begun.append(name)
                await ready.wait()
                while (await events.of("event")).get("data") != "last":
                    pass
                last[name] = events.last_id

        begun: list[str] = []
        for name in names:
            nursery.start_soon(follow, name)
        await until(lambda: len(begun) == len(names))
        ready.set()
        await gateway.publish("acme", "r", "e")
        for name in names[::2]:
            await gateway.send_to_user("acme", name, "own")
        await gateway.publish("acme", None, "e")
        await gateway.publish("acme", "r", "e", "last")
    assert len(set(last.values())) == len(names)
    for name in names:
        await gateway.send_to_user("acme", name, "missed")
        messages, _ = await Caller(gateway, user=name).poll(join="r", cursor=last[name])
        assert [each["event"] for each in messages] == ["missed"], name


@pytest.mark.parametrize("of", ["organisation", "user"])
@pytest.mark.parametrize("way", ["stream", "poll"])
async def test_a_position_in_the_query(of: str, way: str) -> None:
    async with running_gateway(history={"messages": 3, "user": UserHistory(messages=3)}) as gateway:
        caller = Caller(gateway)
        async with caller.stream() as events:
            epoch = (await events.next())["data"]["positions"][of]["epoch"]
        for number in range(1, 7):
            await tell(gateway, of, number)

        async def ask(seq: int) -> list[dict[str, Any]]:
            """What comes, up to the sixth event."""
            query = {of: f"{epoch}:{seq}"}
            if way == "poll":
                return (await caller.poll(**query))[0]
            found: list[dict[str, Any]] = []
            async with caller.stream(**query) as events:
                while not found or found[-1].get("data") != 6:
                    found.append(await events.next())
            assert (found[0]["t"], found[1]["t"], found[1]["id"]) == ("connected", "reply", 0)
            assert found[1]["data"][of]["recovered"] is (seq >= 3)
            return found[2:]

        assert [each["data"] for each in await ask(4)] == [5, 6]
        lost, *messages = await ask(1)
        assert (lost["t"], lost.get("to"), lost["data"]) == (
            "lost",
            "user" if of == "user" else None,
            {"from": 2, "to": 3, "reason": "history"},
        )
        assert [each["data"] for each in messages] == [4, 5, 6]


@pytest.mark.parametrize("way", ["/stream", "/poll"])
async def test_bad_positions_and_cursors(gateway: Gateway, way: str) -> None:
    caller = Caller(gateway)
    async with caller.stream(join="r") as events:
        await events.of("reply")
        await tell(gateway, "r")
        await events.of("event")
        cursor = events.last_id
    assert cursor.count(".") == 1, "what all share, and what is the user's own"
    own, shared = cursor.split(".")
    middle = len(cursor) // 2
    for query in (
        *({of: bad} for of in ("organisation", "user") for bad in ("", "e", ":1", "e:", "e:-1", "e:x")),
        {"user": f"e:{2**63}"},
        {"user": f"{'e' * 101}:1"},
        *({"cursor": cursor[:at] + changed + cursor[at + 1 :]} for at in (1, middle) for changed in ".A~"),
        {"cursor": cursor[:-1]},
        {"cursor": cursor + "A"},
        {"cursor": f"{own}.{shared}.{shared}"},
        {"cursor": "."},
    ):
        if query.get("cursor") == cursor:
            continue
        refused = await caller.get(way, join="r", **query)
        assert (refused.status_code, refused.json()["code"]) == (400, 104), query
    assert (await caller.get("/poll", join="r", cursor=shared, timeout=0)).status_code == 200
    bob = Caller(gateway, user="bob")
    for foreign in (cursor, own):
        refused = await bob.get(way, join="r", cursor=foreign)
        assert (refused.status_code, refused.json()["code"]) == (400, 104)
    nobody = Caller(gateway)
    token = gateway.auth.issue(org="acme", user=None, roles=["service"]).token
    nobody.headers = {"Authorization": f"Bearer {token}"}
    refused = await nobody.get(way, user="e:1")
    assert (refused.status_code, refused.json()["code"]) == (400, 104)
    assert not gateway.hub.connections
