"""What the gateway itself tells users and rooms has the fields that the catalogue of typed events says."""

from __future__ import annotations

from pathlib import Path

from gateway.config.settings import ExecutionSettings
from protocol.envelope import Envelope
from protocol.events import ExecutionUpdated, PermissionPending, TaskApproved, from_data
from protocol.typed import TypedEvent
from tests.rest.api import asking
from tests.support import Raw, connected, running_gateway


async def told(client: Raw, *names: str) -> list[TypedEvent]:
    """Wait until the client has heard of all of these; the typed events of all that it heard."""
    received: list[Envelope] = []
    while not set(names) <= {each.event for each in received}:
        received.append(await client.event())
    events = [from_data(str(each.event), each.data) for each in received]
    assert all(isinstance(each, TypedEvent) for each in events), received
    return events  # type: ignore[return-value]


async def test_executions(tmp_path: Path) -> None:
    settings = {
        "database": f"sqlite:///{tmp_path / 'gateway.db'}",
        "executions": ExecutionSettings(vocabularies=["a", "c"]),
    }
    async with (
        running_gateway(**settings) as gateway,
        asking(gateway) as ask,
        connected(gateway, roles=["service"]) as service,
    ):
        await service.ask("join", room="executions")
        begun = {"agent": "scribe", "method": "write", "team": "press", "status": "running"}
        for status, result in (("completed", {"result": {"pages": 3}}), ("failed", {"error": "no ink"})):
            id = (await ask.post("/executions", begun)).json()["id"]
            began = ("agent:execution:start", "agent_execution_started", "councilor_started")
            await told(service, "execution:updated", *began)
            await ask.request("PATCH", f"/executions/{id}", json={"progress": 50, "step": "two"})
            (step,) = await told(service, "execution:updated")
            assert (step.progress, step.step) == (50, "two")  # type: ignore[attr-defined]
            ended = {"status": status, "tools": ["pen"], **result}
            assert (await ask.request("PATCH", f"/executions/{id}", json=ended)).status_code == 200
            names = ("agent:execution:complete", "councilor_completed")
            if status == "failed":
                names = ("agent:execution:error", "councilor_error")
            events = await told(service, "execution:updated", "agent_execution_completed", *names)
            updated = next(each for each in events if isinstance(each, ExecutionUpdated))
            assert (updated.id, updated.status, updated.team) == (id, status, "press")


async def test_notifications_and_approvals(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'gateway.db'}"
    async with (
        running_gateway(database=database) as gateway,
        asking(gateway) as ask,
        connected(gateway) as alice,
    ):
        said = {"user": "alice", "type": "success", "title": "Done", "message": "All of it", "data": [1]}
        action = {"type": "link", "payload": {"url": "/x"}}
        id = (await ask.post("/notifications", {**said, "action": action})).json()["id"]
        (new,) = await told(alice, "notification:new")
        assert (new.id, new.title, new.data, new.read) == (id, "Done", [1], False)  # type: ignore[attr-defined]
        mine = {"claims": {"user": "alice"}}
        await ask.post(f"/notifications/{id}/read", **mine)
        await ask.post("/notifications/read-all", **mine)
        await ask.request("DELETE", f"/notifications/{id}", **mine)
        await told(alice, "notification:read", "notification:deleted")

        asked = {
            "users": ["alice"],
            "title": "Deploy?",
            "message": "Version 7",
            "execution": "x",
            "task": "t",
        }
        body = {**asked, "deadline": 3600, "fallback": "reject", "data": {"version": 7}}
        approval = (await ask.post("/approvals", body)).json()["id"]
        pending = await told(alice, "permission:pending", "notification:new")
        assert any(isinstance(each, PermissionPending) and each.id == approval for each in pending)
        await ask.post(f"/approvals/{approval}/decide", {"choice": "approve", "comment": "Go"}, **mine)
        decided = await told(alice, "permission:decided", "task:approved", "notification:deleted")
        (approved,) = (each for each in decided if isinstance(each, TaskApproved))
        assert (approved.task_id, approved.user, approved.approval) == ("t", "alice", approval)
        assert (approved.execution, approved.comment) == ("x", "Go")
