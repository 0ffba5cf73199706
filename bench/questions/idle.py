"""What do 5,000 idle connections cost, when each is pinged every 30 s?

Measured over one whole period, in which every connection must be pinged once. A quick run
shortens the period and counts the CPU of one period against 30 s.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.generator import Plan
from bench.machine import BenchError
from bench.question import Case, Goal, Metric, Options, Question, plain
from bench.session import session
from bench.subjects import SUBJECTS

CONNECTIONS = 5000
PERIOD = 30.0


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect
    count = options.count(CONNECTIONS, 1000)
    own = case.settings.get("period", PERIOD)
    period = own if "period" in case.settings or not options.quick else 6.0
    with session(case.subject, Plan([dialect], dialect, count=count), heartbeat=str(period)) as bench:
        bench.connect(receivers=count)
        bench.idle(1.0)
        outcome = bench.idle(period)
    if outcome.load["pings"] < 0.95 * count:
        raise BenchError(f"{outcome.load['pings']} pings for {count} connections in {period:.0f} s")
    return {
        "share": 100 * outcome.server_cpu / own * CONNECTIONS / count,
        "pings": float(outcome.load["pings"]),
        **outcome.shares(),
    }


QUESTION = Question(
    name="idle",
    title=f"{CONNECTIONS:,} idle connections with heartbeats",
    metrics=(Metric("share", "Server CPU", "% of a core", "lower"),),
    cases=(
        Case("ours", SUBJECTS["ours"]),
        Case("websockets", SUBJECTS["websockets"], settings={"period": 20.0}, optional=True),
        Case("centrifugo", SUBJECTS["centrifugo"], settings={"period": 25.0}, optional=True),
        Case("socketio", SUBJECTS["socketio"], settings={"period": 25.0}, optional=True),
    ),
    goals=(Goal("server CPU, % of a core", plain("share", "ours"), "<=", 3.0),),
    measure=_measure,
)
