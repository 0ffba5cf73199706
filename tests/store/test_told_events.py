"""What the gateway itself tells users and rooms has the fields that the catalogue of typed events says."""

from __future__ import annotations

from pathlib import Path

from protocol.envelope import Envelope
from protocol.events import TaskApproved, from_data
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
        assert any(getattr(each, "permission", None) == approval for each in pending)
        await ask.post(f"/approvals/{approval}/decide", {"choice": "approve", "comment": "Go"}, **mine)
        decided = await told(alice, "permission:decided", "task:approved", "notification:deleted")
        (approved,) = (each for each in decided if isinstance(each, TaskApproved))
        assert (approved.task, approved.user, approved.approval) == ("t", "alice", approval)
        assert (approved.execution, approved.comment) == ("x", "Go")
