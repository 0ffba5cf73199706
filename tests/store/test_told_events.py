"""What the gateway itself tells users and rooms is what the catalogue and the AsyncAPI document say.

Each payload is checked as it came over a socket: by the public schema; by the type, which must know every
field that came, since receivers of typed events get no other; and together they fill every field of the type.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from gateway.config.settings import ExecutionSettings
from protocol.envelope import Envelope
from protocol.events import CATALOGUE
from protocol.json import JSON
from protocol.typed import TypedEvent
from tests.rest.api import Api, asking
from tests.store.support import rows
from tests.support import Raw, connected, running_gateway, until

ANY = {"ts", "source", "details", "message"}
"""Fields of every event, and one for the application's own."""


class Told:
    """The events that were heard, checked one by one."""

    def __init__(self, api: Api, document: dict[str, Any]) -> None:
        self.api = api
        self._document = document
        self.fields: dict[str, set[str]] = defaultdict(set)

    async def hears(self, client: Raw, *names: str) -> list[Any]:
        """The data of the next events, which are these in any order."""
        received = [await client.event() for _ in names]
        assert sorted(str(each.event) for each in received) == sorted(names)
        for each in received:
            self._check(each)
        return [next(each.data for each in received if each.event == name) for name in names]

    def _check(self, event: Envelope) -> None:
        name, said = str(event.event), json.loads(JSON.encode(event))
        messages = self._document["components"]["messages"].items()
        (payload,) = (
            each["payload"] for key, each in messages if (each["name"], key[:6]) == (name, "event.")
        )
        Draft202012Validator({**payload, "components": self._document["components"]}).validate(said)
        kind: type[TypedEvent] = CATALOGUE[name]
        known = set(kind.__struct_fields__)
        assert set(said["data"]) <= known, (name, set(said["data"]) - known)
        typed = msgspec.structs.asdict(kind.from_data(said["data"]))
        assert {field: typed[field] for field in said["data"]} == said["data"]
        self.fields[name] |= set(said["data"])

    def is_complete(self, *names: str) -> None:
        """Each field of these has been there at least once."""
        for name in names:
            assert self.fields[name] | ANY == set(CATALOGUE[name].__struct_fields__) | ANY, name


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    settings = {
        "database": f"sqlite:///{tmp_path / 'gateway.db'}",
        "executions": ExecutionSettings(vocabularies=["a", "c"]),
    }
    async with running_gateway(**settings) as gateway, asking(gateway) as api:
        document = (await api.client.get("/api/v1/asyncapi.json")).json()
        yield Told(api, document)


@contextlib.asynccontextmanager
async def client(told: Told, *rooms: str, **claims: Any) -> AsyncIterator[Raw]:
    async with connected(told.api.gateway, **claims) as raw:
        for room in rooms:
            assert (await raw.ask("join", room=room)).t == "reply"
        yield raw


BEGUN = ("agent:execution:start", "agent_execution_started", "councilor_started")
METADATA = {"councilor_id": "cicero", "display_name": "M. T. Cicero", "task_id": "t7", "task_name": "Speech"}
ODD = {"councilor_id": 7, "display_name": "", "task_id": ["t"], "task_name": "x" * 201}


async def test_executions(told: Told) -> None:
    updated = "execution:updated"
    async with client(told, "executions") as raw:
        for metadata in (METADATA, ODD):
            new = {"agent": "scribe", "method": "write", "team": "press", "input": {"page": 1}}
            id = (await told.api.post("/executions", {**new, "metadata": metadata})).json()["id"]
            await told.hears(raw, updated)

            async def patch(id: str = id, **fields: Any) -> None:
                answer = await told.api.request("PATCH", f"/executions/{id}", json=fields)
                assert answer.status_code == 200, answer.text

            await patch(status="running")
            _, started, _, councilor = await told.hears(raw, updated, *BEGUN)
            named = metadata is METADATA
            assert started.get("task_id") == ("t7" if named else None)
            assert councilor["councilor_id"] == ("cicero" if named else "scribe")
            assert councilor["display_name"] == ("M. T. Cicero" if named else "scribe")
            assert councilor["task_name"] == ("Speech" if named else "write")
            await patch(progress=50, step="two", tools=["pen"])
            await told.hears(raw, updated)
            ended = ("agent_execution_completed", "agent:execution:complete", "councilor_completed")
            if named:
                await patch(status="completed", result={"pages": 3})
            else:
                await patch(status="failed", error="no ink", result={"pages": 1})
                ended = ("agent_execution_completed", "agent:execution:error", "councilor_error")
            await told.hears(raw, updated, *ended)
        begun = {"agent": "a", "status": "running", "metadata": METADATA}
        id = (await told.api.post("/executions", begun)).json()["id"]
        await told.hears(raw, updated, *BEGUN)
        await told.api.request("PATCH", f"/executions/{id}", json={"status": "cancelled"})
        await told.hears(
            raw, updated, "agent_execution_completed", "agent:execution:error", "councilor_error"
        )
    told.is_complete(updated, *BEGUN, "agent:execution:complete", "agent:execution:error")
    told.is_complete("agent_execution_completed", "councilor_completed", "councilor_error")


async def test_notifications(told: Told) -> None:
    mine = {"claims": {"user": "alice"}}
    async with client(told) as alice:
        said = {"user": "alice", "type": "success", "title": "Done", "message": "All", "data": [1]}
        more = {"action": {"type": "link", "payload": {"url": "/x"}}, "expires_at": 2**42}
        id = (await told.api.post("/notifications", {**said, **more})).json()["id"]
        await told.hears(alice, "notification:new")
        await told.api.post(f"/notifications/{id}/read", **mine)
        await told.hears(alice, "notification:read")
        await told.api.post("/notifications", said)
        await told.hears(alice, "notification:new")
        await told.api.post("/notifications/read-all", **mine)
        await told.hears(alice, "notification:read")
        await told.api.request("DELETE", f"/notifications/{id}", **mine)
        await told.hears(alice, "notification:deleted")
        # One that nobody could deliver before it was read.
        address = told.api.gateway.settings.database
        inbox = told.api.gateway.operations.notifications.inbox
        await until(lambda: not rows(address, "SELECT 1 FROM outbox"), "all is told")
        deliver, inbox.deliver = inbox.deliver, lambda entries: None  # type: ignore[method-assign]
        id = (await told.api.post("/notifications", said)).json()["id"]
        await told.api.post(f"/notifications/{id}/read", **mine)
        inbox.deliver = deliver  # type: ignore[method-assign]
        rows(address, "UPDATE outbox SET lease_ms = 0")
        await told.hears(alice, "notification:new", "notification:read")
    told.is_complete("notification:new", "notification:read", "notification:deleted")


async def test_approvals(told: Told) -> None:
    leads = told.api.token(user="lea", roles=["lead"])
    new = ("notification:new", "permission:pending")
    gone = ("notification:deleted", "permission:decided")
    async with client(told, "execution:x") as alice, client(told, token=leads) as lea:
        asked = {"title": "Deploy?", "message": "Version 7", "execution": "x", "task": "t", "data": {"v": 7}}
        more = {"deadline": 3600, "fallback": "reject"}
        for whom, raw, claims in (
            ({"users": ["alice"]}, alice, {"claims": {"user": "alice"}}),
            ({"role": "lead"}, lea, {"token": leads}),
        ):
            id = (await told.api.post("/approvals", {**asked, **more, **whom})).json()["id"]
            await told.hears(raw, *new)
            await told.api.post(f"/approvals/{id}/decide", {"choice": "approve", "comment": "Go"}, **claims)
            also = ("permission:decided", "task:approved") if raw is alice else ()  # in the execution's room
            await told.hears(raw, *gone, "task:approved", *also)
        body = {"users": ["lea"], "title": "Soon over", "deadline": 0.05}
        for fallback in ({}, {"fallback": "reject"}):
            await told.api.post("/approvals", {**body, **fallback})
            await told.hears(lea, *new)
            await told.hears(lea, *gone)
    told.is_complete("permission:pending", "permission:decided", "task:approved")


async def test_typing(told: Told) -> None:
    async with client(told, "chat") as alice, client(told, "chat", user=None) as guest:
        for raw in (alice, guest):
            for state in (True, False):
                await raw.send("typing", room="chat", data={"typing": state} if not state else None)
                heard = guest if raw is alice else alice
                await told.hears(heard, f"typing:{'start' if state else 'stop'}")
    told.is_complete("typing:start", "typing:stop")
