"""``POST /api/v1/commands``: what a socket would answer, for those who have none."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from gateway.app import Gateway
from gateway.hub.connection import Connection
from tests.streams.support import Caller
from tests.support import connected, running_gateway


async def test_every_kind_is_answered_as_on_a_socket(gateway: Gateway) -> None:
    async def double(connection: Connection, data: Any) -> Any:
        return {"twice": data * 2, "user": connection.user}

    gateway.handle_call("double", double)
    caller = Caller(gateway, user="bob", roles=["service"])
    async with connected(gateway) as alice:
        await alice.ask("join", room="r")
        answers = await caller.ask(
            {"v": 1, "t": "publish", "id": 1, "room": "r", "event": "e", "data": 1, "mid": "m1"},
            {"v": 1, "t": "publish", "room": "r", "event": "quiet"},
            {"v": 1, "t": "history", "id": 2, "room": "r"},
            {"v": 1, "t": "send", "id": 3, "event": "hello", "data": {"user": "alice"}},
            {"v": 1, "t": "call", "id": 4, "event": "double", "data": 21},
            {"v": 1, "t": "presence", "id": 5, "room": "r"},
            {"v": 1, "t": "stats", "id": 6},
            {"v": 1, "t": "ping", "id": 7, "data": "x"},
            {"v": 1, "t": "typing", "id": 8, "room": "r"},
        )
        assert [(each["t"], each["id"]) for each in answers] == [
            *(("reply", number) for number in range(1, 7)),
            ("pong", 7),
            ("reply", 8),
        ]
        assert (answers[0]["seq"], answers[0]["mid"]) == (1, "m1")
        assert answers[1]["data"]["events"][0]["event"] == "e"
        assert answers[2]["data"]["connections"] == 1
        assert answers[3]["data"] == {"twice": 42, "user": "bob"}
        assert [each["user"] for each in answers[4]["data"]["members"]] == ["alice"]
        assert answers[6]["data"] == "x"
        heard = [(await alice.event()).event for _ in range(4)]
        assert heard == ["e", "quiet", "hello", "typing:start"]
    assert not gateway.hub.connections


async def test_errors_are_those_of_a_socket(gateway: Gateway) -> None:
    caller = Caller(gateway, rooms={"ok": ["publish"]})
    commands: list[Any] = [
        {"v": 1, "t": "publish", "id": 1, "room": "no", "event": "e"},
        {"v": 1, "t": "publish", "room": "ok"},
        {"v": 1, "t": "nonsense", "id": 3},
        {"v": 2, "t": "ping", "id": 4},
        7,
        {"v": 1, "t": "publish", "id": 6, "room": "ok", "event": "e"},
    ]
    answers = await caller.ask(*commands)
    assert [each["t"] for each in answers] == ["error"] * 5 + ["reply"]
    assert [each.get("id") for each in answers] == [1, None, 3, 4, None, 6]
    assert [each["code"] for each in answers[:2]] == [202, 103]


@pytest.mark.parametrize(
    "kind", ["auth", "refresh", "join", "leave", "subscribe", "unsubscribe", "ack", "info"]
)
async def test_what_belongs_to_a_connection_says_what_to_do(gateway: Gateway, kind: str) -> None:
    (answer,) = await Caller(gateway).ask({"v": 1, "t": kind, "id": 1, "room": "r"})
    assert (answer["t"], answer["id"], answer["code"]) == ("error", 1, 102)
    assert "not accepted here: " in answer["message"]


async def test_one_envelope_and_lists_of_any_size(gateway: Gateway) -> None:
    caller = Caller(gateway)
    one = await caller.post({"v": 1, "t": "ping", "id": 1})
    assert [each["t"] for each in one.json()["messages"]] == ["pong"]
    assert (await caller.post([])).json() == {"messages": []}
    many = await caller.post([{"v": 1, "t": "ping", "id": number} for number in range(10_000)])
    assert (many.status_code, many.json()["code"]) == (413, 404)
    answers = await caller.ask(
        *({"v": 1, "t": "publish", "id": n, "room": "r", "event": "e"} for n in range(100))
    )
    assert [each["seq"] for each in answers] == list(range(1, 101))


async def test_commands_are_counted_one_by_one() -> None:
    async with running_gateway(rates={"commands_per_user": 1.0, "burst": 3.0}) as gateway:
        answers = await Caller(gateway).ask(*({"v": 1, "t": "ping", "id": n} for n in range(20)))
        assert [each["t"] for each in answers[:3]] == ["pong"] * 3
        assert answers[-1]["code"] == 300


async def test_typing_ends_by_itself_where_a_stream_is_open() -> None:
    async with running_gateway(connection={"typing_timeout": 0.1}) as gateway, connected(gateway) as alice:
        await alice.ask("join", room="r")
        caller = Caller(gateway, user="bob")
        async with caller.stream(join="r") as events:
            await events.of("reply")
            await caller.ask({"v": 1, "t": "typing", "room": "r"})
            assert [(await alice.event()).event for _ in range(2)] == ["typing:start", "typing:stop"]


async def test_a_call_that_hangs_is_answered() -> None:
    async with running_gateway(connection={"command_timeout": 0.2}) as gateway:

        async def hang(connection: Connection, data: Any) -> Any:
            await trio.sleep_forever()

        gateway.handle_call("hang", hang)
        answers = await Caller(gateway).ask(
            {"v": 1, "t": "call", "id": 1, "event": "hang"}, {"v": 1, "t": "ping", "id": 2}
        )
        assert answers[0]["code"] == 303
