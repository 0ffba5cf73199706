"""Runs a soak, says what was found, and draws it."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import trio

from bench import build, machine, redis, timeline
from bench.harness import say
from bench.machine import BenchError, free_port
from bench.server import Server
from bench.soak.crowds import Crowds
from bench.soak.disturbances import AWAY, EVENTS
from bench.soak.fleet import Fleet
from bench.soak.plan import ORGANISATIONS, Plan
from bench.soak.publishers import Publisher
from bench.soak.samples import Sample, Sampler, Verdict, judge
from bench.timeline import Line, Mark, Panel

__all__ = ["PLATEAU", "main"]

PLATEAU = (0.44, 0.54)
"""What is compared with the last tenth, as parts of the run: after the last successor has settled."""
_END = (0.90, 1.0)
_STARTING = 900.0
_SETTLING = 120.0
"""Seconds in which everybody has come, and in which everybody has the last event."""
_SHOWN = 20


class Soak:
    """One run."""

    def __init__(self, plan: Plan, folder: Path, redis_port: int, redis_pid: int) -> None:
        self.plan = plan
        self.marks: list[Mark] = []
        self.fleet = Fleet(plan, folder, redis.url(redis_port))
        self.crowds = Crowds(plan, self.fleet.view)
        self.sampler = Sampler(self.fleet, redis_port, redis_pid, plan.interval)
        self.publishers = [Publisher(number, plan, self.fleet.view) for number in range(ORGANISATIONS)]
        self.told: dict[str, Any] = {}
        """What the clients counted in the end."""
        self.behind: list[str] = []
        """Who did not get everything."""

    @property
    def broken(self) -> int:
        """Promises."""
        return int(self.told["broken"]) + len(self.behind)

    async def run(self) -> None:
        """Start, disturb, stop, and check that everybody has everything."""
        try:
            async with trio.open_nursery() as nursery:
                await self._start(nursery)
                nursery.start_soon(self.sampler.run, self.crowds)
                await self.crowds.ask("churn")
                async with trio.open_nursery() as disturbances:
                    disturbances.start_soon(self._nodes)
                    disturbances.start_soon(self._report)
                    await trio.sleep(self.plan.seconds)
                    disturbances.cancel_scope.cancel()
                await self._finish()
                nursery.cancel_scope.cancel()
        finally:
            self.fleet.stop()

    async def _start(self, nursery: trio.Nursery) -> None:
        for node in self.fleet.nodes:
            await self.fleet.start(node)
        await nursery.start(self.crowds.run)
        await self.crowds.tell_ready()
        for publisher in self.publishers:
            nursery.start_soon(publisher.run)
        with trio.fail_after(_STARTING):
            for publisher in self.publishers:
                await publisher.full.wait()
            say(f"{sum(each.published for each in self.publishers):,} events fill the histories")
            say(f"{sum(await self.crowds.ask('start')):,} clients are in their rooms")
        for publisher in self.publishers:
            publisher.begin.set()

    async def _nodes(self) -> None:
        """End the node ``b``, start its successor, and have every client where it belongs; and again."""
        begun = trio.current_time()
        node = self.fleet.nodes[1]
        for part, how in EVENTS:
            await trio.sleep_until(begun + part * self.plan.seconds)
            self.marks.append(Mark(trio.current_time() - begun, how.name.removeprefix("SIG").lower()))
            node.place.ready = False
            await self.crowds.tell_ready()
            await self.fleet.end(node, how)
            await trio.sleep(AWAY)
            await self.fleet.start(node)
            await self.crowds.tell_ready()
            await self.crowds.ask("home")
            say(f"{trio.current_time() - begun:.0f} s: {how.name}, and a successor")

    async def _report(self) -> None:
        while True:
            await trio.sleep(max(10.0, self.plan.seconds / 30))
            if self.sampler.samples:
                say(_line(self.sampler.samples[-1]))

    async def _finish(self) -> None:
        """No more is published; wait until everybody has what there is."""
        for publisher in self.publishers:
            publisher.stop.set()
        await self.crowds.ask("calm")
        await self.crowds.ask("home")
        with trio.move_on_after(_SETTLING):
            while True:
                last = {each.org: each.last for each in self.publishers}
                self.behind = list(itertools.chain(*await self.crowds.ask("behind", last=last)))
                if not self.behind:
                    break
                await trio.sleep(0.5)
        self.told = await self.crowds.report()


def _line(sample: Sample) -> str:
    parts = [f"{sample.at:.0f} s"]
    for whose in ("a", "b"):
        found = sample.figures.get(whose)
        if found:
            parts.append(
                f"{whose}: {found['memory']:.1f} MB, {found['connections']:.0f} connections, "
                f"{found['descriptors']:.0f} descriptors, {found['tasks']:.0f} tasks, "
                f"{found['members']:.0f} members, {found['lagging']:.0f} lagging"
            )
    redis_, clients = sample.figures["redis"], sample.figures["clients"]
    parts.append(f"Redis: {redis_['memory']:.1f} MB, {redis_['keys']:.0f} keys")
    parts.append(f"clients: {clients['memory']:.0f} MB, {clients['connected']:.0f} up")
    parts.append(f"{clients['events']:,.0f} events, {clients['broken']:.0f} faults")
    return "; ".join(parts)


def _windows(plan: Plan) -> tuple[tuple[float, float], tuple[float, float]]:
    first, last = (tuple(part * plan.seconds for part in window) for window in (PLATEAU, _END))
    return (first[0], first[1]), (last[0], last[1])


def _share(samples: Sequence[Sample], whose: str) -> float:
    """Of one core, over the window at the end."""
    used = [(each.at, each.figures[whose]["cpu"]) for each in samples if whose in each.figures]
    part = used[-max(2, len(used) // 10) :]
    return (part[-1][1] - part[0][1]) / (part[-1][0] - part[0][0])


def text(soak: Soak, verdicts: Sequence[Verdict], complaints: Sequence[str]) -> str:
    """What was found."""
    told, samples = soak.told, soak.sampler.samples
    lines = [f"{'':10}{'':14}{'plateau':>12}{'end':>12}{'change':>10}"]
    for each in verdicts:
        lines.append(
            f"{each.whose:10}{each.what:14}{each.plateau:12,.1f}{each.end:12,.1f}{100 * each.change:+9.1f} %"
            f"{'' if each.flat else '  NOT FLAT'}"
        )
    published = sum(each.published for each in soak.publishers)
    lines.append("")
    lines.append(
        f"{published:,} events published, {told['events']:,} received and checked, {soak.broken} faults"
    )
    refused = sum((each.refused for each in soak.publishers), Counter[str](told["refused"]))
    for name, counted in (
        ("announced as lost", told["lost"]),
        ("done", told["done"]),
        ("refused, and repeated", refused),
    ):
        each_of = ", ".join(f"{number:,} {what}" for what, number in sorted(counted.items())) or "none"
        lines.append(f"{name}: {each_of}")
    shares = ", ".join(f"{whose} {_share(samples, whose):.2f}" for whose in ("a", "b", "redis", "clients"))
    lines.append(f"cores at the end: {shares}")
    lines += [f"FAULT: {fault}" for fault in [*soak.crowds.faults, *soak.behind][:_SHOWN]]
    lines += [f"logged: {line[:300]}" for line in complaints[:10]]
    return "\n".join(lines)


def _series(samples: Sequence[Sample], whose: str, what: str) -> Line:
    generations = [each.generation.get(whose) for each in samples]
    points: list[tuple[float, float | None]] = []
    for number, sample in enumerate(samples):
        if number and generations[number] != generations[number - 1]:
            points.append((sample.at, None))
        points.append((sample.at, sample.figures.get(whose, {}).get(what)))
    names = {"a": "node a (TLS)", "b": "node b (plain)", "redis": "Redis", "clients": "clients"}
    return Line(names[whose], points)


def _draw(soak: Soak, path: Path) -> None:
    samples = soak.sampler.samples
    both = [
        Panel(title, [_series(samples, whose, what) for whose in ("a", "b")])
        for title, what in (
            ("Memory of each node, MB", "memory"),
            ("Open descriptors", "descriptors"),
            ("Tasks", "tasks"),
            ("Places in rooms", "members"),
            ("Connections that lag", "lagging"),
        )
    ]
    others = [
        Panel("Redis: data, MB", [_series(samples, "redis", "memory")]),
        Panel("Redis: keys", [_series(samples, "redis", "keys")]),
    ]
    minutes = soak.plan.seconds / 60
    timeline.draw(
        f"{soak.plan.connections:,} connections for {minutes:g} minutes; shaded is what is compared",
        [*both, *others],
        path,
        seconds=max(soak.plan.seconds, samples[-1].at),
        marks=soak.marks,
        spans=_windows(soak.plan),
    )


def main(plan: Plan) -> tuple[Path, bool]:
    """Run it; returns the plot, and whether all promises held and everything was flat. Raises BenchError."""
    if reason := redis.missing():
        raise BenchError(reason)
    logging.getLogger("gateway.client").setLevel(logging.ERROR)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    build.RESULTS.mkdir(exist_ok=True)
    path = build.RESULTS / f"soak-{time.strftime('%Y%m%d-%H%M%S')}.json"
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        folder, port = Path(name), free_port()
        server = stack.enter_context(Server(redis.command(port), port, folder, core=None))
        soak = Soak(plan, folder, port, server.pid)
        trio.run(soak.run)
        verdicts = list(judge(soak.sampler.samples, *_windows(plan)))
        complaints = soak.fleet.complaints()
    content: dict[str, Any] = {
        "plan": asdict(plan),
        "machine": machine.describe(),
        "verdicts": [asdict(each) | {"flat": each.flat} for each in verdicts],
        "told": soak.told,
        "faults": [*soak.crowds.faults, *soak.behind][:_SHOWN],
        "samples": [asdict(each) for each in soak.sampler.samples],
    }
    path.write_text(json.dumps(content) + "\n")
    print(text(soak, verdicts, complaints))
    picture = path.with_suffix(".svg")
    _draw(soak, picture)
    good = soak.broken == 0 and all(each.flat for each in verdicts)
    print(f"\n{'flat, and nothing lost or doubled' if good else 'FAILED'}; written: {path}, {picture}")
    return picture, good
