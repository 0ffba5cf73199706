"""What REST tells about connections, rooms and totals."""

from __future__ import annotations

from contextlib import AsyncExitStack
from urllib.parse import quote

import pytest

from gateway.app import Gateway
from tests.rest.api import ADMIN, Api, problem, success
from tests.support import Raw, connected, until

PLAIN = {"user": "alice"}
ROOMS = ["chat:42", "a/b", "history/history", "a//b", "/lead", "ü €", "100%", "q?x=1&y#z", "a/presence"]


# --- stats ------------------------------------------------------------------------------------------


async def test_stats_count_what_happened_in_the_organisation(api: Api, gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway, org="globex", user="eve") as eve:
        await alice.ask("join", room="chat:1")
        await eve.ask("join", room="secret")
        async with connected(gateway, user="bob") as bob:
            await bob.ask("join", room="chat:1")
        await until(lambda: len(gateway.hub.connections) == 2)
        stats = success(await api.get("/stats"))
        assert stats["org"] == "acme"
        assert (stats["connections"], stats["connections_total"], stats["disconnections_total"]) == (1, 2, 1)
        assert stats["rooms"] == {"chat:1": 1}
        assert stats["users"] == 1
        assert stats["messages_in"] == 2  # two joins
        assert stats["messages_out"] >= 4  # two greetings and two replies
        assert stats["bytes_in"] > 0
        assert stats["bytes_out"] > 0
        assert stats["uptime"] > 0
        assert "secret" not in str(stats)
        assert "organisations" not in stats


async def test_an_admin_sees_the_node_and_each_organisation(api: Api, gateway: Gateway) -> None:
    async with connected(gateway), connected(gateway, org="globex"), connected(gateway, org="globex"):
        node = success(await api.get("/stats", claims=ADMIN))
        assert node["organisations"] == {"acme": 1, "globex": 2}
        assert node["connections"] == 3
        assert success(await api.get("/stats?org=globex", claims=ADMIN))["connections"] == 2
        problem(await api.get("/stats?org=globex"), 403, 204)


async def test_members_see_rooms_whose_presence_they_may_see(api: Api, gateway: Gateway) -> None:
    claims = {"user": "bob", "rooms": {"open:*": ["presence"], "closed:*": ["join"]}}
    async with connected(gateway) as alice:
        await alice.ask("join", room="open:1")
        await alice.ask("join", room="closed:1")
        assert success(await api.get("/stats", claims=claims))["rooms"] == {"open:1": 1}
        assert [r["room"] for r in success(await api.get("/rooms", claims=claims))["rooms"]] == ["open:1"]


# --- connections ------------------------------------------------------------------------------------


async def test_what_is_known_of_a_connection(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, user="alice") as alice:
        await alice.ask("join", room="chat:1")
        await alice.ask("subscribe", data={"events": ["message:*"]})
        listed = success(await api.get("/connections"))
        assert "next" not in listed
        [known] = listed["connections"]
        assert known["connection"] == alice.greeting.data["connection"]
        assert (known["org"], known["user"], known["ip"]) == ("acme", "alice", "127.0.0.1")
        assert known["connected_at"] <= known["last_activity"]
        assert [room["room"] for room in known["rooms"]] == ["chat:1"]
        assert known["events"] == ["message:*"]
        assert success(await api.get(f"/connections/{known['connection']}")) == known


async def test_connections_of_other_organisations_are_not_there(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, org="globex") as other:
        id = other.greeting.data["connection"]
        assert success(await api.get("/connections")) == {"connections": []}
        problem(await api.get(f"/connections/{id}"), 404, 109)
        problem(await api.get(f"/connections/{id}?org=globex"), 403, 204)
        problem(await api.post(f"/connections/{id}/disconnect"), 404, 109)
        problem(await api.post(f"/connections/{id}/send", {"event": "x"}), 404, 109)
        assert success(await api.get(f"/connections/{id}?org=globex", claims=ADMIN))["org"] == "globex"


async def test_members_see_private_things_of_their_own_connections_only(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, user="alice"), connected(gateway, user="bob"):
        seen = success(await api.get("/connections", claims=PLAIN))["connections"]
        assert {each["user"]: "ip" in each for each in seen} == {"alice": True, "bob": False}


async def test_connections_come_in_pages_by_user_and_by_room(api: Api, gateway: Gateway) -> None:
    async with AsyncExitStack() as stack:
        clients: list[Raw] = []
        for number in range(5):
            clients.append(await stack.enter_async_context(connected(gateway, user=f"u{number % 2}")))
        await clients[3].ask("join", room="chat:1")
        ids = [client.greeting.data["connection"] for client in clients]

        found: list[str] = []
        cursor: str | None = "&cursor="  # the same as none
        pages = 0
        while cursor is not None:
            page = success(await api.get(f"/connections?limit=2{cursor}"))
            assert len(page["connections"]) <= 2
            found += [each["connection"] for each in page["connections"]]
            cursor = f"&cursor={page['next']}" if "next" in page else None
            pages += 1
        assert sorted(found) == sorted(ids)
        assert pages == 3

        def matching(answer: object) -> list[str]:
            return [each["connection"] for each in success(answer)["connections"]]

        assert sorted(matching(await api.get("/connections?user=u1"))) == sorted([ids[1], ids[3]])
        assert matching(await api.get("/connections?room=chat:1")) == [ids[3]]


@pytest.mark.parametrize("cursor", ["x", "!!!", "bm8", "WzEsMl0", "WyJhIiwxXQ", "e30"])
async def test_a_cursor_that_is_not_ours_is_refused(api: Api, gateway: Gateway, cursor: str) -> None:
    async with connected(gateway):
        detail = problem(await api.get(f"/connections?cursor={cursor}"), 400, 104)
        assert "cursor" in detail


async def test_disconnecting_tells_the_client_why(api: Api, gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        id = alice.greeting.data["connection"]
        body = {"code": 4501, "reason": "enough"}
        assert success(await api.post(f"/connections/{id}/disconnect", body)) == {
            "connection": id,
            "code": 4501,
        }
        closing = await alice.receive()
        assert (closing.t, closing.code, closing.message) == ("closing", 4501, "enough")
        assert closing.data == {"reconnect": False}
        await until(lambda: not gateway.hub.connections)


async def test_members_disconnect_their_own_connections_only(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, user="alice") as alice, connected(gateway, user="bob") as bob:
        foreign = f"/connections/{bob.greeting.data['connection']}/disconnect"
        problem(await api.post(foreign, claims=PLAIN), 403, 202)
        problem(await api.post("/connections/nobody/disconnect", claims=PLAIN), 404, 109)
        own = f"/connections/{alice.greeting.data['connection']}/disconnect"
        assert success(await api.post(own, claims=PLAIN))["code"] == 4500
        assert (await bob.ask("ping")).t == "pong"


@pytest.mark.parametrize("body", [{"code": 1000}, {"code": 5000}, {"reason": "é" * 60}, {"code": "4500"}])
async def test_close_codes_and_reasons_are_checked(api: Api, gateway: Gateway, body: object) -> None:
    async with connected(gateway) as alice:
        id = alice.greeting.data["connection"]
        problem(await api.post(f"/connections/{id}/disconnect", body), 400, 104)
        assert (await alice.ask("ping")).t == "pong"


# --- rooms ------------------------------------------------------------------------------------------


async def test_rooms_with_their_members_and_positions(api: Api, gateway: Gateway) -> None:
    async with (
        connected(gateway) as alice,
        connected(gateway) as again,
        connected(gateway, org="globex") as x,
    ):
        for client in (alice, again):
            await client.ask("join", room="chat:1")
        await alice.ask("join", room="chat:0")
        await x.ask("join", room="secret")
        position = await alice.ask("publish", room="chat:1", event="e")
        first = success(await api.get("/rooms?limit=1"))
        assert [room["room"] for room in first["rooms"]] == ["chat:0"]
        second = success(await api.get(f"/rooms?limit=1&cursor={first['next']}"))
        assert second["rooms"] == [
            {"room": "chat:1", "members": 2, "users": 1, "seq": position.seq, "epoch": position.epoch}
        ]
        assert "next" not in second


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("safe", ["", "/"])
async def test_any_room_name_can_stand_in_a_path(api: Api, gateway: Gateway, room: str, safe: str) -> None:
    async with connected(gateway) as alice:
        await alice.ask("join", room=room)
        await alice.ask("publish", room=room, event="e", data=1)
        path = f"/rooms/{quote(room, safe=safe)}"
        history = success(await api.get(f"{path}/history"))
        assert history["room"] == room
        assert [event["data"] for event in history["events"]] == [1]
        presence = success(await api.get(f"{path}/presence"))
        assert presence == {
            "room": room,
            "members": [{"user": "alice", "connections": 1}],
            "connections": 1,
        }


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/rooms//history", 105),
        ("/rooms/%0A/history", 105),
        ("/rooms/a%00b/presence", 105),
        ("/rooms/chat:*/history", 105),
        (f"/rooms/{'x' * 201}/history", 105),
        (f"/rooms/{quote('é' * 101)}/presence", 105),
        ("/rooms/%FF/history", 104),
        ("/rooms/%C3%28/presence", 104),
        ("/rooms/%ED%A0%80/history", 104),
        ("/rooms/a/history?limit=0", 104),
        ("/rooms/a/history?limit=many", 104),
        ("/rooms/a/history?epoch=x", 103),
        ("/rooms/a/history?seq=1", 103),
        ("/rooms/a/history?epoch=x&seq=-1", 104),
        ("/rooms/a/history?epoch=%FF&seq=1", 104),
    ],
)
async def test_what_cannot_be_a_room_is_refused(api: Api, path: str, code: int) -> None:
    problem(await api.get(path), 400, code)


async def test_history_is_read_page_after_page(api: Api, gateway: Gateway) -> None:
    published = [
        await gateway.hub.publish("acme", "chat:1", "e", number, sender="alice") for number in range(7)
    ]
    epoch = published[0].epoch
    newest = success(await api.get("/rooms/chat:1/history?limit=3"))
    assert [event["data"] for event in newest["events"]] == [4, 5, 6]
    assert (newest["seq"], newest["more"], newest["complete"]) == (7, False, True)

    seen: list[int] = []
    seq, more = 0, True
    while more:
        page = success(await api.get(f"/rooms/chat:1/history?limit=3&epoch={epoch}&seq={seq}"))
        assert page["complete"]
        seen += [event["seq"] for event in page["events"]]
        seq, more = page["events"][-1]["seq"], page["more"]
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert page["events"][-1]["mid"] == published[-1].mid

    other = success(await api.get("/rooms/chat:1/history?epoch=other&seq=2"))
    assert other["complete"] is False
    assert len(other["events"]) == 7


async def test_history_and_presence_need_their_permissions(api: Api) -> None:
    claims = {"user": "bob", "rooms": {"chat:*": ["history"], "hall": ["presence"]}}
    success(await api.get("/rooms/chat:1/history", claims=claims))
    assert "presence" in problem(await api.get("/rooms/chat:1/presence", claims=claims), 403, 202)
    success(await api.get("/rooms/hall/presence", claims=claims))
    assert "history" in problem(await api.get("/rooms/hall/history", claims=claims), 403, 202)


async def test_rooms_of_another_organisation_are_for_admins(api: Api, gateway: Gateway) -> None:
    await gateway.hub.publish("globex", "chat:1", "e", "theirs")
    assert success(await api.get("/rooms/chat:1/history"))["events"] == []
    for path in ("/rooms", "/rooms/chat:1/history", "/rooms/chat:1/presence", "/connections", "/stats"):
        problem(await api.get(f"{path}?org=globex"), 403, 204)
    history = success(await api.get("/rooms/chat:1/history?org=globex", claims=ADMIN))
    assert [event["data"] for event in history["events"]] == ["theirs"]
