"""Executions when a node is killed: what was acknowledged is stored, and is told, in its order, by others."""

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
from gateway.testing.settings import SECRET
from tests.processes import DEADLINE, Folder, Served, serving
from tests.redis_server import redis_server
from tests.store.support import rows

TOKENS = Authenticator(AuthSettings(secret=SECRET))
MODULE = "gateway_that_dies_telling"
DYING = """
import os
import signal


def setup(gateway):
    relay = gateway.operations.executions.relay
    take = relay._take

    def die(executions, entries, held):
        if any(entry.version == 2 for entry in entries):
            os.kill(os.getpid(), signal.SIGKILL)
        take(executions, entries, held)

    relay._take = die
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, {"GATEWAY_AUTH_SECRET": SECRET})


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS.issue(org='acme', **claims).token}"}


SERVICE = bearer(roles=["service"], user="backend")


async def ask(served: Served, method: str, path: str, **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=DEADLINE) as client:
        return await client.request(
            method, f"{served.http}/api/v1/executions{path}", json=body or None, headers=SERVICE
        )


async def follow(ws: Any, room: str) -> Any:
    """Join with a snapshot; what it shows."""
    join = {"v": 1, "t": "join", "id": 1, "room": room, "data": {"snapshot": True}}
    await ws.send(json.dumps(join))
    with trio.fail_after(DEADLINE):
        while True:
            message = json.loads(await ws.recv())
            if message["t"] == "reply":
                return message["data"]["snapshot"]


async def heard(ws: Any) -> dict[str, Any]:
    with trio.fail_after(DEADLINE):
        while True:
            message = json.loads(await ws.recv())
            assert message["t"] != "error", message
            if message["t"] == "event":
                return dict(message["data"])


async def test_killed_between_commit_and_telling(folder: Folder, address: str) -> None:
    """One node; the next start tells who follows then, when the lease is over."""
    (folder.path / f"{MODULE}.py").write_text(DYING)
    environ = {"GATEWAY_DATABASE": address}
    dying = {**environ, "GATEWAY_EXTENSIONS": MODULE, "PYTHONPATH": str(folder.path)}
    async with serving(folder, **dying) as served:
        assert (await ask(served, "POST", "", id="e1", agent="a", status="running")).status_code == 201
        with pytest.raises(httpx.TransportError):
            await ask(served, "PATCH", "/e1", progress=50)
        assert await served.process.wait() == -signal.SIGKILL
    assert rows(address, "SELECT version FROM executions") == [(2,)]
    # The lease ends when somebody follows, however long the start takes.
    rows(address, "UPDATE execution_outbox SET lease_ms = lease_ms + 3600000")
    async with (
        serving(folder, **environ) as served,
        connect(served.url, open_timeout=60, additional_headers=SERVICE) as ws,
    ):
        shown = await follow(ws, "execution:e1")
        assert shown["version"] in (1, 2)  # the oldest that may not be told, which comes again
        rows(address, "UPDATE execution_outbox SET lease_ms = 0")
        versions = [(await heard(ws))["version"]]
        while versions[-1] < 2:
            versions.append((await heard(ws))["version"])
        assert versions == list(range(versions[0], 3)) and versions[0] >= shown["version"]


async def test_another_node_goes_on_at_once(folder: Folder, address: str) -> None:
    """Two nodes; who commits the next change tells the dead node's one before it, without its lease."""
    (folder.path / f"{MODULE}.py").write_text(DYING)
    async with redis_server(folder.path / "redis") as redis:
        environ = {"GATEWAY_DATABASE": address, "GATEWAY_BROKER": redis.url}
        dying = {**environ, "GATEWAY_EXTENSIONS": MODULE, "PYTHONPATH": str(folder.path)}
        async with (
            serving(folder, **environ, GATEWAY_NODE="n2") as n2,
            serving(folder, **dying, GATEWAY_NODE="n1") as n1,
            connect(n2.url, open_timeout=60, additional_headers=SERVICE) as ws,
        ):
            assert await follow(ws, "executions") == {"executions": []}
            assert (await ask(n1, "POST", "", id="e1", agent="a", status="running")).status_code == 201
            assert (await heard(ws))["version"] == 1
            with pytest.raises(httpx.TransportError):
                await ask(n1, "PATCH", "/e1", progress=50)
            rows(address, "UPDATE execution_outbox SET lease_ms = lease_ms + 3600000")
            assert (await ask(n2, "PATCH", "/e1", version=2, progress=60)).status_code == 200
            assert [((await heard(ws))["progress"], each) for each in (50, 60)] == [(50, 50), (60, 60)]


REPORTERS = 6
MOMENT = 60
"""Acknowledged changes, after which it dies."""


async def test_killed_in_the_middle_of_updates(folder: Folder, address: str) -> None:
    """A node dies while many report to it; what it acknowledged is told by the other, in order."""
    async with redis_server(folder.path / "redis") as redis:
        environ = {
            "GATEWAY_DATABASE": address,
            "GATEWAY_BROKER": redis.url,
            "GATEWAY_STORE_LEASE": "0.5",
        }
        async with (
            serving(folder, **environ, GATEWAY_NODE="n2") as n2,
            serving(folder, **environ, GATEWAY_NODE="n1") as n1,
            connect(n2.url, open_timeout=60, additional_headers=SERVICE, max_queue=None) as ws,
        ):
            await follow(ws, "executions")
            acknowledged: dict[str, int] = {}
            enough = trio.Event()

            async def report(id: str) -> None:
                try:
                    async with httpx.AsyncClient(
                        base_url=f"{n1.http}/api/v1", timeout=DEADLINE, headers=SERVICE
                    ) as client:
                        response = await client.post("/executions", json={"id": id, "agent": "a"})
                        while response.is_success:
                            row = response.json()
                            acknowledged[id] = row["version"]
                            if sum(acknowledged.values()) >= MOMENT:
                                enough.set()
                            body = {"status": "running", "step": f"after {row['version']}"}
                            response = await client.patch(f"/executions/{id}", json=body)
                except httpx.TransportError:
                    return

            async with trio.open_nursery() as nursery:
                for number in range(REPORTERS):
                    nursery.start_soon(report, f"e{number}")
                await enough.wait()
                n1.process.send_signal(signal.SIGKILL)
            stored = dict(rows(address, "SELECT id, version FROM executions"))
            assert all(stored[id] >= version for id, version in acknowledged.items())
            told: dict[str, int] = {}
            while told != stored:
                row = await heard(ws)
                assert row["version"] == told.get(row["id"], 0) + 1, row
                told[row["id"]] = row["version"]
            shown = (await ask(n2, "GET", "?limit=50")).json()["executions"]
            assert {row["id"]: row["version"] for row in shown} == stored
