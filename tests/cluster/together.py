"""Several gateways that a Redis server joins, and a foreign client (``websockets``)."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import trio
from websockets.trio.client import ClientConnection, connect

from gateway.app import Gateway
from tests.redis_server import RedisServer
from tests.support import DEADLINE, start_gateway, until

_prefixes = itertools.count(1)


@contextlib.asynccontextmanager
async def together(server: RedisServer, /, *names: str, **changes: Any) -> AsyncIterator[list[Gateway]]:
    """Gateways of these names that know of each other."""
    changes = {"broker": server.url, "cluster": {"lease": 10.0}, **changes}
    changes.setdefault("redis", {})
    # A busy machine may stop a server for seconds, and that is not what these tests are about.
    patient = {"timeout": 60.0, "patience": 30.0}
    changes["redis"] = {"prefix": f"together{next(_prefixes)}", **patient, **changes["redis"]}
    async with trio.open_nursery() as nursery:
        nodes = [await start_gateway(nursery, node=name, **changes) for name in names]
        for node in nodes:
            await knows(node, len(nodes))
        yield nodes
        nursery.cancel_scope.cancel()


async def knows(node: Gateway, number: int) -> None:
    """Wait until ``node`` knows of so many nodes, itself included."""
    await until(lambda: node.cluster.measures()["cluster_nodes"][1] == number, f"{number} nodes")


class Client:
    """A client that speaks JSON through ``websockets``."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.greeting: dict[str, Any] = {}
        self.kept: list[dict[str, Any]] = []
        self._ids = 0

    async def ask(self, t: str, **fields: Any) -> dict[str, Any]:
        """The answer to a command; what comes before it is kept."""
        self._ids += 1
        await self.socket.send(json.dumps({"v": 1, "t": t, "id": self._ids, **fields}))
        while True:
            message = await self.receive()
            if message.get("id") == self._ids:
                return message
            self.kept.append(message)

    async def next(self) -> dict[str, Any]:
        """The next message that answers nothing."""
        return self.kept.pop(0) if self.kept else await self.receive()

    async def quiet(self) -> None:
        """There is nothing that was not looked at."""
        await self.ask("ping")
        assert self.kept == []

    async def told(self) -> tuple[str, str, str]:
        """The next message, which must be presence: room, event, user."""
        message = await self.next()
        assert message["t"] == "presence", message
        return message["room"], message["event"], message["data"]["user"]

    async def receive(self) -> dict[str, Any]:
        """The next message on the wire."""
        with trio.fail_after(DEADLINE):
            found: dict[str, Any] = json.loads(await self.socket.recv())
        return found


@contextlib.asynccontextmanager
async def client(
    node: Gateway, user: str | None = "alice", *, org: str = "acme", token: str | None = None, **claims: Any
) -> AsyncIterator[Client]:
    """A client of ``node``, greeted."""
    token = token or node.auth.issue(org=org, user=user, **claims).token
    async with connect(
        f"ws://127.0.0.1:{node.port}/ws?token={token}", open_timeout=60, subprotocols=["trireme.v1.json"]
    ) as socket:
        made = Client(socket)
        greeting = await made.next()
        assert greeting["t"] == "connected", greeting
        made.greeting = greeting["data"]
        yield made


async def rest(node: Gateway, path: str, body: Any = None, **claims: Any) -> Any:
    """The answer to ``GET``, or with a body to ``POST``; which must be good."""
    answer = await request(node, path, body, **claims)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def request(node: Gateway, path: str, body: Any = None, **claims: Any) -> httpx.Response:
    """The whole answer, also a bad one; the caller is a service."""
    claims = {"org": "acme", "user": "backend", "roles": ["service"], **claims}
    headers = {"Authorization": f"Bearer {node.auth.issue(**claims).token}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{node.port}/api/v1", headers=headers) as http:
        with trio.fail_after(DEADLINE):
            return await (http.get(path) if body is None else http.post(path, json=body))
