"""Two gateways, each a process of its own, that a Redis server joins; a foreign client on each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from websockets.trio.client import ClientConnection, connect

from gateway.auth.tokens import Authenticator
from gateway.config.settings import AuthSettings
from gateway.testing.settings import SECRET
from tests.processes import DEADLINE, Folder, Served, serving
from tests.redis_server import RedisServer, redis_server

TOKENS = Authenticator(AuthSettings(secret=SECRET))


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis", "--unixsocket", str(tmp_path / "redis.sock")) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, {"GATEWAY_AUTH_SECRET": SECRET, "GATEWAY_LOG_FORMAT": "json"})


class Client:
    """A client that speaks JSON through ``websockets``."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = 0
        self.events: list[dict[str, Any]] = []

    async def ask(self, t: str, **fields: Any) -> dict[str, Any]:
        """The answer to a command."""
        self._ids += 1
        await self._socket.send(json.dumps({"v": 1, "t": t, "id": self._ids, **fields}))
        with trio.fail_after(DEADLINE):
            while True:
                message: dict[str, Any] = json.loads(await self._socket.recv())
                if message.get("id") == self._ids:
                    return message
                self.events.append(message)

    async def event(self) -> dict[str, Any]:
        """The next event."""
        with trio.fail_after(DEADLINE):
            while not self.events:
                self.events.append(json.loads(await self._socket.recv()))
        return self.events.pop(0)


@asynccontextmanager
async def client_of(node: Served, user: str) -> AsyncIterator[Client]:
    token = TOKENS.issue(org="acme", user=user).token
    async with connect(
        f"{node.url}?token={token}", open_timeout=60, subprotocols=["trireme.v1.json"]
    ) as socket:
        client = Client(socket)
        assert (await client.event())["t"] == "connected"
        yield client


async def readiness(http: httpx.AsyncClient, node: Served, status: int) -> dict[str, Any]:
    """Wait until ``/readyz`` answers with ``status``."""
    with trio.fail_after(DEADLINE):
        while True:
            answer = await http.get(f"{node.http}/readyz")
            if answer.status_code == status:
                found: dict[str, Any] = answer.json()
                return found
            await trio.sleep(0.01)


async def test_two_nodes_are_one(folder: Folder, redis: RedisServer, tmp_path: Path) -> None:
    socket = f"redis+unix://{tmp_path}/redis.sock"
    async with serving(folder, "--broker", redis.url) as one, serving(folder, "--broker", socket) as two:
        async with client_of(one, "alice") as alice, client_of(two, "bob") as bob:
            joined = [await client.ask("join", room="chat") for client in (alice, bob)]
            assert joined[0]["epoch"] == joined[1]["epoch"]
            place = await alice.ask("publish", room="chat", event="say", data={"text": "hi"})
            assert place["t"] == "reply" and place["seq"] == 1
            for client in (alice, bob):
                event = await client.event()
                assert (event["event"], event["data"], event["sender"]) == ("say", {"text": "hi"}, "alice")
                assert (event["seq"], event["epoch"]) == (1, place["epoch"])
            answer = await bob.ask("publish", room="chat", event="say", data=2, mid="m")
            again = await alice.ask("publish", room="chat", event="say", data="twice", mid="m")
            assert (again["seq"], again["epoch"]) == (answer["seq"], answer["epoch"]) == (2, place["epoch"])
            assert [(await client.event())["data"] for client in (alice, bob)] == [2, 2]
            kept = await alice.ask("history", room="chat", data={"limit": 10})
            assert [event["seq"] for event in kept["data"]["events"]] == [1, 2]
            resume = (await bob.ask("info"))["data"]["resume"]
            position = {"epoch": place["epoch"], "seq": 1}
        async with client_of(one, "bob") as bob:
            back = await bob.ask("join", data={"resume": resume, "positions": {"chat": position}})
            assert back["data"]["rooms"]["chat"]["recovered"] is True, back
            assert (await bob.event())["seq"] == 2
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{one.http}/readyz")).json() == {"status": "ready", "database": True}
            redis.stop()
            unready = await readiness(http, one, 503)
            assert unready["code"] == 302, unready
            await redis.start()
            await readiness(http, one, 200)


async def test_check_says_what_is_there(folder: Folder, redis: RedisServer, tmp_path: Path) -> None:
    for address in (redis.url, f"redis+unix://{tmp_path}/redis.sock"):
        result = await folder.run("check", GATEWAY_BROKER=address)
        line, *_ = [line for line in result.out.splitlines() if line.startswith("broker:")]
        assert result.code == 0, result.out
        assert line.startswith("broker: ok: valkey "), line
    redis.stop()
    result = await folder.run("check", GATEWAY_BROKER=redis.url)
    assert result.code == 1 and "broker: FAILED: " in result.out, result.out
