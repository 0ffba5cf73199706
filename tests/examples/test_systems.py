"""Each of the five systems as a small backend: started as it stands, and used as its pages would."""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.app import Gateway
from gateway.client import Client, CommandFailed, Event, connect
from gateway.config.settings import CallSettings, ExecutionSettings
from protocol.errors import ErrorCode
from protocol.events import CouncilorCompleted, MessageStatus, TaskCompleted, TaskCreated, TaskFailed
from tests.e2e.prerequisites import node
from tests.examples.support import EXAMPLES, bound, fastapi, running
from tests.support import DEADLINE, connected, running_gateway, url

SYSTEMS = sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.mjs")])
PUBLIC = {"gateway", "gateway.client", "gateway.publisher", "gateway.testing", "protocol.events"}


async def heard(client: Client, *events: str) -> list[Event]:
    """Take events until each of these has come, in whatever order; the first of each."""
    found: dict[str, Event] = {}
    with trio.fail_after(DEADLINE):
        while not found.keys() >= set(events):
            event = await anext(client)
            found.setdefault(event.event, event)
    return [found[name] for name in events]


@contextlib.asynccontextmanager
async def page(gateway: Gateway, token: str) -> AsyncIterator[Client]:
    async with connect(url(gateway), token=token) as client:
        yield client


@pytest.mark.parametrize("file", SYSTEMS, ids=lambda file: file.name)
def test_an_example_is_short_and_uses_what_is_public(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 80
    if file.suffix == ".py":
        names = {
            name
            for node in ast.walk(ast.parse(source))
            for name in (
                [each.name for each in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert {name for name in names if name.split(".")[0] in ("gateway", "protocol")} <= PUBLIC
    else:
        assert set(re.findall(r'from "([^"]+)"', source)) <= {"node:http"}


async def test_a_notifications(tmp_path: Path) -> None:
    stored = {
        "database": f"sqlite:///{tmp_path / 'gateway.db'}",
        "executions": ExecutionSettings(vocabularies=["a"]),
    }
    command = [node(), "notifications.mjs"]
    async with running_gateway(**stored) as gateway, running(command, gateway=gateway) as backend:
        await backend.listens()

        async def ask(path: str, **body: Any) -> Any:
            answer = await backend.http.post(path, json=body)
            assert answer.is_success, answer.text
            return answer.json()

        tokens = {user: (await ask("/login", user=user))["token"] for user in ("alice", "bob")}
        async with page(gateway, tokens["alice"]) as alice, page(gateway, tokens["bob"]) as bob:
            task = {"agent": "writer", "method": "summarise", "approvers": ["alice"]}
            done = ("agent:execution:start", "agent:execution:complete", "task:executed")
            failed = ("agent:execution:start", "agent:execution:error", "task:executed")
            for title, names in (("Sum it up", done), ("Do the impossible", failed)):
                id = (await ask("/tasks", title=title, **task))["id"]
                created, pending = await heard(alice, "task:created", "permission:pending")
                assert (created.data["task_id"], pending.data["task"]) == (id, id)
                decision = {"id": pending.data["id"], "choice": "approve"}
                await alice.call("approvals.decide", decision)
                started, ended, executed = await heard(bob, *names)
                assert started.data["agent_id"] == "writer"
                assert executed.data["success"] is (names is done)
                assert ended.data["execution_id"] == started.data["execution_id"]
                assert ended.data.get("tools") == (["search", "editor"] if names is done else None)
            await ask("/remind", user="bob", text="lunch")
            assert (await heard(bob, "reminder"))[0].data == {"text": "lunch"}
            assert (await backend.http.get("/clients")).json()["connections"] == 2
            assert (await backend.http.get("/nothing")).status_code == 404
            service = gateway.auth.issue(org="acme", roles=["service"]).token
            summary = await backend.http.get(
                f"http://127.0.0.1:{gateway.port}/api/v1/executions/summary",
                headers={"Authorization": f"Bearer {service}"},
            )
            counted = summary.json()["by_status"]
            assert (counted["completed"], counted["failed"]) == (1, 1)


async def test_b_platform_integration(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with (
        running_gateway(database=database) as gateway,
        fastapi("platform_backend", gateway) as backend,
    ):

        async def ask(path: str, /, **body: Any) -> Any:
            answer = await backend.http.post(path, json=body)
            assert answer.is_success, answer.text
            return answer.json()

        tokens = {user: (await ask(f"/login/{user}"))["token"] for user in ("alice", "bob")}
        watching = gateway.auth.issue(org="acme", user="watch", rooms={"executions": ["join"]}).token
        async with (
            page(gateway, tokens["alice"]) as alice,
            page(gateway, tokens["bob"]) as bob,
            page(gateway, watching) as watcher,
        ):
            await ask("/messages", users=["alice", "bob", "away"], text="hello")
            assert [(await heard(each, "message"))[0].data["text"] for each in (alice, bob)] == ["hello"] * 2
            await ask("/announcements", text="maintenance", users=["alice"])
            await alice.join("channel:news")
            await ask("/channels/news", text="a post")
            event = await anext(alice)
            assert (event.event, event.data) == ("post", {"text": "a post"}), "and no announcement"
            assert (await heard(bob, "announcement"))[0].data == {"text": "maintenance"}
            with pytest.raises(CommandFailed):
                await bob.publish("channel:news", "post", {})

            await watcher.join("executions")
            id = (await ask("/jobs/reporter?user=alice&team=finance"))["id"]
            rows = []
            while not rows or rows[-1].status != "completed":
                rows.append((await heard(watcher, "execution:updated"))[0].typed())
            assert [(row.id, row.team, row.step) for row in rows[1:3]] == [
                (id, "finance", "load"),
                (id, "finance", "compute"),
            ]
            (notified,) = await heard(alice, "notification:new")
            assert notified.data["action"]["payload"] == {"execution": id}
            assert (notified.data["type"], notified.data["message"]) == ("success", "reporter is done")
        async with connected(gateway, token=(await ask("/login/away"))["token"]) as away:
            kept = (await away.ask("history", data={"of": "user"})).data["events"]
            assert [(each["event"], each["data"]) for each in kept] == [("message", {"text": "hello"})]


async def test_d_a_chat() -> None:
    async with running_gateway() as gateway, fastapi("chat", gateway) as backend:

        async def ask(path: str, **body: Any) -> Any:
            answer = await backend.http.post(path, json=body)
            assert answer.is_success, answer.text
            return answer.json()

        tokens = {user: (await ask("/login", user=user))["token"] for user in ("alice", "bob", "carol")}
        async with (
            page(gateway, tokens["alice"]) as alice,
            page(gateway, tokens["bob"]) as bob,
            page(gateway, tokens["carol"]) as carol,
        ):
            for client in (alice, bob):
                await client.join("conversation:7", presence=True)
            with pytest.raises(CommandFailed) as refused:
                await carol.join("conversation:7")
            assert refused.value.code == ErrorCode.FORBIDDEN
            await alice.typing("conversation:7")
            await alice.emit_message_new("conversation:7", text="hello")
            typing, message = await heard(bob, "typing:start", "message:new")
            assert (typing.data["user"], message.sender, message.data["text"]) == ("alice", "alice", "hello")
            said = await ask("/conversations/7/messages", user="bob", text="hi alice")
            await ask(f"/conversations/7/messages/{said['message_id']}/read", user="alice")
            _, status = await heard(alice, "message:new", "message:status")
            typed = status.typed()
            assert isinstance(typed, MessageStatus)
            assert (typed.message_id, typed.status, typed.user) == (said["message_id"], "read", "alice")
            assert (await ask("/conversations/7/members", user="carol")) == {"tabs": 1}
            assert (await heard(carol, "conversation:invited"))[0].data == {"conversation": "7"}
            await carol.refresh((await ask("/login", user="carol"))["token"])
            await carol.join("conversation:7")
            texts = [each.data["text"] for each in (await carol.history("conversation:7")).events[:2]]
            assert texts == ["hello", "hi alice"]


async def test_c_an_activity_feed() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    with bound() as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        calls = {"*_councilor": CallSettings(url=f"{address}/calls", secret=secret, private=True)}
        async with (
            running_gateway(calls=calls) as gateway,
            fastapi("activity_feed", gateway, listener, CALLS_SECRET=secret) as backend,
            page(gateway, gateway.auth.issue(org="acme", user="alice").token) as alice,
            page(gateway, gateway.auth.issue(org="acme", user="bob").token) as bob,
        ):
            await alice.subscribe("councilor_*", "system_alert")
            cicero = {"councilor_id": "cicero"}
            assert await alice.call("pause_councilor", cicero) == {**cicero, "paused": True}
            with pytest.raises(CommandFailed, match="only operators") as refused:
                await bob.call("pause_councilor", cicero)
            assert refused.value.code == ErrorCode.CALL_REJECTED
            forged = await backend.http.post("/calls", json={"call": "pause_councilor", "data": cicero})
            assert forged.status_code == 401
            task = (await backend.http.post("/councilors/cicero/tasks/speech")).json()
            (alert, started) = await heard(alice, "system_alert", "councilor_started")
            assert alert.data["message"] == "pause_councilor: Marcus Tullius Cicero"
            assert started.data["execution_id"] == task["execution_id"]
            await alice.call("resume_councilor", cicero)
            (completed,) = await heard(alice, "councilor_completed")
            typed = completed.typed()
            assert isinstance(typed, CouncilorCompleted)
            assert (typed.severity, typed.task_name, typed.result) == ("success", "speech", "done")
            await backend.http.post("/councilors/cato/tasks/impossible")
            (failed,) = await heard(alice, "councilor_error")
            assert failed.data["error"] == "this cannot be done"


async def test_e_an_agent_core() -> None:
    command = [sys.executable, "agent_core.py"]
    async with running_gateway() as gateway:
        token = gateway.auth.issue(org="acme", user="operator").token
        async with page(gateway, token) as operator:
            for room in ("agents", "tasks", "coordination", "system"):
                await operator.join(room)
            async with running(command, gateway=gateway):
                elected, _ = await heard(operator, "leader_elected", "metrics_updated")
                assert (elected.data["leader_id"], elected.data["term"]) == ("builder", 1)
                await operator.emit(TaskCreated(task_id="t1", title="sort"))
                names = ("task_assigned", "task_started", "task_status_changed", "task_completed")
                done = (await heard(operator, *names))[-1].typed()
                assert isinstance(done, TaskCompleted) and done.result == "SORT"
                assert done.agent_id == done.source and done.source in ("planner", "builder")
                await operator.emit(TaskCreated(task_id="t2"))
                failed = (await heard(operator, "task_failed"))[0].typed()
                assert isinstance(failed, TaskFailed) and failed.error == "a task without a title"
                await operator.emit_task_cancelled(task_id="t3")
                (alert,) = await heard(operator, "alert_triggered")
                assert alert.data["message"] == "t3 was cancelled"
