"""What users, agents and services of a small company do all day, through public interfaces only.

Users are connections of the Python client. Services speak REST: they report executions, ask for approvals
and notify.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, Literal

import httpx
import trio

from gateway.client import CommandFailed, ConnectError, Disconnected, connect

__all__ = ["Workload"]

_ROOMS: Final = ("chat:42", "chat:support", "chat:design")
_USERS: Final = ("bob", "carol", "dave", "erin", "מיכל")
_SAYINGS: Final = (
    "Good morning!",
    "The report is nearly done.",
    "Can somebody look at the failing deploy?",
    "On it.",
    "Lunch at noon?",
    "The new chart looks much better.",
    "I have asked for an approval, alice.",
    "Thanks!",
)
_AGENTS: Final = (
    ("researcher", "insight", "summarise", ("search", "read_page", "summarise")),
    ("deployer", "platform", "deploy", ("build", "run_tests", "rollout")),
    ("triage", "support", "classify", ("read_ticket", "classify")),
    ("analyst", "insight", "forecast", ("query", "fit_model", "plot")),
    ("translator", "support", "translate", ("detect_language", "translate")),
)
_ERRORS: Final = ("the search did not answer in time", "three of 214 tests failed", "no such ticket")
_TASKS: Final = (
    "deploy 2.4 to production",
    "send 1,200 reminders",
    "delete the old index",
    "refund order 7719",
)
_STEPS: Final = 8


class Workload:
    """All that goes on, until it is cancelled."""

    def __init__(self, base: str, token: Callable[[str, str], str], *, pace: float = 1.0) -> None:
        """``base`` is the gateway's address; ``token`` gives one for a user and a role.

        Every wait is divided by ``pace``.
        """
        self._base = base
        self._token = token
        self._pace = pace
        self._random = random.Random(42)
        self._tasks = 0
        self._asked = 0

    async def run(self) -> None:
        """Let everybody work until cancelled."""
        headers = {"Authorization": f"Bearer {self._token('backend', 'service')}"}
        async with (
            httpx.AsyncClient(base_url=f"{self._base}/api/v1", headers=headers, timeout=30) as rest,
            trio.open_nursery() as nursery,
        ):
            for number, user in enumerate(_USERS):
                nursery.start_soon(self._user, user, number)
            for agent in _AGENTS:
                nursery.start_soon(self._agent, rest, agent)
            nursery.start_soon(self._metrics, rest)
            nursery.start_soon(self._tasks_of_the_day, rest)

    async def _wait(self, least: float, most: float) -> None:
        await trio.sleep(self._random.uniform(least, most) / self._pace)

    # --- users ------------------------------------------------------------------------------------

    async def _user(self, user: str, number: int) -> None:
        rooms = _ROOMS[: 1 + number % len(_ROOMS)]
        codec: Literal["json", "cbor"] = "json" if number % 2 else "cbor"
        while True:
            try:
                async with connect(self._base, token=self._token(user, "member"), codec=codec) as client:
                    for room in rooms:
                        await client.join(room)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._listen, client, nursery)
                        for _ in range(self._random.randint(12, 40)):
                            await self._say(client, self._random.choice(rooms), user)
                        nursery.cancel_scope.cancel()
            except* (ConnectError, Disconnected, CommandFailed):
                pass  # the gateway is about to stop, or was too busy: people come again
            await self._wait(2, 10)

    async def _say(self, client: Any, room: str, user: str) -> None:
        await self._wait(2, 9)
        await client.typing(room)
        await self._wait(1, 3)
        text = self._random.choice(_SAYINGS)
        await client.publish(room, "message:new", {"text": text, "from": user})

    async def _listen(self, client: Any, nursery: trio.Nursery) -> None:
        """Decide what this user is asked and nobody else decided for a while."""
        async for event in client:
            if getattr(event, "event", "") == "permission:pending":
                nursery.start_soon(self._decide, event.data)

    async def _decide(self, asked: dict[str, Any]) -> None:
        await self._wait(25, 50)
        choice = "approve" if self._random.random() < 0.7 else "reject"
        headers = {"Authorization": f"Bearer {self._token('bob', 'member')}"}
        async with httpx.AsyncClient(base_url=f"{self._base}/api/v1", headers=headers, timeout=30) as rest:
            body = {"choice": choice, "comment": "alice was away"}
            await self._try(rest, "POST", f"/approvals/{asked['id']}/decide", body)

    # --- agents -----------------------------------------------------------------------------------

    async def _agent(self, rest: httpx.AsyncClient, agent: tuple[str, str, str, tuple[str, ...]]) -> None:
        name, team, method, tools = agent
        await self._wait(0, 4)
        while True:
            body = {
                "agent": name,
                "team": team,
                "method": method,
                "input": {"ticket": self._random.randint(1000, 9999)},
            }
            row = await self._try(rest, "POST", "/executions", body)
            if row is not None:
                await self._execute(rest, row["id"], name, tools)
            await self._wait(1, 8)

    async def _execute(self, rest: httpx.AsyncClient, id: str, name: str, tools: tuple[str, ...]) -> None:
        await self._wait(0.5, 3)
        await self._report(rest, id, status="running", progress=0, step="starting")
        used: list[str] = []
        for number in range(1, _STEPS + 1):
            await self._wait(0.4, 2)
            tool = tools[number * len(tools) // (_STEPS + 1)]
            if tool not in used:
                used.append(tool)
            asks = number == _STEPS // 2 and (self._asked == 0 or self._random.random() < 0.15)
            if asks and not await self._permitted(rest, id, name):
                await self._report(rest, id, status="cancelled", error="not approved")
                return
            if self._random.random() < 0.02:
                error = self._random.choice(_ERRORS)
                await self._report(rest, id, status="failed", error=error, tools=used)
                await self._notify(rest, "error", f"{name} failed", error)
                return
            await self._report(
                rest, id, progress=100 * number / (_STEPS + 1), step=tool.replace("_", " "), tools=used
            )
        await self._report(
            rest, id, status="completed", progress=100, result={"items": self._random.randint(1, 90)}
        )
        if self._random.random() < 0.3:
            await self._notify(rest, "success", f"{name} is done", "Its result is in the history.")

    async def _permitted(self, rest: httpx.AsyncClient, id: str, name: str) -> bool:
        """Ask alice, and bob in her stead; whether somebody approved."""
        self._asked += 1
        task = self._random.choice(_TASKS)
        body = {
            "title": f"May {name} {task}?",
            "message": "It cannot be undone.",
            "users": ["alice", "bob"],
            "deadline": 90,
            "fallback": "reject",
            "execution": id,
            "task": task,
        }
        asked = await self._try(rest, "POST", "/approvals", body)
        if asked is None:
            return False
        await self._report(rest, id, step="waits for an approval")
        for _ in range(8):
            found = await self._try(rest, "GET", f"/approvals/{asked['id']}?wait=20")
            if found is not None and found["status"] != "pending":
                return bool(found.get("decision", {}).get("choice") == "approve")
        return False

    # --- services ---------------------------------------------------------------------------------

    async def _metrics(self, rest: httpx.AsyncClient) -> None:
        while True:
            data = {"cpu": round(self._random.uniform(5, 60), 1), "queue": self._random.randint(0, 30)}
            await self._try(
                rest, "POST", "/broadcast", {"room": "system", "event": "metrics_updated", "data": data}
            )
            await self._wait(1, 2)

    async def _tasks_of_the_day(self, rest: httpx.AsyncClient) -> None:
        while True:
            self._tasks += 1
            data = {"task_id": f"task-{self._tasks}", "title": self._random.choice(_TASKS)}
            await self._try(rest, "POST", "/broadcast", {"event": "task:created", "data": data})
            await self._wait(4, 9)
            await self._try(rest, "POST", "/broadcast", {"event": "task:executed", "data": data})
            if self._tasks % 4 == 1:
                await self._notify(rest, "info", "A task was executed", str(data["title"]))
            await self._wait(4, 9)

    async def _notify(self, rest: httpx.AsyncClient, type: str, title: str, message: str) -> None:
        body = {"user": "alice", "type": type, "title": title, "message": message}
        await self._try(rest, "POST", "/notifications", body)

    async def _report(self, rest: httpx.AsyncClient, id: str, **changes: Any) -> None:
        await self._try(rest, "PATCH", f"/executions/{id}", changes)

    async def _try(
        self, rest: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """The gateway's answer; None when it refused, or did not answer in time."""
        try:
            answer = await rest.request(method, path, json=body)
        except httpx.HTTPError:
            await self._wait(1, 2)
            return None
        if not answer.is_success:
            return None
        found: dict[str, Any] = answer.json()
        return found
