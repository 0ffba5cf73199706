"""Every command with every set of permissions: what the token does not permit is refused, nothing else is."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.auth.identity import PERMISSIONS
from gateway.session.commands import COMMANDS
from protocol.envelope import CLIENT_KINDS
from protocol.errors import ErrorCode as E
from tests.rest.api import asking
from tests.support import connected

SETS = [frozenset(each) for size in range(len(PERMISSIONS) + 1) for each in combinations(PERMISSIONS, size)]
every_set = pytest.mark.parametrize("granted", SETS, ids=lambda each: "+".join(sorted(each)) or "nothing")

ROOM, ELSEWHERE = "chat:1", "other:1"


@dataclass
class Case:
    """One use of a command."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    """Permissions for the room or the user that it names."""
    joined: bool = False
    """The room must have been joined."""
    otherwise: E | None = None
    """How it is answered although it is permitted."""


def case(kind: str, *needs: str, joined: bool = False, otherwise: E | None = None, **fields: Any) -> Case:
    return Case(kind, fields, frozenset(needs), joined, otherwise)


TABLE = [
    case("auth", data={"token": "t"}, otherwise=E.BAD_FIELD),
    case("refresh", data={"token": "t"}, otherwise=E.UNAUTHENTICATED),
    case("join", "join", room=ROOM),
    case("join", "join", room=ROOM, data={"since": {"epoch": "e", "seq": 0}, "overflow": "replay"}),
    case("join", "join", "presence", room=ROOM, data={"presence": True}),
    case("ack", room=ROOM, seq=1, joined=True),
    case("typing", "publish", room=ROOM, joined=True),
    case("typing", "publish", room=ROOM, joined=True, data={"state": "stop"}),
    case("subscribe", data={"events": ["*"]}),
    case("unsubscribe", data={"events": ["nothing"]}),
    case("publish", "publish", room=ROOM, event="e"),
    case("send", "publish", event="e", data={"user": "bob"}),
    case("send", "publish", event="e", data={"connection": "test-1"}),
    case("call", event="handled"),
    case("history", "history", room=ROOM),
    case("history", "history", room=ROOM, data={"since": {"epoch": "e", "seq": 0}}),
    case("presence", "presence", room=ROOM),
    case("info"),
    case("stats"),
    case("ping"),
    case("leave", room=ROOM, joined=True),
]


def test_every_command_is_in_the_table() -> None:
    assert {each.kind for each in TABLE} == set(COMMANDS) == set(CLIENT_KINDS)


async def handled(connection: Any, data: Any) -> None:
    """A call, which judges by itself."""


@every_set
async def test_every_command(gateway: Gateway, granted: frozenset[str]) -> None:
    gateway.handle_call("handled", handled)
    rooms = {"chat:*": sorted(granted), "user:bob": sorted(granted), "connection:*": sorted(granted)}
    # Whatever is permitted elsewhere does not count.
    rooms["other:*"] = sorted(set(PERMISSIONS) - granted)
    async with connected(gateway, rooms=rooms) as client:
        for each in TABLE:
            answer = await client.ask(each.kind, **each.fields)
            if each.joined and "join" not in granted:
                expected: E | None = E.NOT_JOINED
            elif not each.needs <= granted:
                expected = E.FORBIDDEN
            else:
                expected = each.otherwise
            assert answer.code == expected, (each, answer)
            assert (answer.t == "error") is (expected is not None)
        stats = (await client.ask("stats")).data
        assert stats["rooms"] == {}, "the room was left"


@every_set
async def test_every_command_for_a_room_that_other_patterns_name(
    gateway: Gateway, granted: frozenset[str]
) -> None:
    """The same with the names of rooms and users that the patterns do not fit."""
    rooms = {"chat:*": sorted(PERMISSIONS), "user:b*": sorted(PERMISSIONS), "other:*": sorted(granted)}
    async with connected(gateway, rooms=rooms) as client:
        for each in TABLE:
            if not each.needs:
                continue
            fields = dict(each.fields)
            if "room" in fields:
                fields["room"] = ELSEWHERE
            else:
                fields["data"] = {"user": "alice"}
            answer = await client.ask(each.kind, **fields)
            if each.kind == "send":
                expected: E | None = E.FORBIDDEN
            elif each.joined and "join" not in granted:
                expected = E.NOT_JOINED
            else:
                expected = None if each.needs <= granted else E.FORBIDDEN
            assert answer.code == expected, (each, answer)


@every_set
async def test_every_request(gateway: Gateway, granted: frozenset[str]) -> None:
    claims = {"user": "alice", "rooms": {"chat:*": sorted(granted), "user:bob": sorted(granted)}}
    publish, history, presence = ("publish" in granted, "history" in granted, "presence" in granted)
    async with asking(gateway) as ask, connected(gateway, user="bob") as bob:
        await bob.ask("join", room="chat:7")
        id = bob.greeting.data["connection"]
        for method, path, body, allowed in (
            ("POST", "/broadcast", {"room": "chat:7", "event": "e"}, publish),
            ("POST", "/broadcast", {"room": "chat:7", "event": "e", "critical": True}, False),
            ("POST", "/broadcast", {"room": "other:7", "event": "e"}, False),
            ("POST", "/broadcast", {"event": "e"}, False),
            ("POST", "/users/bob/send", {"event": "e"}, publish),
            ("POST", "/users/alice/send", {"event": "e"}, False),
            ("POST", f"/connections/{id}/send", {"event": "e"}, False),
            ("POST", f"/connections/{id}/disconnect", {}, False),
            ("GET", "/rooms/chat:7/history", None, history),
            ("GET", "/rooms/other:7/history", None, False),
            ("GET", "/rooms/chat:7/presence", None, presence),
            ("GET", "/messages/m/trace", None, False),
            ("POST", "/auth/token", {}, False),
            ("POST", "/auth/revoke", {"user": "bob"}, False),
            ("POST", "/auth/revoke", {"org": "acme"}, False),
            ("GET", "/stats", None, True),
        ):
            options = {} if body is None else {"json": body}
            answer = await ask.request(method, path, claims=claims, **options)
            assert answer.status_code == (200 if allowed else 403), (path, body, answer.text)
        # What is only listed is left out.
        for path in ("/rooms", "/stats"):
            rooms = (await ask.get(path, claims=claims)).json()["rooms"]
            assert bool(rooms) is presence
        assert (await bob.ask("ping")).t == "pong", "and nothing of it was done"
