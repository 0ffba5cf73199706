"""What a scenario has: a database and a Redis, a node that survives, and nodes and backends that die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import msgspec
import trio

from gateway.app import Gateway
from gateway.config.settings import CallSettings
from gateway.operations import execution_upkeep
from protocol.envelope import Envelope
from tests.processes import lines_of
from tests.store.support import rows
from tests.support import DEADLINE, Raw, connected, start_gateway

__all__ = ["Follower", "Mortals", "Site", "Victim", "opened"]

ROOT = Path(__file__).parents[2]
PATIENCE = 3 * DEADLINE
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LEASE = 1.0
LOOK = 0.2
"""Seconds between two looks for stale executions."""


class Victim:
    """A process that is to die, or has died."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self.died = trio.Event()


class Mortals:
    """Processes that die, one at a time, each a fork of one that does not."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._begun, self._lives = trio.open_memory_channel[Victim](1)
        self.called: list[str] = []
        """Ids of the calls that backends took."""
        self.left: list[str] = []
        self.changed = trio.Event()
        self._victim: Victim | None = None

    async def read(self, *, task_status: trio.TaskStatus[None]) -> None:
        assert self._process.stdout is not None
        async for line in lines_of(self._process.stdout):
            word, _, rest = line.partition(" ")
            if word == "listens":
                task_status.started()
            elif word == "died":
                assert int(rest) == signal.SIGKILL, rest
                assert self._victim is not None, "it died before it could be used"
                self._victim.died.set()
            elif word == "port":
                port, _, pid = rest.split()
                self._victim = Victim(int(port), int(pid))
                await self._begun.send(self._victim)
            else:
                (self.called if word == "called" else self.left).append(rest)
            self.changed.set()
            self.changed = trio.Event()

    async def start(self, step: str, **more: Any) -> Victim:
        """Begin a life; the one before must have ended."""
        assert self._process.stdin is not None
        self._victim = None
        line = json.dumps({"step": step, **more})
        await self._process.stdin.send_all(line.encode() + b"\n")
        with trio.fail_after(PATIENCE):
            return await self._lives.receive()

    async def ended(self, victim: Victim) -> None:
        """Wait until it has died: by itself, unless it was so slow that another did what it should."""
        with trio.move_on_after(DEADLINE):
            await victim.died.wait()
        if not victim.died.is_set():
            await self.kill(victim)

    async def kill(self, victim: Victim) -> None:
        """End it from outside."""
        os.kill(victim.pid, signal.SIGKILL)
        with trio.fail_after(PATIENCE):
            await victim.died.wait()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what they said fulfils it."""
        with trio.fail_after(PATIENCE):
            while not condition():
                await self.changed.wait()


@contextlib.asynccontextmanager
async def mortals(module: str) -> AsyncIterator[Mortals]:
    """For the length of the block; of ``tests.kill.MODULE``."""
    command = [sys.executable, "-m", f"tests.kill.{module}"]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
    )
    try:
        async with trio.open_nursery() as nursery:
            made = Mortals(process)
            await nursery.start(made.read)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with who lives
        with trio.CancelScope(shield=True):
            await process.wait()


class Follower:
    """Somebody on the node that survives; what they were told, without repetitions."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.heard: list[Envelope] = []
        self.repeated = 0
        self._mids: set[tuple[str | None, str | None, str | None]] = set()
        self._places: dict[tuple[str | None, str | None], int] = {}

    async def hears(self, complete: Any) -> None:
        """Read events until ``complete()``; each order is without a hole."""
        with trio.fail_after(PATIENCE):
            while not complete():
                event = await self.raw.event()
                assert event.seq is not None
                order = (event.to, event.room)
                assert event.seq == self._places.get(order, event.seq - 1) + 1, event
                self._places[order] = event.seq
                if (event.to, event.room, event.mid) in self._mids:
                    self.repeated += 1
                    continue
                self._mids.add((event.to, event.room, event.mid))
                self.heard.append(event)

    def of(self, event: str, room: str | None = None) -> list[Any]:
        """The data of such events in a room, or to the user."""
        return [each.data for each in self.heard if (each.event, each.room) == (event, room)]


class Site:
    """One database, two nodes."""

    def __init__(
        self, address: str, changes: dict[str, Any], survivor: Gateway, nodes: Mortals, backends: Mortals
    ) -> None:
        self.address = address
        self.survivor = survivor
        self.nodes = nodes
        self.backends = backends
        self.kills = 0
        self._changes = changes
        self.held = False
        """Whether the survivor leaves deadlines and stale executions to the victim."""
        self._hold()

    def _hold(self) -> None:
        store = self.survivor.operations.notifications.inbox.store
        settle, claim = store.approvals.settle, store.executions.upkeep.claim

        async def settling() -> Any:
            return [] if self.held else await settle()

        async def claiming(length: float) -> bool:
            return False if self.held else await claim(length)

        store.approvals.settle = settling  # type: ignore[method-assign]
        store.executions.upkeep.claim = claiming  # type: ignore[method-assign]

    def name(self) -> str:
        """A new one for what a scenario makes."""
        return f"k{uuid.uuid4().hex[:12]}"

    async def victim(self, step: str, nth: int = 1, *, look: float = 30.0) -> Victim:
        """A node that dies the ``nth`` time at ``step``; it looks for stale executions every ``look`` s."""
        self.kills += 1
        changes = msgspec.to_builtins({**self._changes, "node": "n1"})
        return await self.nodes.start(step, nth=nth, look=look, settings=changes)

    async def ask(self, port: int, method: str, path: str, body: Any = None, **claims: Any) -> httpx.Response:
        """One request to a node, by default of a service."""
        claims = claims or {"user": "backend", "roles": ["service"]}
        token = self.survivor.auth.issue(org="acme", **claims).token
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            url = f"http://127.0.0.1:{port}/api/v1{path}"
            headers = {"Authorization": f"Bearer {token}"}
            return await client.request(method, url, json=body, headers=headers)

    async def try_to(self, victim: Victim, method: str, path: str, body: Any, **claims: Any) -> Any:
        """The answer of a node that may die meanwhile; None when it did."""
        try:
            response = await self.ask(victim.port, method, path, body, **claims)
        except httpx.TransportError:
            await self.nodes.ended(victim)
            return None
        assert response.is_success, response.text
        return response.json()

    @contextlib.asynccontextmanager
    async def follower(self, user: str, *rooms: str) -> AsyncIterator[Follower]:
        """Somebody who has joined these rooms of the node that survives."""
        async with connected(self.survivor, user=user) as raw:
            for room in rooms:
                assert (await raw.ask("join", room=room)).t == "reply"
            yield Follower(raw)

    def rows(self, statement: str) -> list[Any]:
        """What the database says."""
        return rows(self.address, statement)


@contextlib.asynccontextmanager
async def opened(address: str, broker: str) -> AsyncIterator[Site]:
    """A site over a database with the newest schema, and a Redis."""
    async with (
        mortals("mortal_gateways") as nodes,
        mortals("mortal_backends") as backends,
        trio.open_nursery() as nursery,
    ):
        first = await backends.start("none")
        await backends.kill(first)
        url = f"http://127.0.0.1:{first.port}/calls"
        calls = CallSettings(url=url, private=True, secret=SECRET, timeout=DEADLINE)
        changes: dict[str, Any] = {
            "database": address,
            "broker": broker,
            "store": {"lease": LEASE},
            "redis": {"timeout": PATIENCE},  # the machine may be busy
            "calls": {"once:*": calls, "again:*": msgspec.structs.replace(calls, idempotent=True)},
        }
        with mock.patch.object(execution_upkeep, "_LATEST", LOOK):
            survivor = await start_gateway(nursery, **changes, node="n2")
        yield Site(address, changes, survivor, nodes, backends)
        nursery.cancel_scope.cancel()
