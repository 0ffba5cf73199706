"""``GET /api/v1/poll``: cursor after cursor, on one node or on several."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio

from gateway.app import Gateway
from tests.streams.support import Caller
from tests.support import running_gateway, start_gateway, until


async def test_polls_follow_a_flood_without_a_gap(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, history={"messages": 1000})
    caller = Caller(gateway)
    found: dict[str, list[int]] = {"a": [], "b": []}
    messages, cursor = await caller.poll(join=["a", "b"], timeout=0)
    assert messages == []

    async def flood() -> None:
        for number in range(400):
            for room in found:
                await gateway.publish("acme", room, "e", number)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as flooding:
        flooding.start_soon(flood)
        with trio.fail_after(60):
            while any(len(numbers) < 400 for numbers in found.values()):
                messages, cursor = await caller.poll(join=["b", "a"], cursor=cursor)
                assert messages
                for message in messages:
                    found[message["room"]].append(message["data"])
    assert found == {"a": list(range(400)), "b": list(range(400))}
    assert await caller.poll(join=["b", "a"], cursor=cursor, timeout=0) == ([], cursor)
    await until(lambda: not gateway.hub.connections and not gateway.sessions)


async def test_it_answers_when_something_comes(gateway: Gateway) -> None:
    caller = Caller(gateway)
    answers: list[Any] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            answers.append(await caller.poll(join="r", events="x:*"))

        await until(lambda: any(each.memberships for each in gateway.hub.connections.values()))
        shown = (await caller.get("/connections")).json()["connections"]
        assert [each["subprotocol"] for each in shown] == ["poll"]
        await gateway.publish("acme", "r", "other")
        await gateway.publish("acme", "r", "x:1", {"n": 1})
    ((messages, _),) = answers
    assert [(each["event"], each["seq"], each["data"]) for each in messages] == [("x:1", 2, {"n": 1})]


async def test_two_polls_with_one_cursor_get_the_same(gateway: Gateway) -> None:
    caller = Caller(gateway)
    _, cursor = await caller.poll(join="r", timeout=0)
    await gateway.publish("acme", "r", "e", 1)
    first = await caller.poll(join="r", cursor=cursor)
    assert await caller.poll(join="r", cursor=cursor) == first


async def test_two_polls_that_wait_with_one_cursor_get_the_same(gateway: Gateway) -> None:
    caller = Caller(gateway)
    _, cursor = await caller.poll(join="r", timeout=0)
    answers = []

    async def wait() -> None:
        answers.append(await caller.poll(join="r", cursor=cursor))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await until(lambda: sum(len(each.memberships) for each in gateway.hub.connections.values()) == 2)
        await gateway.publish("acme", "r", "e", 1)
    assert answers[0] == answers[1]
    assert [each["data"] for each in answers[0][0]] == [1]


async def test_a_poll_says_nothing_that_its_client_has(gateway: Gateway) -> None:
    """Where nothing has moved since its cursor a poll waits; where something has, it says just that."""
    caller = Caller(gateway)
    await gateway.publish("acme", "r", "e", 1)
    await gateway.publish("acme", None, "all", 1)
    await gateway.send_to_user("acme", "alice", "mine", 1)
    async with caller.stream(join="r") as events:  # somebody is there, so the node knows how far all is
        await events.of("reply")
        _, cursor = await caller.poll(join="r", timeout=0)
        assert (await caller.poll(join="r", cursor=cursor, timeout=0))[0] == []
        for of in ("r", None):
            await gateway.publish("acme", of, "more", 2)
        await gateway.send_to_user("acme", "alice", "more", 2)
        (messages, cursor) = await caller.poll(join="r", cursor=cursor, timeout=0)
        assert [each["data"] for each in messages] == [2, 2, 2]
        assert (await caller.poll(join="r", cursor=cursor, timeout=0))[0] == []


async def test_a_poll_that_vanishes_leaves_nothing(gateway: Gateway) -> None:
    caller = Caller(gateway)
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.get, "/poll")
            await until(lambda: len(gateway.hub.connections) == 1)
            nursery.cancel_scope.cancel()
    await until(lambda: not gateway.hub.connections and not gateway.sessions)


async def test_a_drain_answers_polls_with_closing() -> None:
    async with running_gateway() as gateway:
        caller = Caller(gateway)
        answers: list[Any] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                answers.append(await caller.poll(join="r"))

            await until(lambda: any(each.memberships for each in gateway.hub.connections.values()))
            gateway.stop()
        ((messages, cursor),) = answers
        assert [(each["t"], each["code"]) for each in messages] == [("closing", 1012)]
        assert cursor


@pytest.mark.parametrize("timeout", ["-1", "61", "nan", "soon"])
async def test_bad_timeouts(gateway: Gateway, timeout: str) -> None:
    refused = await Caller(gateway).get("/poll", timeout=timeout)
    assert (refused.status_code, refused.json()["code"]) == (400, 104)


async def test_a_room_that_may_not_be_joined_is_refused(gateway: Gateway) -> None:
    caller = Caller(gateway, rooms={"ok": ["join"]})
    refused = await caller.get("/poll", join=["ok", "no"])
    assert (refused.status_code, refused.json()["code"]) == (403, 202)
    await until(lambda: not gateway.hub.connections)


async def test_a_poll_can_begin_as_a_stream_does(gateway: Gateway) -> None:
    caller = Caller(gateway, rooms={"ok": ["join"]})
    for number in range(3):
        await gateway.publish("acme", "ok", "e", number)
    first, cursor = await caller.poll(join=["ok", "no"], tell="true", timeout=0)
    assert [each["t"] for each in first] == ["connected", "reply", "error"]
    assert (first[1]["id"], first[1]["seq"], first[2]["id"], first[2]["code"]) == (1, 3, 2, 202)
    since = f"{first[1]['epoch']}:1:ok"
    told, _ = await caller.poll(join="ok", since=[since, "e:1:elsewhere"], tell="true", timeout=0)
    assert told[1]["data"] == {"recovered": True, "replayed": 2}
    assert [each["data"] for each in told[2:]] == [1, 2]
    # A cursor is newer than what the query says beside it.
    assert (await caller.poll(join="ok", since=since, cursor=cursor, timeout=0))[0] == []
    await until(lambda: not gateway.hub.connections and not gateway.sessions)


@pytest.mark.parametrize("since", ["", "ok", "e:ok", ":1:ok", "e:-1:ok", "e:x:ok", f"e:{10**30}:ok"])
async def test_bad_positions(gateway: Gateway, since: str) -> None:
    refused = await Caller(gateway).get("/poll", join="ok", since=since, timeout=0)
    assert (refused.status_code, refused.json()["code"]) == (400, 104)


async def test_polls_count_as_commands() -> None:
    async with running_gateway(rates={"commands_per_user": 1.0, "burst": 2.0}) as gateway:
        caller = Caller(gateway)
        statuses = [(await caller.get("/poll", timeout=0)).status_code for _ in range(5)]
        assert statuses[0] == 200 and statuses[-1] == 429


async def test_escapes_in_the_path_are_told(gateway: Gateway) -> None:
    caller = Caller(gateway)
    async with httpx.AsyncClient() as client:
        answer = await client.get(caller.base + "/p%6Fll", headers=caller.headers)
    assert answer.status_code in {200, 400}
