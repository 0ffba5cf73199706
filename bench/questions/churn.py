"""What is left of connections that have ended, over TLS and plain?

So many come, with a token and a join, and go, 500 at a time; then as many that are there at once, twice.
Memory is read some seconds after the last has gone. Python keeps what many at once have needed for those
who come next, so the second time is to need no more than the first.
"""

from __future__ import annotations

import resource
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.generator import Load, Plan
from bench.machine import free_port
from bench.question import Case, Goal, Metric, Options, Question, plain
from bench.secure import SECURE
from bench.server import Server
from bench.subjects import SUBJECTS, Setting

CONNECTIONS: Final = 10_000
AT_ONCE: Final = 500
SETTLE: Final = 5.0
"""Seconds from the last end until memory is read; by then no resume token is good any more."""
_MORE: Final = "[overload]\nloop_lag = 0\n"


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    count = options.count(CONNECTIONS, 2000)
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        setting = Setting(free_port(), Path(name), secrets.token_hex(32), {"more": _MORE, "resume_ttl": "2"})
        with Server(case.subject.command(setting), setting.port, setting.folder) as server:

            def come_and_go(number: int) -> None:
                dialect = case.subject.dialect
                plan = Plan([dialect], dialect, count=number, tls=case.subject.name in SECURE)
                with Load(plan, setting.port, setting.folder, setting.secret) as load:
                    load.command(f"connect receivers={number} at_once=64 timeout=300", 330)

            def left() -> int:
                time.sleep(SETTLE)
                return server.usage().rss

            come_and_go(AT_ONCE)
            base = left()
            for _batch in range(count // AT_ONCE):
                come_and_go(AT_ONCE)
            in_turn = left()
            come_and_go(count)
            at_once = left()
            come_and_go(count)
            again = left()
            return {
                "base": base / 1e6,
                "in_turn": 100 * (in_turn / base - 1),
                "at_once": at_once / 1e6,
                "again": 100 * (again / at_once - 1),
            }


QUESTION = Question(
    name="churn",
    title=f"{CONNECTIONS:,} connections come and go, {AT_ONCE} at a time; then twice {CONNECTIONS:,} at once",
    metrics=(
        Metric("base", f"Memory after the first {AT_ONCE}", "MB", "lower"),
        Metric("in_turn", f"Growth after {CONNECTIONS:,} more, {AT_ONCE} at a time", "%", "lower"),
        Metric("at_once", f"Memory after {CONNECTIONS:,} that were there at once", "MB", "lower"),
        Metric("again", "Growth after as many at once again", "%", "lower"),
    ),
    cases=(Case("tls", SECURE["tls"]), Case("ours", SUBJECTS["ours"])),
    goals=tuple(
        Goal(f"{title}, {case}, %", plain(metric, case), "<=", 5.0)
        for metric, title in (("in_turn", "growth, 500 at a time"), ("again", "growth, at once again"))
        for case in ("tls", "ours")
    ),
    measure=_measure,
    ours="tls",
    limit="ours",
)
