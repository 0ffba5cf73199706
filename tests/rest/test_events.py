"""Broadcast, directed sends and batches, as the clients see them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from urllib.parse import quote

import pytest

from gateway.app import Gateway
from protocol.codec import Codec
from tests.rest.api import ADMIN, Api, asking, problem, success
from tests.support import connected, running_gateway, until

# --- broadcast --------------------------------------------------------------------------------------


async def test_a_broadcast_reaches_the_room_in_order(api: Api, gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as inside, connected(gateway, user="bob") as outside:
        joined = await inside.ask("join", room="chat:1")
        for number in range(3):
            body = {"room": "chat:1", "event": "message:new", "data": {"n": number}}
            place = success(await api.post("/broadcast", body))
            event = await inside.event()
            assert (event.room, event.event, event.data) == ("chat:1", "message:new", {"n": number})
            assert (event.seq, event.epoch, event.mid) == (place["seq"], place["epoch"], place["mid"])
            assert (place["seq"], place["epoch"]) == (joined.seq + number + 1, joined.epoch)
            assert event.sender == "backend"
        assert await outside.settled() == []


async def test_without_a_room_the_whole_organisation_hears_it(api: Api, gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway, org="globex") as other:
        place = success(await api.post("/broadcast", {"event": "alert", "data": [1]}))
        event = await alice.event()
        assert (event.room, event.data, event.seq) == (None, [1], place["seq"])
        assert await other.settled() == []


async def test_excluded_users_do_not_hear_it(api: Api, gateway: Gateway) -> None:
    async with AsyncExitStack() as stack:
        alice, bob, eve = [
            await stack.enter_async_context(connected(gateway, user=user)) for user in ("alice", "bob", "eve")
        ]
        success(await api.post("/broadcast", {"event": "e", "exclude": ["alice", "eve", "nobody"]}))
        assert [event.event for event in await bob.settled()] == ["e"]
        assert await alice.settled() == []
        assert await eve.settled() == []


async def test_a_repeated_message_id_gets_the_first_place(api: Api, gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        await alice.ask("join", room="r")
        body = {"room": "r", "event": "e", "mid": "once"}
        first = success(await api.post("/broadcast", body))
        assert success(await api.post("/broadcast", body)) == first
        assert [event.mid for event in await alice.settled()] == ["once"]


async def test_members_publish_where_they_may_and_not_to_everyone(api: Api, gateway: Gateway) -> None:
    claims = {"user": "bob", "rooms": {"chat:*": ["publish"], "hall": ["join", "history", "presence"]}}
    async with connected(gateway) as alice:
        await alice.ask("join", room="chat:1")
        await alice.ask("join", room="hall")
        success(await api.post("/broadcast", {"room": "chat:1", "event": "e"}, claims=claims))
        detail = problem(
            await api.post("/broadcast", {"room": "hall", "event": "e"}, claims=claims), 403, 202
        )
        assert "publish" in detail
        problem(await api.post("/broadcast", {"event": "e"}, claims=claims), 403, 202)
        [event] = await alice.settled()
        assert (event.room, event.sender) == ("chat:1", "bob")


async def test_only_services_broadcast_critical_events(api: Api, gateway: Gateway) -> None:
    body = {"room": "r", "event": "e", "critical": True}
    async with connected(gateway) as alice:
        await alice.ask("join", room="r")
        problem(await api.post("/broadcast", body, claims={"user": "bob"}), 403, 202)
        success(await api.post("/broadcast", {**body, "critical": False}, claims={"user": "bob"}))
        success(await api.post("/broadcast", body))
        results = success(await api.post("/batch", {"operations": [{"op": "broadcast", **body}]}))["results"]
        assert results[0]["status"] == 200
        assert [event.critical for event in await alice.settled()] == [None, True, True]


async def test_under_load_only_critical_broadcasts_are_taken() -> None:
    """And sends: it is the fan-out that is spared."""
    async with running_gateway(overload={"memory_bytes": 1}) as gateway, asking(gateway) as api:
        await until(lambda: gateway.guard.overload.reason is not None, "the load shedding")
        refused = await api.post("/broadcast", {"event": "e"})
        problem(refused, 503, 301)
        assert refused.headers["Retry-After"] == "5"
        success(await api.post("/broadcast", {"event": "e", "critical": True}))
        success(await api.post("/users/alice/send", {"event": "e"}))
        success(await api.get("/stats"))


@pytest.mark.parametrize("place", ["body", "query"])
async def test_only_an_admin_broadcasts_to_another_organisation(
    api: Api, gateway: Gateway, place: str
) -> None:
    query, extra = ("?org=globex", {}) if place == "query" else ("", {"org": "globex"})
    async with connected(gateway, org="globex") as other, connected(gateway) as own:
        problem(await api.post(f"/broadcast{query}", {"event": "e", **extra}), 403, 204)
        success(await api.post(f"/broadcast{query}", {"event": "e", **extra}, claims=ADMIN))
        assert len(await other.settled()) == 1
        assert await own.settled() == []


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        ({"data": 1}, 103, "event"),
        ({"event": ""}, 106, "event"),
        ({"event": "x" * 101}, 106, "event"),
        ({"event": "a*"}, 106, "event"),
        ({"event": "a\nb"}, 106, "event"),
        ({"event": 1}, 104, "event"),
        ({"event": None}, 104, "event"),
        ({"event": "e", "room": ""}, 105, "room"),
        ({"event": "e", "room": "x" * 201}, 105, "room"),
        ({"event": "e", "room": ["a"]}, 104, "room"),
        ({"event": "e", "exclude": "alice"}, 104, "exclude"),
        ({"event": "e", "exclude": [1]}, 104, "exclude[0]"),
        ({"event": "e", "mid": "x" * 101}, 104, "mid"),
        ({"event": "e", "data": 2**63}, 104, "data"),
        ({"event": "e", "org": ""}, 204, "organisation"),
        ([], 104, "body"),
        ("text", 104, "body"),
    ],
)
async def test_wrong_fields_are_named(api: Api, body: object, code: int, named: str) -> None:
    status = 403 if code == 204 else 400
    assert named in problem(await api.post("/broadcast", body), status, code)


@pytest.mark.parametrize(("depth", "fits"), [(12, True), (13, False), (900, False)])
async def test_data_may_nest_as_deep_as_history_can_show(api: Api, depth: int, fits: bool) -> None:
    body = b'{"event":"e","room":"r","data":' + b"[" * depth + b"]" * depth + b"}"
    response = await api.request(
        "POST", "/broadcast", content=body, headers={"Content-Type": "application/json"}
    )
    if fits:
        success(response)
    else:
        assert "deep" in problem(response, 400, 104)


# --- directed sends -----------------------------------------------------------------------------------


async def test_a_send_reaches_all_connections_of_the_user(api: Api, gateway: Gateway) -> None:
    async with AsyncExitStack() as stack:
        first, second, bob, other = [
            await stack.enter_async_context(connected(gateway, org=org, user=user))
            for org, user in (("acme", "alice"), ("acme", "alice"), ("acme", "bob"), ("globex", "alice"))
        ]
        sent = success(await api.post("/users/alice/send", {"event": "hello", "data": {"n": 1}}))
        assert sent["connections"] == 2
        for client in (first, second):
            event = await client.event()
            assert (event.event, event.data, event.mid) == ("hello", {"n": 1}, sent["mid"])
            assert (event.room, event.to, event.sender) == (None, "user", "backend")
            assert (event.seq, event.epoch) == (sent["seq"], sent["epoch"])
        assert await bob.settled() == []
        assert await other.settled() == []


async def test_a_send_to_somebody_who_is_away_counts_nobody(api: Api) -> None:
    assert success(await api.post("/users/nobody/send", {"event": "e"}))["connections"] == 0


@pytest.mark.parametrize("user", ["auth0|7", "https://id.example/u/7", "ü", "a/b/send"])
async def test_any_user_name_can_stand_in_a_path(api: Api, gateway: Gateway, user: str) -> None:
    async with connected(gateway, user=user) as client:
        sent = success(await api.post(f"/users/{quote(user, safe='')}/send", {"event": "e"}))
        assert sent["connections"] == 1
        assert (await client.event()).mid == sent["mid"]


async def test_a_send_reaches_one_connection(api: Api, gateway: Gateway) -> None:
    async with connected(gateway) as first, connected(gateway) as second:
        path = f"/connections/{first.greeting.data['connection']}/send"
        sent = success(await api.post(path, {"event": "e", "data": "only you", "mid": "m1"}))
        assert sent == {"mid": "m1", "connections": 1}
        assert (await first.event()).data == "only you"
        assert await second.settled() == []


async def test_members_send_where_their_token_lets_them(api: Api, gateway: Gateway) -> None:
    claims = {"user": "bob", "rooms": {"user:alice": ["publish"]}}
    async with connected(gateway) as alice:
        success(await api.post("/users/alice/send", {"event": "e"}, claims=claims))
        problem(await api.post("/users/eve/send", {"event": "e"}, claims=claims), 403, 202)
        id = alice.greeting.data["connection"]
        problem(await api.post(f"/connections/{id}/send", {"event": "e"}, claims=claims), 403, 202)
        assert [event.sender for event in await alice.settled()] == ["bob"]


@pytest.mark.parametrize(
    ("body", "code", "named"),
    [
        ({}, 103, "event"),
        ({"event": "a*"}, 106, "event"),
        ({"event": "e", "data": [2**64]}, 104, "data"),
        ({"event": "e", "mid": ""}, 104, "mid"),
    ],
)
async def test_sends_are_checked_as_broadcasts_are(
    api: Api, gateway: Gateway, body: object, code: int, named: str
) -> None:
    async with connected(gateway) as alice:
        for path in ("/users/alice/send", f"/connections/{alice.greeting.data['connection']}/send"):
            assert named in problem(await api.post(path, body), 400, code)
        assert await alice.settled() == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/users//send", 400, 104), ("/users/%FF/send", 400, 104), ("/connections/none/send", 404, 109)],
)
async def test_sends_to_nowhere_are_refused(api: Api, path: str, status: int, code: int) -> None:
    problem(await api.post(path, {"event": "e"}), status, code)


# --- batch --------------------------------------------------------------------------------------------


async def test_a_batch_does_all_it_can_in_order(api: Api, gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        await alice.ask("join", room="r")
        operations = [
            {"op": "broadcast", "room": "r", "event": "one"},
            {"op": "send", "user": "alice", "event": "two"},
            {"op": "broadcast", "room": "", "event": "refused"},
            {"op": "send", "connection": "none", "event": "refused"},
            {"op": "send", "event": "refused"},
            {"op": "broadcast", "event": "refused", "org": "globex"},
            {"op": "send", "connection": alice.greeting.data["connection"], "event": "three", "data": 3},
            {"op": "broadcast", "event": "four"},
        ]
        results = success(await api.post("/batch", {"operations": operations}))["results"]
        assert [each["status"] for each in results] == [200, 200, 400, 404, 400, 403, 200, 200]
        codes = [each["problem"]["code"] for each in results if each["status"] != 200]
        assert codes == [105, 109, 103, 204]
        assert results[1]["connections"] == results[6]["connections"] == 1
        events = await alice.settled()
        assert [event.event for event in events] == ["one", "two", "three", "four"]
        assert [event.mid for event in events] == [each["mid"] for each in results if each["status"] == 200]
        assert events[0].seq == results[0]["seq"]


async def test_a_wrong_batch_does_nothing(api: Api, gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        first = {"op": "broadcast", "event": "e"}
        for second, code, named in (
            ({"op": "broadcast", "event": 7}, 104, "operations[1].event"),
            ({"op": "broadcast"}, 103, "operations[1].event"),
            ({"op": "delete", "event": "e"}, 104, "operations[1].op"),
            ({"event": "e"}, 103, "operations[1].op"),
            (7, 104, "operations[1]"),
        ):
            detail = problem(await api.post("/batch", {"operations": [first, second]}), 400, code)
            assert named in detail
        assert await alice.settled() == []


async def test_a_batch_is_bounded(api: Api, gateway: Gateway) -> None:
    limit = gateway.settings.limits.batch
    operations = [{"op": "send", "user": "nobody", "event": "e"}] * limit
    assert len(success(await api.post("/batch", {"operations": operations}))["results"]) == limit
    detail = problem(await api.post("/batch", {"operations": operations + operations[:1]}), 413, 404)
    assert str(limit) in detail


async def test_an_empty_batch_is_fine(api: Api) -> None:
    assert success(await api.post("/batch", {"operations": []})) == {"results": []}


async def test_several_users_are_sent_to_at_once(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, user="bob") as bob:
        body = {"event": "e", "data": 1, "users": ["bob", "away"], "mid": "m"}
        sent = success(await api.post("/users/send", body))
        assert {user: place["seq"] for user, place in sent["users"].items()} == {"bob": 1, "away": 1}
        assert success(await api.post("/users/send", body)) == sent
        assert [event.seq for event in await bob.settled()] == [1]
    fleeting = success(await api.post("/users/bob/send", {"event": "e", "ephemeral": True}))
    assert set(fleeting) == {"mid", "connections"}


async def test_a_batch_may_name_several_users_in_one_operation(api: Api, gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        operations = [
            {"op": "send", "user": "alice", "event": "one"},
            {"op": "send", "users": ["alice", "bob", "alice"], "event": "two", "mid": "m"},
            {"op": "send", "users": ["alice"], "user": "bob", "event": "refused"},
            {"op": "send", "users": [], "event": "refused"},
            {"op": "send", "users": ["u"] * 1001, "event": "refused"},
        ]
        results = success(await api.post("/batch", {"operations": operations}))["results"]
        assert [each["status"] for each in results] == [200, 200, 400, 400, 413]
        assert results[1]["mid"] == "m" and "connections" not in results[1]
        assert {user: place["seq"] for user, place in results[1]["users"].items()} == {"alice": 2, "bob": 1}
        assert [event.event for event in await alice.settled()] == ["one", "two"]


async def test_each_of_several_users_counts_for_rates() -> None:
    rates = {"commands_per_user": 20.0, "burst": 5.0}
    users = [f"u{number}" for number in range(120)]
    for path, body in (
        ("/users/send", {"event": "e", "users": users}),
        ("/batch", {"operations": [{"op": "send", "event": "e", "users": users}]}),
    ):
        async with (
            running_gateway(rates=rates) as gateway,
            asking(gateway) as api,
            connected(gateway, user="backend") as socket,
        ):
            success(await api.post(path, body))
            refused = await api.post(path, body)
            problem(refused, 429, 300)
            assert 0 < float(refused.headers["retry-after"]) < 10
            assert (await socket.ask("ping")).code == 300, "it is the same user"
    async with running_gateway(rates=rates) as gateway, connected(gateway, user="service") as socket:
        sent = await socket.ask("send", event="e", data={"users": users})
        assert sent.t == "reply" and len(sent.data["users"]) == 120
        assert (await socket.ask("ping")).code == 300
