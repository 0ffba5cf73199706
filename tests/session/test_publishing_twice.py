"""Publishing with a message id that was there already: one event, one place, on whichever way."""

from __future__ import annotations

from typing import Any

import trio

from gateway.app import Gateway
from protocol.codec import Codec
from tests.rest.api import asking, success
from tests.support import Raw, connected, running_gateway


async def over_a_socket(client: Raw, **fields: Any) -> tuple[int | None, str | None, str | None]:
    reply = await client.ask("publish", event="e", **fields)
    assert reply.t == "reply", reply
    return reply.seq, reply.epoch, reply.mid


async def test_the_second_has_the_place_of_the_first_on_every_way(gateway: Gateway, codec: Codec) -> None:
    async with (
        asking(gateway) as ask,
        connected(gateway, user="listener", codec=codec) as listener,
        connected(gateway, user="one", codec=codec, roles=["service"]) as one,
        connected(gateway, user="two", codec=codec) as two,
    ):
        await listener.ask("join", room="r")
        first = await over_a_socket(one, room="r", mid="m", data=1)
        assert first == (1, first[1], "m")
        assert await over_a_socket(one, room="r", mid="m", data=1) == first
        assert await over_a_socket(two, room="r", mid="m", data="another") == first
        assert await over_a_socket(one, room="r", mid="m", critical=True) == first
        answer = success(await ask.post("/broadcast", {"room": "r", "event": "e", "mid": "m"}))
        assert (answer["seq"], answer["epoch"], answer["mid"]) == first
        batch = [{"op": "broadcast", "room": "r", "event": "e", "mid": "m"}] * 3
        results = success(await ask.post("/batch", {"operations": batch}))["results"]
        assert [(each["seq"], each["epoch"], each["mid"]) for each in results] == [first] * 3
        # To everybody, too; and each room, and everybody, counts for itself.
        everybody = await over_a_socket(one, mid="m")
        assert await over_a_socket(one, mid="m") == everybody
        assert (await over_a_socket(one, room="s", mid="m"))[0] == 1
        events = await listener.settled()
        assert [(event.room, event.seq, event.data) for event in events] == [("r", 1, 1), (None, 1, None)]
        page = await listener.ask("history", room="r")
        assert [event["mid"] for event in page.data["events"]] == ["m"]
        assert (await over_a_socket(one, room="r", mid="n"))[0] == 2, "and no number was used up"


async def test_at_the_same_time(gateway: Gateway) -> None:
    async with connected(gateway, user="listener") as listener, asking(gateway) as ask:
        await listener.ask("join", room="r")
        places: set[tuple[int, str]] = set()

        async def publish() -> None:
            place = success(await ask.post("/broadcast", {"room": "r", "event": "e", "mid": "m"}))
            places.add((place["seq"], place["epoch"]))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(publish)
        assert len(places) == 1
        assert len(await listener.settled()) == 1


async def test_organisations_do_not_share_message_ids(gateway: Gateway) -> None:
    async with connected(gateway) as ours, connected(gateway, org="globex") as theirs:
        for client in (ours, theirs):
            await client.ask("join", room="r")
            assert (await over_a_socket(client, room="r", mid="m"))[0] == 1
            assert len(client.events) == 1
            assert (await over_a_socket(client, room="r", mid="m"))[0] == 1
            assert len(client.events) == 1


async def test_the_window_is_the_history(codec: Codec) -> None:
    async with running_gateway(history={"messages": 5}) as gateway, connected(gateway, codec=codec) as client:
        assert (await over_a_socket(client, room="r", mid="m"))[0] == 1
        for number in range(4):
            await over_a_socket(client, room="r", mid=f"other{number}")
        assert (await over_a_socket(client, room="r", mid="m"))[0] == 1, "the fifth from the end"
        await over_a_socket(client, room="r", mid="one more")
        assert (await over_a_socket(client, room="r", mid="m"))[0] == 7, "which is behind the window now"
