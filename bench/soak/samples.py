"""What the processes hold, every few seconds; and whether it is the same at the end."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from bench import machine
from bench.soak.crowds import Crowds
from bench.soak.fleet import Fleet, Node
from bench.soak.probe import NAME
from gateway.broker.redis.connection import LinkLost, Location, ask

__all__ = ["JUDGED", "Sample", "Sampler", "Verdict", "judge"]

FLAT = 0.05
SLACK = 3.0
"""Of something that is counted so many more or fewer are no trend, whatever part that is."""
_CENSUS = {
    "tasks": "tasks",
    "hub.rooms": "rooms",
    "hub.memberships": "members",
    "hub.users": "users",
    "hub.channels": "channels",
    "hub.connections": "connections",
    "hub.lags": "lagging",
    "sessions": "sessions",
    "guard.addresses": "addresses",
}
JUDGED = {
    "a": ("memory", "descriptors", "tasks", "rooms", "members", "users", "channels"),
    "b": ("memory", "descriptors", "tasks", "rooms", "members", "users", "channels"),
    "redis": ("memory", "keys"),
}
"""Whose which series has to be flat; the processes of the clients are only the load."""
_ONLY_GROWTH = {"memory"}


@dataclass(frozen=True)
class Sample:
    """Figures of one moment: ``figures["a"]["memory"]`` in MB, all others counts."""

    at: float
    """Seconds since the histories were full and everybody was there."""
    generation: dict[str, int]
    """Which process of its place each node was."""
    figures: dict[str, dict[str, float]]


class Sampler:
    """Takes samples until cancelled."""

    def __init__(self, fleet: Fleet, redis_port: int, redis_pid: int, interval: float) -> None:
        self._fleet = fleet
        self._redis = Location("127.0.0.1", redis_port)
        self._redis_pid = redis_pid
        self._interval = interval
        self._token = fleet.view.token("bench", None, "service")
        self.samples: list[Sample] = []

    async def run(self, crowds: Crowds) -> None:
        """Begin now."""
        begun = trio.current_time()
        for number in range(10**9):
            await trio.sleep_until(begun + number * self._interval)
            try:
                figures = {"redis": await self._of_redis(), "clients": await _of_clients(crowds)}
            except LinkLost:
                continue
            for node in self._fleet.nodes:
                if node.place.ready and node.pid is not None:
                    found = await self._of_node(node, node.pid)
                    if found:
                        figures[node.place.name] = found
            generation = {node.place.name: node.generation for node in self._fleet.nodes}
            self.samples.append(Sample(trio.current_time() - begun, generation, figures))

    async def _of_node(self, node: Node, pid: int) -> dict[str, float]:
        """Nothing when it ends meanwhile."""
        try:
            async with httpx.AsyncClient(verify=self._fleet.view.trust, timeout=30) as http:
                answer = await http.post(
                    f"{node.place.url}/api/v1/commands",
                    json={"v": 1, "t": "call", "id": 1, "event": NAME},
                    headers={"Authorization": f"Bearer {self._token}"},
                )
            census = answer.json()["messages"][0]["data"]
            found = _of_process(pid)
        except (httpx.TransportError, OSError, machine.BenchError, KeyError, ValueError):
            return {}
        found |= {ours: float(census.get(theirs, 0)) for theirs, ours in _CENSUS.items()}
        return found

    async def _of_redis(self) -> dict[str, float]:
        info = await ask(self._redis, {}, 30.0, b"INFO", "memory")
        lines = dict(line.split(":", 1) for line in bytes(info).decode().splitlines() if ":" in line)
        keys = await ask(self._redis, {}, 30.0, b"DBSIZE")
        process = machine.usage(self._redis_pid)
        # Without the buffers of its connections, which follow the traffic of the moment.
        data = float(lines["used_memory_dataset"]) / 1e6
        return {"memory": data, "keys": float(keys), "resident": process.rss / 1e6, "cpu": process.cpu}


async def _of_clients(crowds: Crowds) -> dict[str, float]:
    """All their processes together."""
    told = await crowds.report()
    whole: Counter[str] = Counter()
    for pid in crowds.pids:
        whole.update(_of_process(pid))
    counts = {name: float(told[name]) for name in ("connected", "events", "broken")}
    return {**whole, **counts}


def _of_process(pid: int) -> dict[str, float]:
    used = machine.usage(pid)
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return {"memory": used.rss / 1e6, "descriptors": float(descriptors), "cpu": used.cpu}


@dataclass(frozen=True)
class Verdict:
    """One series: its median after the start, and at the end."""

    whose: str
    what: str
    plateau: float
    end: float

    @property
    def change(self) -> float:
        """As a part of the plateau."""
        return self.end / self.plateau - 1 if self.plateau else float(self.end > 0)

    @property
    def flat(self) -> bool:
        """Within 5 %, or within so few that it is chance; memory may always become less."""
        if self.what in _ONLY_GROWTH:
            return self.change <= FLAT
        return abs(self.change) <= FLAT or abs(self.end - self.plateau) <= SLACK


def judge(samples: list[Sample], plateau: tuple[float, float], end: tuple[float, float]) -> Iterable[Verdict]:
    """Compare two windows (seconds) of every series that has to be flat."""
    for whose, names in JUDGED.items():
        for what in names:
            windows = [
                [
                    each.figures[whose][what]
                    for each in samples
                    if first <= each.at < last and whose in each.figures
                ]
                for first, last in (plateau, end)
            ]
            if all(windows):
                yield Verdict(whose, what, statistics.median(windows[0]), statistics.median(windows[1]))
            else:
                yield Verdict(whose, what, 0.0, 1.0)  # no figures are no proof
