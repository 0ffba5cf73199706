"""Notifications from outside: REST and WebSockets of a running gateway, on both databases."""

from __future__ import annotations

import time as clock
from typing import Any

import pytest
import trio

from gateway.app import Gateway
from protocol.errors import ErrorCode
from tests.rest.api import ADMIN, Api, asking, problem, success
from tests.store.support import rows
from tests.support import Raw, connected, start_gateway, until

HELLO = {"type": "info", "title": "Hello", "message": "there"}
ALICE = {"user": "alice"}


async def create(api: Api, **fields: Any) -> str:
    response = await api.post("/notifications", {"user": "alice", **HELLO, **fields})
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def told(raw: Raw, event: str) -> Any:
    """The data of the next event, which must be this one."""
    envelope = await raw.receive()
    assert (envelope.t, envelope.event) == ("event", event), envelope
    return envelope.data


async def listed(api: Api, query: str = "", claims: Any = ALICE) -> Any:
    return success(await api.get(f"/notifications{query}", claims=claims))


async def settled(address: str) -> None:
    """Wait until nothing is left to deliver."""
    await until(lambda: not rows(address, "SELECT id FROM outbox"), "an empty outbox")


async def test_what_is_created_is_listed_and_told_in_every_tab(gateway: Gateway, api: Api) -> None:
    async with (
        connected(gateway) as first,
        connected(gateway) as second,
        connected(gateway, user="bob") as bob,
    ):
        id = await create(
            api,
            type="warning",
            data={"order": 7},
            action={"type": "open", "label": "Open", "payload": {"href": "/orders/7"}},
            expires_at=int(clock.time() * 1000) + 60_000,
        )
        for tab in (first, second):
            data = await told(tab, "notification:new")
            assert data["id"] == id and data["data"] == {"order": 7} and data["read"] is False
            assert data["sender"] == "backend"
        answer = await listed(api)
        assert answer["unread"] == 1 and answer["notifications"] == [data]
        assert (await listed(api, claims={"user": "bob"}))["notifications"] == []
        await api.post("/users/bob/send", {"event": "ping", "data": 1})
        assert await told(bob, "ping") == 1  # and nothing before it


async def test_reading_and_deleting_are_told_in_every_tab(gateway: Gateway, api: Api) -> None:
    one, two, three = [await create(api, title=title) for title in "abc"]
    async with connected(gateway) as first, connected(gateway) as second:
        assert first.greeting.data["unread"] == 3
        answer = success(await api.post(f"/notifications/{one}/read", claims=ALICE))
        assert answer == {"unread": 2}
        again = success(await api.post(f"/notifications/{one}/read", claims=ALICE))
        assert again == {"unread": 2}
        assert success(await api.request("DELETE", f"/notifications/{two}", claims=ALICE)) == {"unread": 1}
        assert success(await api.post("/notifications/read-all", claims=ALICE)) == {"unread": 0}
        for tab in (first, second):
            assert await told(tab, "notification:read") == {"ids": [one], "unread": 2}
            assert await told(tab, "notification:deleted") == {"ids": [two], "unread": 1}
            data = await told(tab, "notification:read")
            assert (data["all"], data["unread"]) == (True, 0)
    answer = await listed(api)
    assert [each["id"] for each in answer["notifications"]] == [three, one]
    assert all(each["read"] and each["read_at"] for each in answer["notifications"])
    problem(await api.request("DELETE", f"/notifications/{two}", claims=ALICE), 404, 109)
    problem(await api.post(f"/notifications/{two}/read", claims=ALICE), 404, 109)


async def test_the_same_mid_answers_as_the_first_time(gateway: Gateway, api: Api, address: str) -> None:
    async with connected(gateway) as alice:
        first = await create(api, mid="order-7")
        assert await create(api, mid="order-7", title="another") == first
        await create(api, mid="order-8")
        assert (await told(alice, "notification:new"))["id"] == first
        assert (await told(alice, "notification:new"))["id"] != first
    await settled(address)
    assert len(rows(address, "SELECT id FROM notifications")) == 2


async def test_many_users_in_one_call(gateway: Gateway, api: Api) -> None:
    users = [f"user{number}" for number in range(1000)]
    async with connected(gateway, user="user7") as seven:
        answer = (await api.post("/notifications", {"users": users, **HELLO})).json()
        assert set(answer["ids"]) == set(users) and len(set(answer["ids"].values())) == 1000
        assert (await told(seven, "notification:new"))["id"] == answer["ids"]["user7"]


async def test_pages_filters_and_foreign_cursors(gateway: Gateway, api: Api) -> None:
    ids = [await create(api, type="error" if number % 2 else "info") for number in range(5)]
    success(await api.post(f"/notifications/{ids[4]}/read", claims=ALICE))
    found: list[str] = []
    cursor = ""
    while True:
        answer = await listed(api, f"?limit=2{cursor and f'&cursor={cursor}'}")
        found += [each["id"] for each in answer["notifications"]]
        if "next" not in answer:
            break
        cursor = answer["next"]
    assert found == ids[::-1]
    assert [each["id"] for each in (await listed(api, "?unread=true"))["notifications"]] == ids[3::-1]
    assert [each["id"] for each in (await listed(api, "?type=error"))["notifications"]] == [ids[3], ids[1]]
    for claims in ({"user": "bob"}, {"org": "other", "user": "alice"}):
        problem(await api.get(f"/notifications?limit=2&cursor={cursor}", claims=claims), 400, 104)
    for query in (
        f"?type=info&cursor={cursor}",
        "?cursor=!",
        "?limit=0",
        "?limit=101",
        "?type=x",
        "?unread=x",
    ):
        problem(await api.get(f"/notifications{query}", claims=ALICE), 400, 104)


async def test_calls_over_a_socket(gateway: Gateway, api: Api) -> None:
    one = await create(api)
    await create(api)
    async with connected(gateway) as alice, connected(gateway) as tab:
        answer = await alice.ask("call", event="notifications.list", data={"unread": True, "limit": 1})
        assert answer.data["unread"] == 2 and answer.data["next"]
        answer = await alice.ask("call", event="notifications.list", data={"cursor": None})
        assert [each["id"] for each in answer.data["notifications"]][-1] == one
        assert (await alice.ask("call", event="notifications.read", data={"id": one})).data == {"unread": 1}
        assert (await told(tab, "notification:read"))["ids"] == [one]
        assert (await alice.ask("call", event="notifications.read_all")).data == {"unread": 0}
        assert (await told(tab, "notification:read"))["all"] is True
        for event, data, code in (
            ("notifications.read", {}, ErrorCode.MISSING_FIELD),
            ("notifications.read", {"id": 7}, ErrorCode.BAD_FIELD),
            ("notifications.read", {"id": "7"}, ErrorCode.NOT_FOUND),
            ("notifications.list", {"type": "x"}, ErrorCode.BAD_FIELD),
            ("notifications.list", {"user": "bob"}, ErrorCode.FORBIDDEN),
            ("notifications.read_all", {"all": 1}, ErrorCode.BAD_FIELD),
            ("notifications.create", HELLO, ErrorCode.UNKNOWN_CALL),
        ):
            await alice.send("call", id=99, event=event, data=data)
            error = await error_of(alice)
            assert error.code == code, (event, data, error)


async def error_of(raw: Raw) -> Any:
    while True:
        envelope = await raw.receive()
        if envelope.t == "error":
            return envelope


async def test_who_may_do_what(gateway: Gateway, api: Api) -> None:
    one = await create(api)
    problem(await api.post("/notifications", {"user": "bob", **HELLO}, claims=ALICE), 403, 202)
    problem(await api.get("/notifications?user=alice", claims={"user": "bob"}), 403, 202)
    for method, path in (("POST", f"/{one}/read"), ("DELETE", f"/{one}")):
        problem(await api.request(method, f"/notifications{path}", claims={"user": "bob"}), 404, 109)
        foreign = {"org": "other", "user": "alice"}
        problem(await api.request(method, f"/notifications{path}", claims=foreign), 404, 109)
        problem(
            await api.request(method, f"/notifications{path}?user=alice", claims={"user": "bob"}), 403, 202
        )
        problem(await api.request(method, f"/notifications{path}?org=acme", claims=foreign), 403, 204)
    problem(await api.post("/notifications?org=other", {"user": "x", **HELLO}), 403, 204)
    assert (await listed(api))["unread"] == 1
    assert (await listed(api, "?user=alice", claims={"roles": ["service"]}))["unread"] == 1
    problem(await api.get("/notifications", claims={"roles": ["service"]}), 400, 103)
    problem(await api.get("/notifications?org=acme", claims={"org": "x", **ADMIN}), 400, 103)
    assert (await listed(api, "?org=acme&user=alice", claims={"org": "x", **ADMIN}))["unread"] == 1
    response = await api.post(
        "/notifications?org=acme", {"user": "alice", **HELLO}, claims={"org": "x", **ADMIN}
    )
    assert response.status_code == 201
    assert (await listed(api))["unread"] == 2


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"type": "fatal"}, 400, 104),
        ({"type": None}, 400, 104),
        ({"title": ""}, 400, 104),
        ({"title": "x" * 201}, 400, 104),
        ({"title": "a\nb"}, 400, 104),
        ({"message": ""}, 400, 104),
        ({"message": "x" * 2001}, 400, 104),
        ({"message": "a\0b"}, 400, 104),
        ({"user": ""}, 400, 104),
        ({"user": "x" * 201}, 400, 104),
        ({"user": None}, 400, 103),
        ({"users": ["bob"]}, 400, 104),
        ({"user": None, "users": []}, 400, 104),
        ({"user": None, "users": ["x"] * 1001}, 400, 104),
        ({"user": None, "users": ["bob", ""]}, 400, 104),
        ({"data": "x" * 4095}, 413, 404),
        ({"data": [[[[[[[[[1]]]]]]]]]}, 400, 104),
        ({"mid": "x" * 101}, 400, 104),
        ({"mid": ""}, 400, 104),
        ({"expires_at": 1}, 400, 104),
        ({"expires_at": -1}, 400, 104),
        ({"expires_at": 2**60}, 400, 104),
        ({"expires_at": "tomorrow"}, 400, 104),
        ({"action": "open"}, 400, 104),
        ({"action": {}}, 400, 103),
        ({"action": {"type": ""}}, 400, 104),
        ({"action": {"type": "open", "href": "/"}}, 400, 104),
        ({"action": {"type": "open", "label": "x" * 201}}, 400, 104),
        ({"action": {"type": "open", "payload": "x" * 2048}}, 413, 404),
        ({"action": {"type": "open", "payload": "javascript:alert(1)"}}, 400, 104),
        ({"action": {"type": "open", "payload": {"a": [{"href": " \tJava\nScript\r:alert(1)"}]}}}, 400, 104),
        ({"action": {"type": "open", "payload": {"href": "data:text/html,<script>"}}}, 400, 104),
        ({"action": {"type": "open", "payload": {"href": " " * 300 + "javascript:x"}}}, 400, 104),
        ({"action": {"type": "vbscript:x"}}, 400, 104),
        ({"colour": "red"}, 400, 104),
    ],
)
async def test_bad_input_leaves_nothing(
    gateway: Gateway, api: Api, address: str, change: dict[str, Any], status: int, code: int
) -> None:
    body = {key: value for key, value in {"user": "alice", **HELLO, **change}.items() if value is not None}
    if change.get("type", "") is None:
        body["type"] = None
    problem(await api.post("/notifications", body), status, code)
    assert rows(address, "SELECT id FROM notifications") == []
    assert rows(address, "SELECT id FROM outbox") == []


async def test_the_state_is_shown(gateway: Gateway, api: Api, address: str) -> None:
    await create(api)
    await settled(address)
    ready = await api.client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "database": True})
    metrics = (await api.client.get("/metrics")).text
    for line in (
        "trireme_store_available 1.0",
        "trireme_inbox_delivered_total 1.0",
        "trireme_inbox_waiting 0.0",
    ):
        assert line in metrics


async def test_without_a_database_there_are_none(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    async with asking(gateway) as api, connected(gateway) as alice:
        assert "unread" not in alice.greeting.data
        assert "database is none" in problem(await api.get("/notifications", claims=ALICE), 404, 109)
        problem(await api.post("/notifications", {"user": "bob", **HELLO}), 404, 109)
        problem(await api.post("/notifications/read-all", claims=ALICE), 404, 109)
        assert (await api.client.get("/readyz")).json() == {"status": "ready"}
        await alice.send("call", id=9, event="notifications.list")
        assert (await error_of(alice)).code == ErrorCode.UNKNOWN_CALL


async def test_what_another_node_left_is_delivered(nursery: trio.Nursery, address: str) -> None:
    """The first node has no room for what it commits; the second one delivers it when the lease has ended."""
    store = {"lease": 1.0}
    full = await start_gateway(nursery, database=address, store=store)
    other = await start_gateway(nursery, database=address, store=store)
    full.operations.notifications.inbox._waiting = 1_000_000
    async with connected(other) as alice, asking(full) as api:
        id = await create(api, mid="order-9")
        envelope = await alice.receive()
        assert (envelope.event, envelope.mid, envelope.data["id"]) == ("notification:new", "order-9", id)
    await settled(address)
