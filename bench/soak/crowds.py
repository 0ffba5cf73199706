"""The processes that hold the clients, as one."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

import trio

from bench import build
from bench.harness import say
from bench.soak.plan import Plan
from bench.soak.route import View

__all__ = ["Crowds"]


class Crowds:
    """``run`` it; then ``ask``."""

    def __init__(self, plan: Plan, view: View) -> None:
        self._plan = plan
        self._view = view
        self._processes: list[trio.Process] = []
        self._ids = itertools.count(1)
        self._answers: dict[tuple[int, int], Any] = {}
        self._waiting: dict[tuple[int, int], trio.Event] = {}
        self.faults: list[str] = []
        """The first broken promises that they told of."""

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        return [process.pid for process in self._processes]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run them until cancelled."""
        async with trio.open_nursery() as nursery:
            try:
                for number in range(self._plan.processes):
                    process = await trio.lowlevel.open_process(
                        [sys.executable, "-m", "bench.soak.crowd"],
                        cwd=build.HERE.parent,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                    )
                    self._processes.append(process)
                    said = {"plan": asdict(self._plan), "view": self._view.to_json()}
                    await self._send(process, {**said, "number": number, "of": self._plan.processes})
                    nursery.start_soon(self._hear, number, process)
                task_status.started()
                await trio.sleep_forever()
            finally:
                for process in self._processes:
                    process.kill()

    async def _send(self, process: trio.Process, what: dict[str, Any]) -> None:
        assert process.stdin is not None
        await process.stdin.send_all(json.dumps(what).encode() + b"\n")

    async def _hear(self, number: int, process: trio.Process) -> None:
        assert process.stdout is not None
        buffer = b""
        async for chunk in process.stdout:
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "fault" in said:
                    say(f"FAULT: {said['fault']}")
                    self.faults.append(said["fault"])
                else:
                    self._answers[number, said["id"]] = said["answer"]
                    self._waiting.pop((number, said["id"])).set()
        raise RuntimeError("a process of clients ended")

    async def ask(self, do: str, **more: Any) -> list[Any]:
        """What each of them answers."""
        found: list[Any] = [None] * len(self._processes)

        async def one(number: int, process: trio.Process) -> None:
            id = next(self._ids)
            event = self._waiting[number, id] = trio.Event()
            await self._send(process, {"id": id, "do": do, **more})
            await event.wait()
            found[number] = self._answers.pop((number, id))

        async with trio.open_nursery() as nursery:
            for number, process in enumerate(self._processes):
                nursery.start_soon(one, number, process)
        return found

    async def tell_ready(self) -> None:
        """Which nodes can be connected to."""
        await self.ask("ready", ready={place.name: place.ready for place in self._view.places})

    async def report(self) -> dict[str, Any]:
        """What all clients counted together."""
        whole: dict[str, Any] = {"connected": 0, "events": 0, "broken": 0}
        counted = {"lost": Counter[str](), "done": Counter[str](), "refused": Counter[str]()}
        for part in await self.ask("report"):
            for name in whole:
                whole[name] += part[name]
            for name, counter in counted.items():
                counter.update(part[name])
        return {**whole, **counted}
