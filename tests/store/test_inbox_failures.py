"""Notifications when a node is killed, when the database is away, and when its schema is an old one."""

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
from gateway.store import migrate, schema_version
from gateway.testing.settings import SECRET
from tests.postgres import Postgres
from tests.processes import DEADLINE, Folder, Served, serving
from tests.redis_server import redis_server
from tests.rest.api import asking, problem
from tests.store.support import rows
from tests.support import connected, start_gateway, until

TOKENS = Authenticator(AuthSettings(secret=SECRET))
HELLO = {"type": "info", "title": "Hello", "message": "there"}
ALICE = {"user": "alice"}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, {"GATEWAY_AUTH_SECRET": SECRET})


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS.issue(org='acme', **claims).token}"}


async def post(served: Served, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=DEADLINE) as client:
        return await client.post(
            f"{served.http}/api/v1/notifications", json={**HELLO, **fields}, headers=bearer(roles=["service"])
        )


def socket(served: Served) -> Any:
    return connect(served.url, open_timeout=60, additional_headers=bearer(user="alice"))


async def until_event(ws: Any) -> dict[str, Any]:
    with trio.fail_after(DEADLINE):
        while True:
            message = json.loads(await ws.recv())
            assert message["t"] != "error", message
            if message["t"] == "event":
                return dict(message)


# --- killed -----------------------------------------------------------------------------------------------

MODULE = "gateway_that_dies"
DYING = """
import os
import signal


def setup(gateway):
    def deliver(entries):
        if entries:
            os.kill(os.getpid(), signal.SIGKILL)

    gateway.operations.notifications.inbox.deliver = deliver
"""


async def test_killed_between_commit_and_delivery(folder: Folder, address: str) -> None:
    """The row was committed and nobody was told; after the lease, the next start tells who is connected."""
    (folder.path / f"{MODULE}.py").write_text(DYING)
    environ = {"GATEWAY_DATABASE": address}
    dying = {**environ, "GATEWAY_EXTENSIONS": MODULE, "PYTHONPATH": str(folder.path)}
    async with serving(folder, **dying) as served:
        with pytest.raises(httpx.TransportError):
            await post(served, user="alice", mid="order-7")
        assert await served.process.wait() == -signal.SIGKILL
    assert len(rows(address, "SELECT id FROM outbox")) == 1
    # The lease ends when the user is there, however long the start takes.
    rows(address, "UPDATE outbox SET lease_ms = lease_ms + 3600000")
    async with serving(folder, **environ) as served, socket(served) as ws:
        greeting = json.loads(await ws.recv())
        assert greeting["data"]["unread"] == 1
        rows(address, "UPDATE outbox SET lease_ms = 0")
        event = await until_event(ws)
        assert (event["event"], event["mid"]) == ("notification:new", "order-7")
        response = await post(served, user="alice", mid="order-7")  # whoever got no answer repeats it
        assert (response.status_code, response.json()["id"]) == (201, event["data"]["id"])
    assert len(rows(address, "SELECT id FROM notifications")) == 1


async def test_two_nodes_over_redis(folder: Folder, address: str) -> None:
    """A user's tabs are on both nodes; each change is told in all of them, once."""
    async with redis_server(folder.path / "redis") as redis:
        environ = {"GATEWAY_DATABASE": address, "GATEWAY_BROKER": redis.url}
        async with (
            serving(folder, **environ, GATEWAY_NODE="n1") as n1,
            serving(folder, **environ, GATEWAY_NODE="n2") as n2,
            socket(n1) as one,
            socket(n2) as two,
        ):
            ids = []
            for served, mid in ((n1, "m1"), (n2, "m2")):
                response = await post(served, user="alice", mid=mid)
                assert response.status_code == 201, response.text
                ids.append(response.json()["id"])
                for ws in (one, two):
                    event = await until_event(ws)
                    assert (event["mid"], event["data"]["id"]) == (mid, ids[-1])
            await one.send(
                json.dumps(
                    {"v": 1, "t": "call", "id": 1, "event": "notifications.read", "data": {"id": ids[0]}}
                )
            )
            for ws in (one, two):
                event = await until_event(ws)
                assert (event["event"], event["data"]) == ("notification:read", {"ids": ids[:1], "unread": 1})


# --- away -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
async def test_the_database_goes_away_and_comes_back(
    own_postgres: Postgres, nursery: trio.Nursery, strict: bool
) -> None:
    address = own_postgres.fresh()
    migrate(address)
    gateway = await start_gateway(nursery, database=address, store={"timeout": 2.0, "strict": strict})
    async with asking(gateway) as api, connected(gateway) as alice, connected(gateway, user="bob") as bob:
        body = {"user": "alice", **HELLO}
        assert (await api.post("/notifications", body)).status_code == 201
        assert (await alice.receive()).event == "notification:new"
        await trio.to_thread.run_sync(own_postgres.kill)
        await until(
            lambda: gateway.operations.notifications.inbox.ready() is not None, "the outage is noticed"
        )
        for response in (
            await api.post("/notifications", body),
            await api.get("/notifications", claims=ALICE),
            await api.post("/notifications/read-all", claims=ALICE),
        ):
            problem(response, 503, 305)
            assert int(response.headers["Retry-After"]) >= 1
        ready = await api.client.get("/readyz")
        if strict:
            problem(ready, 503, 305)
        else:
            assert (ready.status_code, ready.json()) == (200, {"status": "ready", "database": False})
        assert "trireme_store_available 0.0" in (await api.client.get("/metrics")).text
        # All else goes on.
        await alice.ask("join", room="chat:42")
        await bob.ask("join", room="chat:42")
        await bob.ask("publish", room="chat:42", event="message:new", data=1)
        assert (await alice.event()).data == 1
        async with connected(gateway) as late:
            assert "unread" not in late.greeting.data
        await trio.to_thread.run_sync(own_postgres.start)
        await until(lambda: gateway.operations.notifications.inbox.ready() is None, "it is back")
        assert (await api.post("/notifications", body)).status_code == 201
        assert (await alice.event()).event == "notification:new"


async def test_a_silent_database_does_not_hold_the_greeting_up(
    own_postgres: Postgres, nursery: trio.Nursery
) -> None:
    address = own_postgres.fresh()
    migrate(address)
    gateway = await start_gateway(nursery, database=address, store={"timeout": 30.0})
    own_postgres.signal(signal.SIGSTOP)
    try:
        async with connected(gateway) as alice:  # fails after 10 s, long before the database is given up
            assert "unread" not in alice.greeting.data
            await alice.ask("join", room="chat:42")
    finally:
        own_postgres.signal(signal.SIGCONT)


# --- the schema -------------------------------------------------------------------------------------------


async def test_migrate_and_start(folder: Folder, empty: str) -> None:
    """SQLite gets its schema at the start, PostgreSQL by the command that the refusal names."""
    environ = {"GATEWAY_DATABASE": empty}
    if empty.startswith("postgresql"):
        line = await folder.refused("serve", "--port", "0", **environ)
        assert "is empty" in line and "gateway migrate" in line
        check = await folder.run("check", **environ)
        assert check.code == 1 and "gateway migrate" in check.out
        done = await folder.run("migrate", **environ)
        assert (done.code, done.err) == (0, "") and done.out.startswith("schema 0000 → ")
    async with serving(folder, **environ) as served:
        assert (await post(served, user="alice")).status_code == 201
    newest = schema_version(empty)
    done = await folder.run("migrate", **environ)
    assert (done.code, done.out) == (0, f"schema {newest}, unchanged\n")
    check = await folder.run("check", **environ)
    assert check.code == 0 and f"schema {newest}" in check.out
    down = await folder.run("migrate", "--to", "0000", "--database", empty)
    assert down.code == 0 and schema_version(empty) == "0000"
    assert "unknown" in await folder.refused("migrate", "--to", "99", **environ)


async def test_nothing_to_migrate(folder: Folder) -> None:
    assert "none" in await folder.refused("migrate", GATEWAY_DATABASE="none")
    check = await folder.run("check", GATEWAY_DATABASE="none")
    assert check.code == 0 and "no notifications" in check.out
    async with serving(folder, GATEWAY_DATABASE="none") as served:
        assert (await post(served, user="alice")).status_code == 404
