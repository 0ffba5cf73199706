"""Approvals on two nodes, when a node is killed at any point, and over restarts of everything."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from websockets.trio.client import connect

from gateway.auth.tokens import Authenticator
from gateway.config.settings import AuthSettings
from tests.processes import DEADLINE, SECRET, Folder, Served, serving
from tests.redis_server import redis_server
from tests.store.support import rows

TOKENS = Authenticator(AuthSettings(secret=SECRET))
ASKED = {"users": ["alice", "bob"], "title": "Deploy"}
SERVICE = {"roles": ["service"]}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, {"GATEWAY_AUTH_SECRET": SECRET})


async def request(served: Served, method: str, path: str, body: Any = None, **claims: Any) -> httpx.Response:
    token = TOKENS.issue(org="acme", **(claims or SERVICE)).token
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(timeout=DEADLINE) as client:
        url = f"{served.http}/api/v1/approvals{path}"
        return await client.request(method, url, json=body, headers=headers)


async def ask(served: Served, **fields: Any) -> Any:
    response = await request(served, "POST", "", {**ASKED, **fields})
    assert response.status_code == 201, response.text
    return response.json()


def decide(served: Served, id: str, choice: str, user: str) -> Any:
    return request(served, "POST", f"/{id}/decide", {"choice": choice}, user=user)


async def waited(served: Served, id: str) -> Any:
    return (await request(served, "GET", f"/{id}?wait=25")).json()


def socket(served: Served, user: str) -> Any:
    token = TOKENS.issue(org="acme", user=user).token
    return connect(served.url, additional_headers={"Authorization": f"Bearer {token}"})


async def told(ws: Any, *events: str) -> list[Any]:
    """The data of the next events, which must be these."""
    found: list[Any] = []
    with trio.fail_after(DEADLINE):
        while len(found) < len(events):
            message = json.loads(await ws.recv())
            if message["t"] == "event":
                assert message["event"] == events[len(found)], message
                found.append(message["data"])
    return found


async def until_told(ws: Any, event: str) -> Any:
    """The data of the first event of this name."""
    with trio.fail_after(DEADLINE):
        while True:
            message = json.loads(await ws.recv())
            if message["t"] == "event" and message["event"] == event:
                return message["data"]


async def test_two_nodes_over_redis_and_then_one(folder: Folder, address: str) -> None:
    async with redis_server(folder.path / "redis") as redis:
        environ = {"GATEWAY_DATABASE": address, "GATEWAY_BROKER": redis.url, "GATEWAY_STORE_LEASE": "1"}
        async with (
            serving(folder, **environ, GATEWAY_NODE="n1") as n1,
            serving(folder, **environ, GATEWAY_NODE="n2") as n2,
            socket(n1, "alice") as one,
            socket(n2, "alice") as two,
        ):
            # Two answers in the same moment, on two nodes; a third client waits on either of them.
            await ask(n1, id="race")
            for ws in (one, two):
                await told(ws, "notification:new", "permission:pending")
            answers: dict[str, httpx.Response] = {}
            waits: list[Any] = []

            async def answer(served: Served, choice: str, user: str) -> None:
                answers[user] = await decide(served, "race", choice, user)

            async def wait(served: Served) -> None:
                waits.append(await waited(served, "race"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, n1)
                nursery.start_soon(wait, n2)
                nursery.start_soon(answer, n1, "approve", "alice")
                nursery.start_soon(answer, n2, "reject", "bob")
            assert sorted(each.status_code for each in answers.values()) == [200, 409]
            (winner,) = [user for user, response in answers.items() if response.status_code == 200]
            assert {each.json()["decision"]["user"] for each in answers.values()} == {winner}
            assert [each["decision"]["user"] for each in waits] == [winner] * 2
            for ws in (one, two):
                deleted, decided = await told(ws, "notification:deleted", "permission:decided")
                assert deleted["unread"] == 0 and decided["decision"]["user"] == winner

            # The node that took the request dies before its deadline; the other one meets it.
            await ask(n1, id="orphan", deadline=2.0, fallback="reject")
            n1.process.send_signal(signal.SIGKILL)
            orphan = await waited(n2, "orphan")
            assert orphan["decision"]["fallback"] is True and orphan["decision"]["choice"] == "reject"
            assert (await until_told(two, "permission:decided"))["id"] == "orphan"
    assert len(rows(address, "SELECT id FROM approval_audit WHERE action = 'fallback'")) == 1


MODULE = "gateway_that_dies_deciding"
DYING = """
import os
import signal


def setup(gateway):
    inbox = gateway.operations.notifications.inbox
    deliver = inbox.deliver

    def dying(entries):
        if any(entry.event == "permission:decided" for entry in entries):
            os.kill(os.getpid(), signal.SIGKILL)
        deliver(entries)

    inbox.deliver = dying
"""


async def test_killed_between_the_decision_and_what_it_tells(folder: Folder, address: str) -> None:
    """The next start tells it, has kept what is open, and meets the deadlines that nobody was there for."""
    (folder.path / f"{MODULE}.py").write_text(DYING)
    environ = {"GATEWAY_DATABASE": address}
    dying = {**environ, "GATEWAY_EXTENSIONS": MODULE, "PYTHONPATH": str(folder.path)}
    async with serving(folder, **dying) as served:
        await ask(served, id="decided", execution="x1", task="t1")
        await ask(served, id="open")
        await ask(served, id="due", deadline=3600, fallback="reject")
        with pytest.raises(httpx.TransportError):
            await decide(served, "decided", "approve", "alice")
        assert await served.process.wait() == -signal.SIGKILL
    rows(address, "UPDATE approvals SET deadline_ms = 1 WHERE name = 'due'")
    # The lease ends when the users are there, however long the start takes.
    rows(address, "UPDATE outbox SET lease_ms = lease_ms + 3600000")
    async with serving(folder, **environ) as served:
        due = await waited(served, "due")
        assert due["decision"] == {"choice": "reject", "fallback": True, "at": due["decision"]["at"]}
        again = await decide(served, "decided", "approve", "alice")  # whoever got no answer repeats it
        assert (again.status_code, again.json()["decision"]["user"]) == (409, "alice")
        async with socket(served, "alice") as alice, socket(served, "bob") as bob:
            await bob.send(json.dumps({"v": 1, "t": "join", "id": 1, "room": "execution:x1"}))
            while json.loads(await bob.recv())["t"] != "reply":
                pass
            rows(address, "UPDATE outbox SET lease_ms = 0")
            assert (await until_told(alice, "permission:decided"))["decision"]["user"] == "alice"
            assert (await until_told(alice, "task:approved"))["task_id"] == "t1"
            # To bob himself, and into the room.
            for _ in range(2):
                assert (await until_told(bob, "task:approved"))["approval"] == "decided"
        assert (await request(served, "GET", "/open")).json()["status"] == "pending"
        assert (await decide(served, "open", "reject", "bob")).status_code == 200
