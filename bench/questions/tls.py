"""What does TLS cost, and who should end it: the gateway, or a proxy in front of it?

For each of them CPU per delivery to 500 subscribers, then CPU per connect with token and join, and memory
of an idle connection, of 2,000 that come 64 at a time. All on one core; nginx and the gateway behind it
count together. Every number is checked at every receiver.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Final

from bench.generator import Plan
from bench.question import Case, Goal, Metric, Options, Question, ratio
from bench.secure import SECURE
from bench.session import session
from bench.subjects import SUBJECTS

SUBSCRIBERS: Final = 500
STORM: Final = 2000
BASE: Final = 100
AT_ONCE: Final = 64
WARM_UP: Final = 0.3
SETTLE: Final = 1.0


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    dialect, secure = case.subject.dialect, case.subject.name in SECURE
    found: dict[str, float] = {}
    with session(case.subject, Plan([dialect], dialect, count=SUBSCRIBERS, tls=secure)) as bench:
        bench.connect(receivers=SUBSCRIBERS, publishers=1, at_once=AT_ONCE)
        for metric, in_flight in (("one", 1), ("many", 64)):
            bench.window(in_flight, WARM_UP)
            outcome = bench.window(in_flight, options.seconds)
            found[metric] = 1e6 * outcome.server_cpu / outcome.load["deliveries"]
            found[f"{metric}_p99_ms"] = 1e3 * outcome.load["p99"]
            for who, share in outcome.shares().items():
                found[who] = max(share, found.get(who, 0.0))
    storm = options.count(STORM, 500)
    with session(case.subject, Plan([dialect], dialect, count=BASE + storm, tls=secure)) as bench:
        bench.connect(receivers=BASE, at_once=AT_ONCE)
        base = bench.idle(SETTLE).rss
        outcome = bench.connect(receivers=BASE + storm, at_once=AT_ONCE)
        found["connect"] = 1e6 * outcome.server_cpu / storm
        found["idle"] = (bench.idle(SETTLE).rss - base) / storm / 1000
    return found


QUESTION = Question(
    name="tls",
    title=f"TLS 1.3: {SUBSCRIBERS} subscribers, then {STORM:,} connects; with it, behind nginx, without it",
    metrics=(
        Metric("one", "Server CPU per delivery, one event at a time", "µs", "lower"),
        Metric("many", "Server CPU per delivery, 64 in flight", "µs", "lower"),
        Metric("connect", "Server CPU per connect, with token and join", "µs", "lower"),
        Metric("idle", "Memory of an idle connection in a room", "kB", "lower"),
    ),
    cases=(
        *(Case(name, SECURE[name]) for name in ("tls", "nginx", "picows-tls")),
        *(Case(name, SUBJECTS[name]) for name in ("ours", "picows")),
    ),
    goals=(
        Goal("one at a time, ours ÷ nginx before ours", ratio("one", "tls", "nginx"), "<=", 1.0),
        Goal("64 in flight, ours ÷ nginx before ours", ratio("many", "tls", "nginx"), "<=", 1.0),
        Goal("connect, ours ÷ nginx before ours", ratio("connect", "tls", "nginx"), "<=", 1.0),
        Goal("memory, ours ÷ nginx before ours", ratio("idle", "tls", "nginx"), "<=", 1.0),
        Goal("one at a time, ours ÷ picows with ssl", ratio("one", "tls", "picows-tls"), "<=", 1.0),
        Goal("64 in flight, ours ÷ picows with ssl", ratio("many", "tls", "picows-tls"), "<=", 1.0),
        Goal("one at a time, TLS ÷ plain", ratio("one", "tls", "ours"), "<=", 2.0),
    ),
    measure=_measure,
    ours="tls",
    limit="ours",
)
