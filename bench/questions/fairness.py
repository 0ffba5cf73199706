"""What does one organisation feel of another that floods the same node?

The quiet one has 50 subscribers and publishes at a modest fixed rate. Beside it, or not, an organisation
with 500 subscribers keeps 64 messages in flight, so that something of its own always waits to be
written. Both loads run on the same core; the flooding one is scheduled as idle there, so that the quiet
one's clients are never kept waiting by it, and the delay measured is the server's.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, ratio
from bench.session import SLACK, Session, session
from bench.subjects import SUBJECTS

SUBSCRIBERS, FLOODED = 50, 500
RATE = 100.0
"""Messages in a second of the quiet organisation; a node spends some 4 % of its time on them."""
WARM_UP = 0.5


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    quiet = Plan([dialect], dialect, count=SUBSCRIBERS, org="quiet")
    flood = Plan([dialect], dialect, count=FLOODED, org="flood") if case.settings["flood"] else None
    seconds = 2 * options.seconds
    with session(case.subject, quiet, flood) as bench:
        bench.connect(receivers=SUBSCRIBERS, publishers=1)
        if bench.neighbour is None:
            return _quiet(bench, seconds)
        bench.neighbour.command(f"connect receivers={FLOODED} publishers=1 at_once=64 timeout=60", 90)
        flooding = f"window window=64 seconds={seconds + 3 * WARM_UP}"
        bench.neighbour.start(flooding)
        found = _quiet(bench, seconds)
        answer = bench.neighbour.finish(flooding, seconds + SLACK)
        found["flood"] = answer["deliveries"] / answer["seconds"]
        found["load"] += answer["cpu"] / answer["seconds"]
        found["others"] = max(0.0, found["others"] - answer["cpu"] / answer["seconds"])
        return found


def _quiet(bench: Session, seconds: float) -> dict[str, float]:
    bench.rate(RATE, WARM_UP)
    outcome = bench.rate(RATE, seconds)
    percentiles = {name: 1e3 * outcome.load[name] for name in ("p50", "p99", "p999", "max")}
    return {**percentiles, "flood": 0.0, **outcome.shares()}


QUESTION = Question(
    name="fairness",
    title=f"Fairness: {SUBSCRIBERS} subscribers, {RATE:.0f} messages/s, "
    f"without and with a flood to {FLOODED} of another organisation",
    metrics=(
        Metric("p50", "p50 of the quiet organisation", "ms", "lower"),
        Metric("p99", "p99 of the quiet organisation", "ms", "lower"),
        Metric("p999", "p99.9 of the quiet organisation", "ms", "lower"),
        Metric("flood", "Deliveries of the flooding organisation", "deliveries/s"),
    ),
    cases=tuple(
        Case(name + suffix, SUBJECTS[name], settings={"flood": flood}, optional=name != "ours")
        for name in ("ours", "centrifugo", "picows")
        for suffix, flood in (("", 0), ("-flooded", 1))
    ),
    goals=(Goal("p99 flooded ÷ p99 quiet", ratio("p99", "ours-flooded", "ours"), "<=", 2.0),),
    measure=_measure,
)
