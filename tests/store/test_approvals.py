"""Approvals from outside: REST and WebSockets of a running gateway, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio

from gateway.app import Gateway
from gateway.testing.settings import SECRET
from protocol import events
from protocol.errors import ErrorCode
from tests.rest.api import ADMIN, Api, asking, problem, success
from tests.store.support import rows
from tests.support import DEADLINE, Raw, connected, start_gateway, until

ALICE = {"user": "alice"}
BOB = {"user": "bob"}


def lead(user: str, org: str = "acme") -> str:
    """A token with a role of the application's own, which its own issuer has signed."""
    return jwt.encode({"org": org, "sub": user, "roles": ["lead"]}, SECRET, "HS256")


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
            assert pending == asked
            assert isinstance(events.from_data("permission:pending", pending), events.PermissionPending)
        async with connected(gateway) as late:
            assert late.greeting.data["unread"] == 1
        decided = success(await decide(api, "deploy-7", comment="Go", claims=BOB))
        assert decided["status"] == "decided"
        decision = decided["decision"]
        assert decision == {"choice": "approve", "user": "bob", "comment": "Go", "at": decision["at"]}
        for tab in (first, second, bob):
            assert (await told(tab, "notification:deleted"))["unread"] == 0
            data = await told(tab, "permission:decided")
            assert data == {**decided, "choice": "approve", "user": "bob", "comment": "Go"}
            typed = events.from_data("permission:decided", data)
            assert isinstance(typed, events.PermissionDecided) and typed.choice == "approve"
            typed = events.from_data("task:approved", await told(tab, "task:approved"))
            assert isinstance(typed, events.TaskApproved) and typed.task_id == "t1"
        assert (await told(watcher, "permission:decided"))["id"] == "deploy-7"
        assert await told(watcher, "task:approved") == {
            "task_id": "t1", "approval": "deploy-7", "choice": "approve", "user": "bob",
            "execution": "x1", "comment": "Go",
        }  # fmt: skip
    answer = success(await api.get("/notifications", claims=ALICE))
    assert answer == {"notifications": [], "unread": 0}
    late_answer = conflict(await decide(api, "deploy-7", "reject"))
    assert late_answer["decision"] == decision and late_answer["approval"] == decided
    assert success(await api.get("/approvals/deploy-7", claims=ALICE)) == decided


# --- waiting ----------------------------------------------------------------------------------------------


async def test_waiting_is_answered_by_the_decision(gateway: Gateway, api: Api) -> None:
    await ask(api, id="w")
    pending = success(await api.get("/approvals/w?wait=0.01", claims=ALICE))
    assert pending["status"] == "pending"
    answers: list[Any] = []

    async def wait(claims: Any) -> None:
        answers.append(success(await api.get("/approvals/w?wait=60", claims=claims)))

    async with connected(gateway, user="bob") as bob, trio.open_nursery() as nursery:
        for claims in (ALICE, {"roles": ["service"]}):
            nursery.start_soon(wait, claims)
        await bob.send("call", id=7, event="approvals.get", data={"id": "w", "wait": 60})
        await until(lambda: waiting(gateway) == 3, "all wait")
        decided = success(await decide(api, "w", "reject"))
        while (answer := await bob.receive()).t != "reply":
            pass
        answers.append(answer.data)
    assert answers == [decided] * 3
    assert waiting(gateway) == 0
    assert success(await api.get("/approvals/w?wait=60", claims=ALICE)) == decided  # at once


def waiting(gateway: Gateway) -> float:
    return gateway.census()["approvals.waiting"]


async def test_a_client_that_goes_away_waits_no_longer(gateway: Gateway, api: Api) -> None:
    await ask(api, id="w")
    async with connected(gateway) as alice, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: api.get("/approvals/w?wait=60", claims=ALICE))
        await alice.send("call", id=7, event="approvals.get", data={"id": "w", "wait": 60})
        await until(lambda: waiting(gateway) == 2, "both wait")
        nursery.cancel_scope.cancel()
    await until(lambda: waiting(gateway) == 0, "nobody waits")


async def test_the_waiting_are_bounded_and_let_go_at_the_stop(nursery: trio.Nursery, address: str) -> None:
    gateway = await start_gateway(nursery, database=address, store={"approvals_waiting": 8})
    refusals: list[Any] = []
    async with asking(gateway) as api:
        await ask(api, id="w")

        async def wait() -> None:
            refusals.append(await api.get("/approvals/w?wait=60", claims=ALICE))

        async with trio.open_nursery() as waiters:
            for _ in range(2):  # a quarter, for one organisation
                waiters.start_soon(wait)
            await until(lambda: waiting(gateway) == 2, "two wait")
            problem(await api.get("/approvals/w?wait=60", claims=ALICE), 503, 301)
            assert success(await api.get("/approvals/w", claims=ALICE))["status"] == "pending"
            gateway.stop()
    for response in refusals:
        problem(response, 503, 304)
    with trio.fail_after(DEADLINE):
        await gateway.finished.wait()


# --- deadlines --------------------------------------------------------------------------------------------


async def test_the_deadline_decides(gateway: Gateway, api: Api) -> None:
    async with connected(gateway) as alice:
        await ask(api, id="falls", deadline=0.3, fallback="reject", users=["alice"])
        waited = success(await api.get("/approvals/falls?wait=60", claims=ALICE))
        assert waited["decision"] == {"choice": "reject", "fallback": True, "at": waited["decision"]["at"]}
        assert waited["decision"]["at"] >= waited["deadline_at"]
        await ask(api, id="ends", deadline=0.01, users=["alice"])
        ended = success(await api.get("/approvals/ends?wait=60", claims=ALICE))
        assert ended["status"] == "expired" and "decision" not in ended
        for id in ("falls", "ends"):
            await told(alice, "notification:new")
            await told(alice, "permission:pending")
            assert (await told(alice, "notification:deleted"))["unread"] == 0
            assert (await told(alice, "permission:decided"))["id"] == id
    assert conflict(await decide(api, "falls"))["decision"] == waited["decision"]
    late = conflict(await decide(api, "ends"))
    assert "decision" not in late and late["approval"] == ended
    assert success(await api.get("/approvals?status=expired"))["approvals"] == [ended]
    assert "trireme_approvals_expired_total 2.0" in (await api.client.get("/metrics")).text


# --- roles ------------------------------------------------------------------------------------------------


async def test_a_role_is_told_when_here_and_when_it_comes(gateway: Gateway, api: Api) -> None:
    async with (
        connected(gateway, token=lead("lea")) as lea,
        connected(gateway, token=lead("lea")) as tab,
        connected(gateway, user="bob") as bob,
        connected(gateway, token=lead("ann", "other")) as foreign,
    ):
        asked = await ask(api, id="r", role="lead")
        for raw in (lea, tab):
            assert (await told(raw, "notification:new"))["data"] == {"approval": "r"}
            assert (await told(raw, "permission:pending"))["role"] == "lead"
        async with connected(gateway, token=lead("max")) as late:
            assert late.greeting.data["unread"] == 0
            assert (await told(late, "notification:new"))["data"] == {"approval": "r"}
            assert (await told(late, "permission:pending"))["id"] == "r"
        async with connected(gateway, token=lead("max")) as again:
            assert again.greeting.data["unread"] == 1
            for user in ("lea", "unseen"):
                found = await api.get("/approvals?status=pending", token=lead(user))
                assert success(found) == {"approvals": [asked]}
            assert success(await api.get("/approvals", claims=BOB)) == {"approvals": []}
            problem(await decide(api, "r", claims=BOB), 403, 202)
            problem(await api.get("/approvals/r", claims=BOB), 403, 202)
            response = await api.post("/approvals/r/decide", {"choice": "approve"}, token=lead("unseen"))
            decided = success(response)
            for raw in (lea, tab, again):
                assert (await told(raw, "notification:deleted"))["unread"] == 0
                assert (await told(raw, "permission:decided"))["decision"] == decided["decision"]
        for raw in (bob, foreign):
            assert await raw.settled() == []
    # Who was asked may look at it, also without the role.
    assert success(await api.get("/approvals/r", claims={"user": "max"})) == decided


async def test_a_service_makes_who_is_asked_by_role(gateway: Gateway, api: Api) -> None:
    """With one token of a service, and nobody else's key."""
    body = {"user": "lea", "roles": ["lead"], "ttl": 3600}
    token = success(await api.post("/auth/token", body))["token"]
    async with connected(gateway, token=token) as lea:
        await ask(api, id="r", role="lead")
        await told(lea, "notification:new")
        assert (await told(lea, "permission:pending"))["id"] == "r"
        renewed = success(await api.post("/auth/refresh", token=token))["token"]
        answer = await api.post("/approvals/r/decide", {"choice": "reject"}, token=renewed)
        assert success(answer)["decision"]["user"] == "lea"


# --- the rest ---------------------------------------------------------------------------------------------


async def test_calls_over_a_socket(gateway: Gateway, api: Api) -> None:
    async with (
        connected(gateway, user="backend", roles=["service"]) as service,
        connected(gateway) as alice,
        connected(gateway, user="bob") as bob,
    ):
        body = {"id": "c", "users": ["alice", "bob"], "title": "Deploy", "choices": ["yes", "no"]}
        asked = (await service.ask("call", event="approvals.create", data=body)).data
        assert (await service.ask("call", event="approvals.create", data=body)).data == asked
        assert (await alice.ask("call", event="approvals.list", data={"status": "pending"})).data == {
            "approvals": [asked]
        }
        assert (await alice.ask("call", event="approvals.get", data={"id": "c"})).data == asked
        for change in ({"deadline": -5}, {"deadline": 0}, {"choices": []}, {"deadline": 5, "fallback": "?"}):
            refused = await service.ask("call", event="approvals.create", data={**body, **change})
            assert (refused.t, refused.code) == ("error", ErrorCode.BAD_FIELD), change
        choice = {"id": "c", "choice": "yes", "comment": "Go"}
        decided = (await alice.ask("call", event="approvals.decide", data=choice)).data
        late = await bob.ask("call", event="approvals.decide", data={"id": "c", "choice": "no"})
        assert (late.t, late.code) == ("error", ErrorCode.CONFLICT)
        assert late.data == {"decision": decided["decision"], "approval": decided}
        got = await service.ask("call", event="approvals.get", data={"id": "c", "wait": 9, "audit": True})
        created, audited = got.data["audit"]
        assert (created["action"], created["user"]) == ("created", "backend")
        assert created["connection"] == service.greeting.data["connection"]
        assert audited == {
            "action": "decided", "user": "alice", "choice": "yes", "address": "127.0.0.1",
            "connection": alice.greeting.data["connection"], "at": decided["decision"]["at"],
        }  # fmt: skip
        for event, data, code in (
            ("create", body, ErrorCode.FORBIDDEN),
            ("create", {"users": ["x"]}, ErrorCode.MISSING_FIELD),
            ("get", {"id": "c", "wait": 61}, ErrorCode.BAD_FIELD),
            ("get", {"id": "c", "audit": True}, ErrorCode.FORBIDDEN),
            ("get", {"id": "d"}, ErrorCode.NOT_FOUND),
            ("get", {"id": 7}, ErrorCode.BAD_FIELD),
            ("list", {"status": "x"}, ErrorCode.BAD_FIELD),
            ("list", {"user": "bob"}, ErrorCode.FORBIDDEN),
            ("decide", {"id": "c"}, ErrorCode.MISSING_FIELD),
            ("decide", {"id": "c", "choice": "maybe"}, ErrorCode.BAD_FIELD),
            ("decide", {"id": "c", "choise": "yes"}, ErrorCode.BAD_FIELD),
        ):
            answer = await alice.ask("call", event=f"approvals.{event}", data=data)
            assert (answer.t, answer.code) == ("error", code), (event, data, answer)


async def test_who_may_do_what(gateway: Gateway, api: Api) -> None:
    asked = await ask(api, id="p")
    problem(await api.post("/approvals", {"title": "t", "users": ["bob"]}, claims=ALICE), 403, 202)
    problem(await api.post("/approvals?org=other", {"title": "t", "users": ["bob"]}), 403, 204)
    # No service and no admin decides for others, and a token without a user for nobody.
    for claims in ({"user": "carol"}, {"user": "s", "roles": ["service"]}, ADMIN, {"roles": ["service"]}):
        problem(await decide(api, "p", claims=claims), 403, 202)
    foreign = {"org": "other", "user": "alice"}
    problem(await decide(api, "p", claims=foreign), 404, 109)
    problem(await api.post("/approvals/p/decide?org=acme", {"choice": "approve"}, claims=foreign), 403, 204)
    admin = {"org": "x", **ADMIN}
    problem(await api.post("/approvals/p/decide?org=acme", {"choice": "approve"}, claims=admin), 403, 202)
    problem(await api.get("/approvals/p", claims=foreign), 404, 109)
    problem(await api.get("/approvals/p", claims={"user": "carol"}), 403, 202)
    problem(await api.get("/approvals/p?audit=true", claims=ALICE), 403, 202)
    problem(await api.get("/approvals?user=bob", claims=ALICE), 403, 202)
    assert success(await api.get("/approvals", claims={"user": "carol"})) == {"approvals": []}
    assert success(await api.get("/approvals?user=bob")) == {"approvals": [asked]}
    assert success(await api.get("/approvals?user=carol")) == {"approvals": []}
    assert success(await api.get("/approvals/p?org=acme", claims=admin)) == asked
    assert success(await api.get("/approvals/p"))["status"] == "pending"


BAD: list[tuple[dict[str, Any], int, int]] = [
    ({"users": None}, 400, 103),
    ({"role": "lead"}, 400, 104),
    ({"users": []}, 400, 104),
    ({"users": ["u"] * 101}, 400, 104),
    ({"users": ["u", ""]}, 400, 104),
    ({"users": ["u" * 201]}, 400, 104),
    ({"users": None, "role": ""}, 400, 104),
    ({"users": None, "role": "r" * 201}, 400, 104),
    ({"title": ""}, 400, 104),
    ({"title": "t" * 201}, 400, 104),
    ({"title": "a\nb"}, 400, 104),
    ({"message": ""}, 400, 104),
    ({"message": "m" * 2001}, 400, 104),
    ({"message": "a\0b"}, 400, 104),
    ({"data": "x" * 4095}, 413, 404),
    ({"data": [[[[[[[[[1]]]]]]]]]}, 400, 104),
    ({"id": ""}, 400, 104),
    ({"id": "i" * 101}, 400, 104),
    ({"id": "a/b"}, 400, 104),
    ({"id": "a\nb"}, 400, 104),
    ({"choices": []}, 400, 104),
    ({"choices": ["x"] * 2}, 400, 104),
    ({"choices": [f"c{n}" for n in range(11)]}, 400, 104),
    ({"choices": ["c" * 51]}, 400, 104),
    ({"choices": [""]}, 400, 104),
    ({"deadline": 0}, 400, 104),
    ({"deadline": -5}, 400, 104),
    ({"deadline": 1e9}, 400, 104),
    ({"deadline": "soon"}, 400, 104),
    ({"fallback": "reject"}, 400, 103),
    ({"fallback": "maybe", "deadline": 5}, 400, 104),
    ({"execution": "*"}, 400, 105),
    ({"execution": "x" * 200}, 400, 105),
    ({"execution": ""}, 400, 104),
    ({"task": "t" * 201}, 400, 104),
    ({"colour": "red"}, 400, 104),
]


async def test_bad_input_leaves_nothing(sqlite: Gateway) -> None:
    async with asking(sqlite) as api:
        for change, status, code in BAD:
            body = {"users": ["alice"], "title": "Deploy", **change}
            body = {name: value for name, value in body.items() if value is not None}
            problem(await api.post("/approvals", body), status, code)
        assert success(await api.get("/approvals")) == {"approvals": []}
    for table in ("outbox", "notifications", "approval_audit"):
        assert rows(sqlite.settings.database, f"SELECT id FROM {table}") == []


@pytest.fixture
async def sqlite(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Gateway]:
    """What is refused before the database is asked needs only one of them."""
    yield await start_gateway(nursery, database=f"sqlite:///{tmp_path / 'gateway.db'}")


async def test_bad_decisions_leave_it_open(sqlite: Gateway) -> None:
    async with asking(sqlite) as api:
        asked = await ask(api, id="b")
        for change, status, code in (
            ({"choice": "maybe"}, 400, 104),
            ({"choice": ""}, 400, 104),
            ({"choice": "x" * 100_000}, 400, 104),
            ({"choice": 7}, 400, 104),
            ({"comment": ""}, 400, 104),
            ({"comment": "c" * 1001}, 400, 104),
            ({"comment": "a\0b"}, 400, 104),
            ({"colour": "red"}, 400, 104),
        ):
            body = {"choice": "approve", **change}
            problem(await api.post("/approvals/b/decide", body, claims=ALICE), status, code)
        problem(await api.post("/approvals/b/decide", {}, claims=ALICE), 400, 103)
        for query in ("wait=-1", "wait=61", "wait=nan", "wait=x", "audit=x"):
            problem(await api.get(f"/approvals/b?{query}"), 400, 104)
        for query in ("status=open", "limit=0", "limit=101", "cursor=!"):
            problem(await api.get(f"/approvals?{query}"), 400, 104)
        for id in ("none", "x" * 200, "%00"):
            problem(await api.get(f"/approvals/{id}"), 404, 109)
        assert success(await api.get("/approvals/b")) == asked
        assert success(await api.get("/approvals/b?wait=0.01", claims=ALICE)) == asked


async def test_pages(sqlite: Gateway) -> None:
    async with asking(sqlite) as api:
        ids = [(await ask(api))["id"] for _ in range(5)]
        success(await decide(api, ids[4]))
        found: list[str] = []
        cursor = ""
        while True:
            answer = success(
                await api.get(f"/approvals?limit=2{cursor and f'&cursor={cursor}'}", claims=ALICE)
            )
            found += [each["id"] for each in answer["approvals"]]
            if "next" not in answer:
                break
            cursor = answer["next"]
        assert found == ids[::-1]
        pending = success(await api.get("/approvals?status=pending", claims=BOB))["approvals"]
        assert [each["id"] for each in pending] == ids[3::-1]
        problem(await api.get(f"/approvals?cursor={cursor}", claims=BOB), 400, 104)


async def test_too_many_are_open(nursery: trio.Nursery, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'gateway.db'}"
    gateway = await start_gateway(nursery, database=database, store={"approvals_open": 1})
    async with asking(gateway) as api:
        await ask(api, id="one")
        problem(await api.post("/approvals", {"title": "t", "users": ["x"]}), 429, 405)
        await ask(api, id="one")
        success(await decide(api, "one"))
        await ask(api, id="two")


async def test_without_a_database_there_are_none(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    async with asking(gateway) as api, connected(gateway) as alice:
        problem(await api.get("/approvals", claims=ALICE), 404, 109)
        problem(await api.post("/approvals", {"title": "t", "users": ["x"]}), 404, 109)
        problem(await decide(api, "x"), 404, 109)
        answer = await alice.ask("call", event="approvals.list")
        assert (answer.t, answer.code) == ("error", ErrorCode.UNKNOWN_CALL)
