"""Approvals from outside: REST and WebSockets of a running gateway, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from gateway.app import Gateway
from tests.rest.api import Api, asking, success
from tests.support import Raw, connected, start_gateway

ALICE = {"user": "alice"}
BOB = {"user": "bob"}
LEAD = {"user": "lea", "roles": ["lead"]}


@pytest.fixture
async def gateway(nursery: trio.Nursery, address: str) -> AsyncIterator[Gateway]:
    yield await start_gateway(nursery, database=address)


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[Api]:
    async with asking(gateway) as found:
        yield found


async def ask(api: Api, **fields: Any) -> Any:
    if "role" not in fields:
        fields = {"users": ["alice", "bob"], **fields}
    response = await api.post("/approvals", {"title": "Deploy", **fields})
    assert response.status_code == 201, response.text
    return response.json()


async def decide(api: Api, id: str, choice: str = "approve", claims: Any = ALICE, **fields: Any) -> Any:
    return await api.post(f"/approvals/{id}/decide", {"choice": choice, **fields}, claims=claims)


async def told(raw: Raw, event: str) -> Any:
    """The data of the next event, which must be this one."""
    envelope = await raw.event()
    assert envelope.event == event, envelope
    return envelope.data


def conflict(response: Any) -> Any:
    assert response.status_code == 409, response.text
    assert response.json()["code"] == 111
    return response.json()


async def test_asked_told_decided_and_gone_in_every_tab(gateway: Gateway, api: Api) -> None:
    async with (
        connected(gateway) as first,
        connected(gateway) as second,
        connected(gateway, user="bob") as bob,
        connected(gateway, user="carol") as watcher,
    ):
        await watcher.ask("join", room="execution:x1")
        asked = await ask(
            api, id="deploy-7", message="To production?", data={"sha": "ab"}, execution="x1", task="t1"
        )
        assert asked["status"] == "pending" and asked["choices"] == ["approve", "reject"]
        assert asked["sender"] == "backend" and "decision" not in asked
        for tab in (first, second, bob):
            item = await told(tab, "notification:new")
            assert (item["title"], item["data"]) == ("Deploy", {"approval": "deploy-7"})
            pending = await told(tab, "permission:pending")
            assert pending == {"permission": "deploy-7", "action": "Deploy", **asked}
        async with connected(gateway) as late:
            assert late.greeting.data["unread"] == 1
        decided = success(await decide(api, "deploy-7", comment="Go", claims=BOB))
        assert decided["status"] == "decided"
        decision = decided["decision"]
        assert decision == {"choice": "approve", "user": "bob", "comment": "Go", "at": decision["at"]}
        for tab in (first, second, bob):
            assert (await told(tab, "notification:deleted"))["unread"] == 0
            assert (await told(tab, "permission:decided"))["decision"] == decision
            assert (await told(tab, "task:approved"))["task"] == "t1"
        assert (await told(watcher, "permission:decided"))["id"] == "deploy-7"
        assert await told(watcher, "task:approved") == {
            "task": "t1", "approval": "deploy-7", "user": "bob", "execution": "x1", "comment": "Go",
        }  # fmt: skip
    answer = success(await api.get("/notifications", claims=ALICE))
    assert answer == {"notifications": [], "unread": 0}
    late_answer = conflict(await decide(api, "deploy-7", "reject"))
    assert late_answer["decision"] == decision and late_answer["approval"] == decided
    assert success(await api.get("/approvals/deploy-7", claims=ALICE)) == decided
