"""One rule, one answer: what is refused over the WebSocket is refused over HTTP, by number and by text."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from gateway.app import Gateway
from protocol.errors import ErrorCode as E
from tests.rest.api import Api, success
from tests.support import connected

LIMITED = {"a": ["join"]}


class Case(NamedTuple):
    """The same request twice: as a command, and as a method, path and body."""

    command: tuple[str, dict[str, Any]]
    request: tuple[str, str, Any]
    code: E
    rooms: dict[str, list[str]] | None = LIMITED


CASES = {
    "publish to the organisation": Case(
        ("publish", {"event": "e"}), ("POST", "/broadcast", {"event": "e"}), E.FORBIDDEN
    ),
    "publish without permission": Case(
        ("publish", {"room": "a", "event": "e"}),
        ("POST", "/broadcast", {"room": "a", "event": "e"}),
        E.FORBIDDEN,
    ),
    "publish to no room": Case(
        ("publish", {"room": "*", "event": "e"}),
        ("POST", "/broadcast", {"room": "*", "event": "e"}),
        E.BAD_ROOM,
    ),
    "critical": Case(
        ("publish", {"room": "a", "event": "e", "critical": True}),
        ("POST", "/broadcast", {"room": "a", "event": "e", "critical": True}),
        E.FORBIDDEN,
        None,
    ),
    "event name": Case(
        ("publish", {"room": "a", "event": "*"}),
        ("POST", "/broadcast", {"room": "a", "event": "*"}),
        E.BAD_EVENT,
        None,
    ),
    "send to a user": Case(
        ("send", {"event": "e", "data": {"user": "bob"}}),
        ("POST", "/users/bob/send", {"event": "e"}),
        E.FORBIDDEN,
    ),
    "send to a connection": Case(
        ("send", {"event": "e", "data": {"connection": "test-1"}}),
        ("POST", "/connections/test-1/send", {"event": "e"}),
        E.FORBIDDEN,
    ),
    "history": Case(("history", {"room": "a"}), ("GET", "/rooms/a/history", None), E.FORBIDDEN),
    "presence": Case(("presence", {"room": "a"}), ("GET", "/rooms/a/presence", None), E.FORBIDDEN),
}


@pytest.mark.parametrize("name", CASES)
async def test_both_ways_refuse_alike(name: str, api: Api, gateway: Gateway) -> None:
    case = CASES[name]
    kind, fields = case.command
    method, path, body = case.request
    claims: dict[str, Any] = {"user": "alice", "roles": []}
    if case.rooms is not None:
        claims["rooms"] = case.rooms
    async with connected(gateway, user="alice", **({"rooms": case.rooms} if case.rooms else {})) as alice:
        error = await alice.ask(kind, **fields)
    answer = await (api.post(path, body, claims=claims) if method == "POST" else api.get(path, claims=claims))
    problem = answer.json()
    assert (error.code, problem["code"]) == (case.code, case.code), (error, problem)
    assert problem["detail"] == error.message


async def test_a_page_of_history_has_its_bound_on_both_ways(api: Api, gateway: Gateway) -> None:
    largest = gateway.settings.history.page
    for number in range(largest + 10):
        await gateway.hub.publish("acme", "r", "e", number)
    async with connected(gateway, user="alice") as alice:
        for limit in (largest + 1, 1000):
            reply = await alice.ask("history", room="r", data={"limit": limit})
            page = success(await api.get(f"/rooms/r/history?limit={limit}"))
            assert len(reply.data["events"]) == len(page["events"]) == largest
            assert reply.data["events"] == page["events"]
