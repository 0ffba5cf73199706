"""Approvals on two nodes, one of which is killed, and over a restart of everything."""

from __future__ import annotations

import contextlib
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
from gateway.testing.settings import SECRET
from protocol.errors import ErrorCode
from tests.processes import DEADLINE, Folder, Served, serving
from tests.redis_server import redis_server
from tests.rest.api import asking, success
from tests.store.support import rows
from tests.support import connected, start_gateway

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
    return connect(served.url, open_timeout=60, additional_headers={"Authorization": f"Bearer {token}"})


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


async def next_event(ws: Any) -> Any:
    """The next event, whatever it is."""
    with trio.fail_after(DEADLINE):
        while True:
            message = json.loads(await ws.recv())
            if message["t"] == "event":
                return message


MODULE = "gateway_that_dies_deciding"
DYING = """
import os
import signal


def setup(gateway):
    inbox = gateway.operations.notifications.inbox
    deliver = inbox.deliver

    def dying(entries):
        if any(entry.data.get("id") == "fatal" and "decision" in entry.data for entry in entries):
            os.kill(os.getpid(), signal.SIGKILL)
        deliver(entries)

    inbox.deliver = dying
"""


async def test_two_nodes_over_redis_and_then_one(folder: Folder, address: str) -> None:
    (folder.path / f"{MODULE}.py").write_text(DYING)
    async with redis_server(folder.path / "redis") as redis, contextlib.AsyncExitStack() as stack:
        environ = {"GATEWAY_DATABASE": address, "GATEWAY_BROKER": redis.url, "GATEWAY_STORE_LEASE": "1"}
        dying = {**environ, "GATEWAY_EXTENSIONS": MODULE, "PYTHONPATH": str(folder.path)}
        n1 = await stack.enter_async_context(serving(folder, **dying, GATEWAY_NODE="n1"))
        n2 = await stack.enter_async_context(serving(folder, **environ, GATEWAY_NODE="n2"))
        one = await stack.enter_async_context(socket(n1, "alice"))
        two = await stack.enter_async_context(socket(n2, "alice"))

        # Two answers in the same moment, on two nodes; others wait on either of them.
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

        # A node dies between its commit of a decision and telling it, and before the deadline of another.
        await ask(n1, id="fatal", execution="x1", task="t1")
        await ask(n1, id="orphan", deadline=3.0, fallback="reject")
        await two.send(json.dumps({"v": 1, "t": "join", "id": 1, "room": "execution:x1"}))
        with pytest.raises(httpx.TransportError):
            await decide(n1, "fatal", "approve", "alice")
        assert await n1.process.wait() == -signal.SIGKILL
        again = await decide(n2, "fatal", "approve", "alice")  # whoever got no answer repeats it
        assert (again.status_code, again.json()["decision"]["user"]) == (409, "alice")
        orphan = await waited(n2, "orphan")
        assert orphan["decision"] == {"choice": "reject", "fallback": True, "at": orphan["decision"]["at"]}
        # To alice of both, and of the one into the room of its execution.
        heard: list[str] = []
        while sorted(heard) != [*["permission:decided"] * 3, *["task:approved"] * 2]:
            event = await next_event(two)
            heard += [event["event"]] if event["event"] in ("permission:decided", "task:approved") else []
    assert len(rows(address, "SELECT id FROM approval_audit WHERE action = 'fallback'")) == 1


RACES = 8


async def test_many_answers_in_one_moment_on_two_nodes(nursery: trio.Nursery, address: str) -> None:
    """To each question four, by two people at two nodes over REST and sockets: one of them counts."""
    nodes = [await start_gateway(nursery, database=address, node=name) for name in ("n1", "n2")]
    async with (
        asking(nodes[0]) as one,
        asking(nodes[1]) as two,
        connected(nodes[0], user="alice") as alice,
        connected(nodes[1], user="bob") as bob,
    ):
        for number in range(RACES):
            id = f"race-{number}"
            assert (await one.post("/approvals", {**ASKED, "id": id})).status_code == 201
            answers: list[tuple[bool, Any]] = []

            async def by_rest(api: Any, user: str, choice: str, id: str = id, answers: Any = answers) -> None:
                path = f"/approvals/{id}/decide"
                response = await api.post(path, {"choice": choice}, claims={"user": user})
                assert response.status_code in (200, 409), response.text
                answers.append((response.status_code == 200, response.json()["decision"]))

            async def by_call(raw: Any, choice: str, id: str = id, answers: Any = answers) -> None:
                said = await raw.ask("call", event="approvals.decide", data={"id": id, "choice": choice})
                assert said.t == "reply" or said.code == ErrorCode.CONFLICT, said
                answers.append((said.t == "reply", said.data["decision"]))

            async with trio.open_nursery() as deciders:
                deciders.start_soon(by_rest, one, "bob", "reject")
                deciders.start_soon(by_call, bob, "reject")
                deciders.start_soon(by_rest, two, "alice", "approve")
                deciders.start_soon(by_call, alice, "approve")
            assert sorted(won for won, _ in answers) == [False, False, False, True]
            (decision,) = (decision for won, decision in answers if won)
            assert [each for _, each in answers] == [decision] * 4
    notes = rows(address, "SELECT approval FROM approval_audit WHERE action = 'decided'")
    assert len(notes) == len({note.approval for note in notes}) == RACES


async def test_a_restart_of_everything(nursery: trio.Nursery, address: str) -> None:
    """What is open stays so, and deadlines are met that nobody was there for."""
    first = await start_gateway(nursery, database=address)
    async with asking(first) as api:
        for id, more in (("open", {}), ("due", {"deadline": 3600, "fallback": "reject"})):
            assert (await api.post("/approvals", {**ASKED, "id": id, **more})).status_code == 201
    first.stop()
    await first.finished.wait()
    rows(address, "UPDATE approvals SET deadline_ms = 1 WHERE name = 'due'")
    second = await start_gateway(nursery, database=address)
    async with asking(second) as api, connected(second, user="alice") as alice:
        due = success(await api.get("/approvals/due?wait=60"))
        assert due["decision"]["fallback"] is True
        choice = {"id": "open", "choice": "approve"}
        assert (await alice.ask("call", event="approvals.decide", data=choice)).data["status"] == "decided"
        assert success(await api.get("/notifications", claims={"user": "alice"}))["unread"] == 0
