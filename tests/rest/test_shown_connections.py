"""What lists of connections show: to members not the rooms and filters of others, and never too much."""

from __future__ import annotations

from gateway.app import Gateway
from tests.rest.api import Api, problem, success
from tests.support import connected


async def test_members_see_rooms_of_others_by_their_presence(api: Api, gateway: Gateway) -> None:
    bob = {"user": "bob", "rooms": {"lobby": ["presence"]}}
    async with connected(gateway, user="boss") as boss:
        for room in ("lobby", "hr:bob"):
            await boss.ask("join", room=room, data={"events": ["vote:*"]})
        path = f"/connections/{boss.greeting.data['connection']}"
        one = success(await api.get(path, claims=bob))
        (listed,) = success(await api.get("/connections", claims=bob))["connections"]
        for shown in (one, listed):
            assert shown["rooms"] == [{"room": "lobby", "seq": 0}]
            assert "events" not in shown and "ip" not in shown
        problem(await api.get("/connections?room=hr:bob", claims=bob), 403, 202)
        own = success(await api.get(path, claims={"user": "boss"}))
        assert [each["events"] for each in own["rooms"]] == [["vote:*"], ["vote:*"]]


async def test_an_entry_of_a_list_is_small(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, user="alice") as alice:
        for number in range(50):
            await alice.ask("join", room=f"{number:02}" + "x" * 190)
        (listed,) = success(await api.get("/connections"))["connections"]
        assert listed["cut"] is True and 0 < len(listed["rooms"]) < 50
        whole = success(await api.get(f"/connections/{listed['connection']}"))
        assert len(whole["rooms"]) == 50 and "cut" not in whole
