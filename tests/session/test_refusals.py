"""Every refusal of every command: its number, its ``id``, and that the connection goes on."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.errors import ErrorCode as E
from tests.support import connected, running_gateway

LONG = "x" * 201
PATTERNS = [f"p{number}" for number in range(65)]

REFUSALS: list[tuple[str, dict[str, Any], E, str]] = [
    ("auth", {"data": {"token": "x"}}, E.BAD_FIELD, "refresh"),
    ("refresh", {}, E.MISSING_FIELD, "data.token"),
    ("refresh", {"data": {"token": 5}}, E.BAD_FIELD, "data.token"),
    ("refresh", {"data": "token"}, E.BAD_FIELD, "data"),
    ("refresh", {"data": {"token": "no.such.token"}}, E.UNAUTHENTICATED, "token"),
    ("join", {}, E.MISSING_FIELD, "room"),
    ("join", {"room": ""}, E.BAD_ROOM, "empty"),
    ("join", {"room": LONG}, E.BAD_ROOM, "200"),
    ("join", {"room": "a\nb"}, E.BAD_ROOM, "control"),
    ("join", {"room": "chat:*"}, E.BAD_ROOM, "*"),
    ("join", {"room": "r", "data": []}, E.BAD_FIELD, "data"),
    ("join", {"room": "r", "data": {"since": 3}}, E.BAD_FIELD, "data.since"),
    ("join", {"room": "r", "data": {"since": {"epoch": "e"}}}, E.MISSING_FIELD, "data.since.seq"),
    ("join", {"room": "r", "data": {"since": {"epoch": "e", "seq": "1"}}}, E.BAD_FIELD, "data.since.seq"),
    ("join", {"room": "r", "data": {"since": {"epoch": "e", "seq": -1}}}, E.BAD_FIELD, "data.since.seq"),
    ("join", {"room": "r", "data": {"events": "e"}}, E.BAD_FIELD, "data.events"),
    ("join", {"room": "r", "data": {"events": [1]}}, E.BAD_FIELD, "data.events"),
    ("join", {"room": "r", "data": {"events": [""]}}, E.BAD_FIELD, "data.events"),
    ("join", {"room": "r", "data": {"events": PATTERNS}}, E.TOO_MANY_PATTERNS, "64"),
    ("join", {"room": "r", "data": {"overflow": "explode"}}, E.BAD_FIELD, "data.overflow"),
    ("join", {"room": "r", "data": {"overflow": "conflate", "key": "k" * 101}}, E.BAD_FIELD, "data.key"),
    ("join", {"data": {"resume": "unknown"}}, E.NOT_FOUND, "data.resume"),
    ("leave", {}, E.MISSING_FIELD, "room"),
    ("leave", {"room": "x\0"}, E.BAD_ROOM, "control"),
    ("leave", {"room": "never-joined"}, E.NOT_JOINED, "not joined"),
    ("subscribe", {}, E.MISSING_FIELD, "data.events"),
    ("subscribe", {"data": {"events": None}}, E.BAD_FIELD, "data.events"),
    ("subscribe", {"data": {"events": ["x" * 101]}}, E.BAD_FIELD, "data.events"),
    ("subscribe", {"data": {"events": PATTERNS}}, E.TOO_MANY_PATTERNS, "64"),
    ("unsubscribe", {}, E.MISSING_FIELD, "data.events"),
    ("unsubscribe", {"data": {"events": ["a\tb"]}}, E.BAD_FIELD, "data.events"),
    ("unsubscribe", {"data": {"events": PATTERNS}}, E.TOO_MANY_PATTERNS, "64"),
    ("publish", {"event": "e"}, E.FORBIDDEN, "without a room"),
    ("publish", {"room": "r"}, E.MISSING_FIELD, "event"),
    ("publish", {"room": "r", "event": ""}, E.BAD_EVENT, "event"),
    ("publish", {"room": "r", "event": "x" * 101}, E.BAD_EVENT, "100"),
    ("publish", {"room": "r", "event": "e*"}, E.BAD_EVENT, "*"),
    ("publish", {"room": LONG, "event": "e"}, E.BAD_ROOM, "200"),
    ("publish", {"room": "r", "event": "e", "mid": ""}, E.BAD_FIELD, "mid"),
    ("publish", {"room": "r", "event": "e", "mid": "m" * 101}, E.BAD_FIELD, "mid"),
    ("publish", {"room": "r", "event": "e", "critical": True}, E.FORBIDDEN, "critical"),
    ("send", {"data": {"user": "bob"}}, E.MISSING_FIELD, "event"),
    ("send", {"event": "e"}, E.MISSING_FIELD, "user or connection"),
    ("send", {"event": "e", "data": {"user": "bob", "connection": "c"}}, E.BAD_FIELD, "only one"),
    ("send", {"event": "e", "data": {"user": 3}}, E.BAD_FIELD, "data.user"),
    ("send", {"event": "e*", "data": {"user": "bob"}}, E.BAD_EVENT, "*"),
    ("send", {"event": "e", "mid": "\x7f", "data": {"user": "bob"}}, E.BAD_FIELD, "mid"),
    ("send", {"event": "e", "data": {"connection": "test-ffff"}}, E.NOT_FOUND, "connection"),
    ("call", {}, E.MISSING_FIELD, "event"),
    ("call", {"event": "nobody_handles_this"}, E.UNKNOWN_CALL, "event"),
    ("ack", {"seq": 1}, E.MISSING_FIELD, "room"),
    ("ack", {"room": "never-joined", "seq": 1}, E.NOT_JOINED, "not joined"),
    ("history", {}, E.MISSING_FIELD, "room"),
    ("history", {"room": "r", "data": {"limit": 0}}, E.BAD_FIELD, "limit"),
    ("history", {"room": "r", "data": {"limit": "many"}}, E.BAD_FIELD, "data.limit"),
    ("history", {"room": "r", "data": {"since": {"epoch": "e", "seq": -5}}}, E.BAD_FIELD, "data.since.seq"),
    ("presence", {}, E.MISSING_FIELD, "room"),
    ("presence", {"room": ""}, E.BAD_ROOM, "empty"),
    ("typing", {}, E.MISSING_FIELD, "room"),
    ("typing", {"room": "never-joined"}, E.NOT_JOINED, "not joined"),
    ("connected", {}, E.UNKNOWN_KIND, "t"),
    ("reply", {}, E.UNKNOWN_KIND, "t"),
    ("error", {}, E.UNKNOWN_KIND, "t"),
    ("event", {"room": "r", "event": "e"}, E.UNKNOWN_KIND, "t"),
    ("lost", {}, E.UNKNOWN_KIND, "t"),
    ("pong", {}, E.UNKNOWN_KIND, "t"),
    ("closing", {}, E.UNKNOWN_KIND, "t"),
]


async def test_every_refusal_has_its_number_and_the_id(gateway: Gateway, codec: Codec) -> None:
    """In one connection, which thereby outlives them all; with and without ``id``."""
    async with connected(gateway, codec=codec) as alice:
        for kind, fields, code, names in REFUSALS:
            case = (kind, fields)
            error = await alice.ask(kind, **fields)
            assert (error.t, error.code) == ("error", code), (case, error)
            assert error.message and names in error.message, (case, error.message)
            assert error.data is None, (case, error)
            await alice.send(kind, **fields)
            silent = await alice.receive()
            assert (silent.t, silent.id, silent.code) == ("error", None, code), (case, silent)
        assert await alice.settled() == []
    assert gateway.hub.counters.errors[E.NOT_FOUND] == 2 * sum(
        code is E.NOT_FOUND for *_, code, _ in REFUSALS
    )


async def test_an_error_repeats_only_what_can_be_a_room(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        good = await alice.ask("ack", room="never-joined", seq=1)
        assert (good.code, good.room) == (E.NOT_JOINED, "never-joined")
        for bad in ("x" * 500_000, "a\nb", "chat:*"):
            error = await alice.ask("join", room=bad)
            assert (error.code, error.room) == (E.BAD_ROOM, None)


async def test_what_is_published_can_be_shown_by_history(gateway: Gateway, codec: Codec) -> None:
    deep: Any = 0
    async with connected(gateway, codec=codec) as alice:
        for depth in range(1, 15):
            deep = [deep] if depth % 2 else {"k": deep}
            answer = await alice.ask("publish", room="r", event="e", data=deep)
            assert (answer.t, answer.code) == (("reply", None) if depth <= 12 else ("error", E.BAD_FIELD))
        page = (await alice.ask("history", room="r")).data["events"]
        assert [event["seq"] for event in page] == list(range(1, 13))
        assert "12" in (answer.message or "")


async def test_refusals_in_a_joined_room(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        await alice.ask("join", room="r")
        for kind, fields, code in (
            ("ack", {}, E.MISSING_FIELD),
            ("typing", {"data": {"state": "pause"}}, E.BAD_FIELD),
            ("typing", {"data": 1}, E.BAD_FIELD),
        ):
            assert (await alice.ask(kind, room="r", **fields)).code == code


@pytest.mark.parametrize(
    ("kind", "fields", "permission"),
    [
        ("join", {}, "join"),
        ("publish", {"event": "e"}, "publish"),
        ("history", {}, "history"),
        ("presence", {}, "presence"),
    ],
)
async def test_each_command_needs_its_permission(
    gateway: Gateway, kind: str, fields: dict[str, Any], permission: str
) -> None:
    others = [name for name in ("join", "publish", "history", "presence") if name != permission]
    rooms = {"mine:*": [permission], "theirs:*": others}
    async with connected(gateway, rooms=rooms) as alice:
        assert (await alice.ask(kind, room="mine:1", **fields)).t == "reply"
        for room in ("theirs:1", "elsewhere", "mine"):
            refused = await alice.ask(kind, room=room, **fields)
            assert (refused.t, refused.code, refused.room) == ("error", E.FORBIDDEN, room)


async def test_typing_needs_permission_to_publish(gateway: Gateway) -> None:
    async with connected(gateway, rooms={"r": ["join"]}) as alice:
        await alice.ask("join", room="r")
        assert (await alice.ask("typing", room="r")).code == E.FORBIDDEN


async def test_sends_are_permitted_by_pattern(gateway: Gateway) -> None:
    rooms = {"user:bob": ["publish"], "connection:test-1": ["publish"]}
    async with connected(gateway, rooms=rooms) as alice:
        assert (await alice.ask("send", event="e", data={"user": "bob"})).t == "reply"
        assert (await alice.ask("send", event="e", data={"user": "carol"})).code == E.FORBIDDEN
        own = alice.greeting.data["connection"]
        assert own == "test-1"
        assert (await alice.ask("send", event="e", data={"connection": own})).t == "reply"
        # Whether a connection exists is not told to those who may not send to it.
        assert (await alice.ask("send", event="e", data={"connection": "test-2"})).code == E.FORBIDDEN


async def test_a_service_may_do_everything_in_its_organisation(gateway: Gateway) -> None:
    async with connected(gateway, roles=["service"], rooms={"nothing": []}) as service:
        assert (await service.ask("join", room="r")).t == "reply"
        assert (await service.ask("publish", event="to:all")).t == "reply"
        assert (await service.ask("publish", room="r", event="e", critical=True)).t == "reply"


async def test_the_number_of_rooms_is_limited() -> None:
    async with running_gateway(limits={"rooms_per_connection": 2}) as gateway, connected(gateway) as alice:
        assert alice.greeting.data["limits"]["rooms"] == 2
        for room in ("a", "b"):
            assert (await alice.ask("join", room=room)).t == "reply"
        assert (await alice.ask("join", room="c")).code == E.TOO_MANY_ROOMS
        assert (await alice.ask("join", room="b")).t == "reply", "a joined room may be joined again"
        await alice.ask("leave", room="a")
        assert (await alice.ask("join", room="c")).t == "reply"


async def test_the_whole_filter_is_limited(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        limit = alice.greeting.data["limits"]["patterns"]
        assert limit == 64
        await alice.ask("subscribe", data={"events": [f"p{n}" for n in range(60)]})
        before = (await alice.ask("info")).data["events"]
        refused = await alice.ask("subscribe", data={"events": [f"q{n}" for n in range(5)]})
        assert refused.code == E.TOO_MANY_PATTERNS
        assert (await alice.ask("info")).data["events"] == before
        assert (await alice.ask("subscribe", data={"events": ["q1"]})).t == "reply"


async def test_refused_publishes_do_not_use_up_the_pending_ones() -> None:
    async with running_gateway(limits={"pending_commands": 3}) as gateway, connected(gateway) as alice:
        for _ in range(10):
            assert (await alice.ask("publish", room="r", event="")).code == E.BAD_EVENT
        for _ in range(10):
            assert (await alice.ask("publish", room="r", event="e")).t == "reply"
