"""How long does a delivery take at a fixed rate that every server can hold?

The rate is found first: the capacity of the slowest of picows, websockets and Centrifugo, then
down in steps of a tenth until it holds, which is when the last message has reached all
within 50 ms. Latency counts from when a message was due, so a server that stalls cannot hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.generator import Plan
from bench.machine import BenchError
from bench.question import Case, Goal, Metric, Options, Question, cases, ratio
from bench.session import session
from bench.subjects import SUBJECTS, Subject

SUBSCRIBERS = 500
WARM_UP = 0.5
RIVALS = ("picows", "websockets", "centrifugo")
HELD = 0.05
"""A rate is held when the last message reached all within this long, in seconds."""
STEPS = 8


def _plan(subject: Subject) -> Plan:
    return Plan([subject.dialect], subject.dialect, count=SUBSCRIBERS)


def _capacity(subject: Subject) -> float:
    with session(subject, _plan(subject)) as bench:
        bench.connect(receivers=SUBSCRIBERS, publishers=1)
        bench.window(1, WARM_UP)
        return bench.window(1, 1.0).per_second("messages")


def _holds(subject: Subject, rate: float) -> bool:
    with session(subject, _plan(subject)) as bench:
        bench.connect(receivers=SUBSCRIBERS, publishers=1)
        bench.window(1, WARM_UP)
        outcome = bench.rate(rate, 2.0)
        return not outcome.load["overrun"] and outcome.load["behind"] <= HELD


def _find_rate(_: Sequence[Case], __: Options, say: Callable[[str], None]) -> dict[str, float]:
    rivals = [SUBJECTS[name] for name in RIVALS if SUBJECTS[name].missing() is None]
    capacities = {subject.name: _capacity(subject) for subject in rivals}
    slowest = min(capacities, key=lambda name: capacities[name])
    say("capacity, messages/s: " + ", ".join(f"{name} {value:.0f}" for name, value in capacities.items()))
    rate = 0.9 * capacities[slowest]
    for _step in range(STEPS):
        if _holds(SUBJECTS[slowest], rate):
            say(f"{slowest}, the slowest, holds {rate:.0f} messages/s")
            return {"messages/s": rate}
        say(f"{slowest}, the slowest, does not hold {rate:.0f} messages/s")
        rate *= 0.9
    raise BenchError(f"{slowest} holds no rate; is the machine busy?")


def _measure(case: Case, options: Options, found: Mapping[str, float]) -> dict[str, float]:
    with session(case.subject, _plan(case.subject)) as bench:
        bench.connect(receivers=SUBSCRIBERS, publishers=1)
        bench.rate(found["messages/s"], WARM_UP)
        outcome = bench.rate(found["messages/s"], 2 * options.seconds)
    percentiles = {name: 1e3 * outcome.load[name] for name in ("p50", "p99", "p999", "max")}
    return {**percentiles, **outcome.shares()}


QUESTION = Question(
    name="latency",
    title=f"Latency of a delivery to {SUBSCRIBERS} subscribers, at a fixed rate",
    metrics=(
        Metric("p50", "p50", "ms", "lower"),
        Metric("p99", "p99", "ms", "lower"),
        Metric("p999", "p99.9", "ms", "lower"),
        Metric("max", "Slowest of all", "ms", "lower"),
    ),
    cases=cases(SUBJECTS, ("ours", *RIVALS, "limit"), optional=("ours-cbor",)),
    goals=tuple(
        Goal(f"{name} ÷ the best of {', '.join(RIVALS)}", ratio(name, "ours", *RIVALS, best=min), "<=", 1.0)
        for name in ("p50", "p99", "p999")
    ),
    measure=_measure,
    prepare=_find_rate,
)
