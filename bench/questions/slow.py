"""What do 450 subscribers feel of 50 others that never read?

First FILL events of 8 KiB as fast as they go, so that the kernel's buffers of the deaf are full and more
waits than the server lets wait; then events at a fixed rate, at which latency is measured. Memory is
the highest the server reached in all that, above what it had with all connected and nothing sent.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, ratio
from bench.session import session
from bench.subjects import SUBJECTS

READERS, DEAF = 450, 50
EVENT = 8192
FILL = 700
"""Over 5 MB for each: the kernel takes some 2.6 MB, the gateway's queue holds 4.2 MB at most."""
RATE = 50.0
SECONDS = 6.0
QUEUE = 4.2
"""What the gateway lets one slow connection queue (4 MiB), in MB."""


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    dialect = case.subject.dialect.with_pad(EVENT)
    deaf = int(case.settings["deaf"])
    with session(case.subject, Plan([dialect], dialect, count=READERS, deaf=deaf)) as bench:
        bench.connect(receivers=READERS, publishers=1, deaf=deaf)
        before = bench.server.usage().rss
        bench.run(f"window window=8 seconds=60 messages={FILL}", timeout=120)
        outcome = bench.rate(RATE, SECONDS * options.seconds / 2)
        grown = bench.server.usage().peak - before
        closed = bench.deaf_closed()
    percentiles = {name: 1e3 * outcome.load[name] for name in ("p50", "p99", "p999")}
    return {**percentiles, "grown": grown / 1e6, "closed": float(closed), **outcome.shares()}


def _pair(name: str, *, optional: bool = False) -> tuple[Case, Case]:
    return (
        Case(name, SUBJECTS[name], settings={"deaf": 0}, optional=optional),
        Case(f"{name}-deaf", SUBJECTS[name], settings={"deaf": DEAF}, optional=optional),
    )


QUESTION = Question(
    name="slow",
    title=f"Slow readers: {READERS} subscribers, without and with {DEAF} that never read",
    metrics=(
        Metric("p99", "p99 of those that read", "ms", "lower"),
        Metric("grown", "Memory at most above idle", "MB", "lower"),
        Metric("closed", f"Closed by the server, of {DEAF} that never read", "connections", "lower"),
    ),
    cases=(*_pair("ours"), *_pair("picows", optional=True), *_pair("websockets", optional=True)),
    goals=(
        Goal("p99 with ÷ p99 without", ratio("p99", "ours-deaf", "ours"), "<=", 1.1),
        Goal(
            "memory for each that never reads, MB",
            lambda round_: round_["ours-deaf"]["grown"] / DEAF if "ours-deaf" in round_ else None,
            "<=",
            QUEUE,
        ),
    ),
    measure=_measure,
)
