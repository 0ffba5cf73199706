"""Does the load generator notice what it must? ``python -m bench selfcheck``.

Runs it against a server with one fault after another (bench/peers/faulty.py): every fault must end the
run, and the server without one must pass. A benchmark whose checks fail to fail proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.generator import Plan
from bench.machine import BenchError
from bench.session import session
from bench.subjects import PEER, Subject, module

EXPECTED: Mapping[str, str] = {
    "none": "",
    "drop": "lost 1 messages without notice",
    "twice": "again or late",
    "late": "without notice",
    "stop": "not all messages arrived",
    "close": "closed by the server: 4001",
    "refuse": "refused: HTTP/1.1 503",
}
"""Fault → what the run must end with; nothing where it must succeed."""


def check(fault: str) -> str:
    """Run against one fault; return what was said about it, empty for nothing."""
    subject = Subject(fault, fault, module("bench.peers.faulty", "--fault", fault), PEER)
    try:
        with session(subject, Plan([PEER], PEER, count=10)) as bench:
            bench.connect(receivers=10, publishers=1)
            bench.window(4, 0.5)
    except BenchError as error:
        return str(error)
    return ""


def main() -> int:
    """Return 0 when every fault was noticed, and none where there is none."""
    failed = 0
    for fault, expected in EXPECTED.items():
        said = check(fault)
        right = expected in said if expected else not said
        failed += not right
        shown = said.splitlines()[0] if said else "passed"
        print(f"{'ok    ' if right else 'FAILED'} {fault}: {shown}", flush=True)
    return min(failed, 1)
