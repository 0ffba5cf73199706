"""What is sent to organisations and users has an order as rooms have: nothing is lost without a word."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app import Gateway
from gateway.broker.base import user_channel
from gateway.config.settings import UserHistory
from gateway.hub.connection import Connection
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import ErrorCode as E
from tests.support import Raw, connected, running_gateway, until

OWN = ("organisation", "user")


async def tell(gateway: Gateway, of: str, event: str = "e", data: Any = None, **options: Any) -> int:
    """Send to the organisation or to alice; returns the place."""
    if of == "organisation":
        return (await gateway.hub.publish("acme", None, event, data, **options)).seq
    return (await gateway.hub.send_to_user("acme", "alice", event, data, **options)).seq or 0


def numbers(messages: list[Envelope], of: str) -> list[int | None]:
    to = "user" if of == "user" else None
    return [each.seq for each in messages if each.t == "event" and each.room is None and each.to == to]


async def go_on(client: Raw, of: str, since: Any, **options: Any) -> Any:
    reply = await client.ask("join", data={of: {"since": since, **options}})
    assert reply.t == "reply", reply
    return reply.data[of]


@pytest.mark.parametrize("of", OWN)
async def test_what_was_missed_comes_with_since(gateway: Gateway, codec: Codec, of: str) -> None:
    async with connected(gateway, codec=codec) as alice:
        position = alice.greeting.data["positions"][of]
        assert await tell(gateway, of) == position["seq"] + 1
        assert (await alice.event()).seq == position["seq"] + 1
    await until(lambda: not gateway.hub.connections)
    for number in range(3):
        await tell(gateway, of, data=number)
    async with connected(gateway, codec=codec) as alice:
        here = alice.greeting.data["positions"][of]
        assert here == {**position, "seq": 4}
        assert await go_on(alice, of, {**position, "seq": 1}) == {**here, "recovered": True, "replayed": 3}
        assert numbers(await alice.settled(), of) == [2, 3, 4]
        await tell(gateway, of)
        assert numbers(await alice.settled(), of) == [5]


async def test_both_at_once_and_what_comes_meanwhile_comes_behind(gateway: Gateway) -> None:
    for of in OWN:
        for _ in range(2):
            await tell(gateway, of)
    async with connected(gateway) as alice:
        places = alice.greeting.data["positions"]
        wanted = {of: {"since": {**places[of], "seq": 0}} for of in OWN}
        reply = await alice.ask("join", data=wanted)
        assert {of: reply.data[of]["replayed"] for of in OWN} == {"organisation": 2, "user": 2}
        for of in OWN:
            await tell(gateway, of)
        came = await alice.settled()
        for of in OWN:
            assert numbers(came, of) == [1, 2, 3]


@pytest.mark.parametrize("of", OWN)
async def test_one_token_brings_all_three_back(gateway: Gateway, of: str) -> None:
    async with connected(gateway) as alice:
        await alice.ask("join", room="r")
        await tell(gateway, of)
        seq = (await alice.event()).seq
        acked = await alice.ask("ack", seq=seq, data={"of": of})
        assert (acked.seq, acked.room) == (seq, None)
        token = alice.greeting.data["resume"]
    await until(lambda: not gateway.hub.connections)
    await tell(gateway, of)
    await gateway.hub.publish("acme", "r", "e")
    async with connected(gateway) as alice:
        reply = await alice.ask("join", data={"resume": token})
        assert reply.data[of]["recovered"] is True and reply.data[of]["replayed"] == 1
        assert reply.data["rooms"]["r"]["replayed"] == 1
        came = await alice.settled()
        assert numbers(came, of) == [2]
        assert [each.seq for each in came if each.room == "r"] == [1]


async def test_the_client_may_know_better_where_it_stood(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        position = alice.greeting.data["positions"]["user"]
        token = alice.greeting.data["resume"]
    await until(lambda: not gateway.hub.connections)
    for _ in range(3):
        await tell(gateway, "user")
    async with connected(gateway) as alice:
        data = {"resume": token, "user": {"since": {**position, "seq": 2}}}
        assert (await alice.ask("join", data=data)).data["user"]["replayed"] == 1
        assert numbers(await alice.settled(), "user") == [3]


@pytest.mark.parametrize("of", OWN)
async def test_what_is_gone_is_told(of: str) -> None:
    async with running_gateway(history={"messages": 2, "user": UserHistory(messages=2)}) as gateway:
        for _ in range(5):
            await tell(gateway, of)
        async with connected(gateway) as alice:
            position = alice.greeting.data["positions"][of]
            outcome = await go_on(alice, of, {**position, "seq": 1})
            assert (outcome["recovered"], outcome["replayed"]) == (False, 2)
            lost, *events = await alice.settled()
            assert (lost.t, lost.room, lost.to) == ("lost", None, "user" if of == "user" else None)
            assert (lost.data["from"], lost.data["to"], lost.data["reason"]) == (2, 3, "history")
            assert numbers(events, of) == [4, 5]


@pytest.mark.parametrize("of", OWN)
async def test_history_of(gateway: Gateway, codec: Codec, of: str) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        for number in range(3):
            await tell(gateway, of, data=number, mid=f"m{number}")
        page = await alice.ask("history", data={"of": of, "limit": 2})
        assert [each["mid"] for each in page.data["events"]] == ["m1", "m2"]
        assert (page.seq, page.room) == (3, None)
        theirs = await bob.ask("history", data={"of": of})
        assert len(theirs.data["events"]) == (3 if of == "organisation" else 0)


@pytest.mark.parametrize("of", OWN)
async def test_the_same_mid_has_the_same_place(gateway: Gateway, of: str) -> None:
    async with connected(gateway) as alice:
        assert [await tell(gateway, of, mid="m") for _ in range(2)] == [1, 1]
        assert numbers(await alice.settled(), of) == [1]


async def test_what_is_ephemeral_has_no_place(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        sent = await bob.ask("send", event="e", data={"user": "alice", "ephemeral": True})
        assert (sent.seq, sent.epoch, sent.data) == (None, None, {"connections": 1})
        event = await alice.event()
        assert (event.to, event.seq, event.epoch) == ("user", None, None)
        assert (await alice.ask("history", data={"of": "user"})).data["events"] == []


@pytest.mark.parametrize("overflow", ["drop_oldest", "conflate", "replay"])
@pytest.mark.parametrize("of", OWN)
async def test_a_slow_client_may_choose_what_becomes_of_it(gateway: Gateway, of: str, overflow: str) -> None:
    async with connected(gateway) as alice:
        reply = await alice.ask("join", data={of: {"overflow": overflow, "events": ["a"]}})
        assert reply.data[of] == alice.greeting.data["positions"][of]
        connection: Connection = next(iter(gateway.hub.connections.values()))
        place = connection.internal[OWN.index(of)]
        assert (place.overflow, list(place.events.events)) == (overflow, ["a"])
        await tell(gateway, of, "b")
        await tell(gateway, of, "a")
        assert numbers(await alice.settled(), of) == [2]


async def test_bad_input(gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway, user=None, roles=["service"]) as nobody:
        for data in (
            {"user": {"since": {"epoch": "e", "seq": -1}}},
            {"user": 5},
            {"organisation": {"overflow": "never"}},
            {"user": {"events": ["\0"]}},
        ):
            assert (await alice.ask("join", data=data)).code == E.BAD_FIELD
        assert (await alice.ask("join", room="r", data={"user": {}})).code == E.BAD_FIELD
        assert (await alice.ask("history", room="r", data={"of": "user"})).code == E.BAD_FIELD
        assert (await alice.ask("history", data={"of": "everybody"})).code == E.BAD_FIELD
        assert (await alice.ask("ack", room="r", seq=1, data={"of": "user"})).code == E.BAD_FIELD
        assert (await alice.ask("ack", data={"of": "user"})).code == E.MISSING_FIELD
        for user in ("", "a\0u", "x" * 1000):
            assert (await nobody.ask("send", event="e", data={"user": user})).code == E.BAD_FIELD
        for refused in (
            await nobody.ask("join", data={"user": {}}),
            await nobody.ask("history", data={"of": "user"}),
            await nobody.ask("ack", seq=1, data={"of": "user"}),
        ):
            assert refused.code == E.BAD_FIELD
        assert set(nobody.greeting.data["positions"]) == {"organisation"}


async def test_several_users_at_once(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        await tell(gateway, "user")
        users = ["alice", "bob", "away", "bob"]
        reply = await bob.ask("send", event="e", mid="m", data={"users": users, "data": 1})
        assert {user: place["seq"] for user, place in reply.data["users"].items()} == {
            "alice": 2,
            "bob": 1,
            "away": 1,
        }
        again = await bob.ask("send", event="e", mid="m", data={"users": users, "data": 1})
        assert (again.mid, again.data) == (reply.mid, reply.data)
        assert numbers(await alice.settled(), "user") == [1, 2]
        assert numbers(await bob.settled(), "user") == [1]
        for wrong, code in (([], E.BAD_FIELD), (["a", ""], E.BAD_FIELD), (["x"] * 1001, E.TOO_LARGE)):
            assert (await bob.ask("send", event="e", data={"users": wrong})).code == code
        both = await bob.ask("send", event="e", data={"users": ["a"], "user": "b"})
        assert both.code == E.BAD_FIELD
    async with connected(gateway, user="carol", rooms={"user:bob": ["publish"]}) as carol:
        refused = await carol.ask("send", event="e", data={"users": ["bob", "alice"]})
        assert refused.code == E.FORBIDDEN, "and bob has not got it"
        page = await gateway.hub.history_of(user_channel("acme", "bob"), limit=10)
        assert page.seq == 1
