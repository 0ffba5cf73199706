"""Does the load generator notice what it must? ``python -m bench selfcheck``.

Runs it against a server with one fault after another (bench/peers/faulty.py): every fault must end the
run, and the server without one must pass. A benchmark whose checks fail to fail proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from websockets.sync.client import connect

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
MESSAGES = 100
"""Published by others; more than it takes for the fault to show."""


def _published_by_load(subject: Subject) -> None:
    with session(subject, Plan([PEER], PEER, count=10)) as bench:
        bench.connect(receivers=10, publishers=1)
        bench.window(4, 0.5)


def _published_by_others(subject: Subject) -> None:
    def publish(first: int) -> None:
        with connect(f"ws://127.0.0.1:{bench.server.port}", compression=None) as socket:
            for number in range(first, first + MESSAGES):
                event = {"room": "bench-00000", "event": "tick", "data": {"number": number}}
                socket.send(json.dumps(event, separators=(",", ":")))

    with session(subject, Plan([PEER], PEER, count=10, publishers=0)) as bench:
        bench.connect(receivers=10)
        bench.arrive(MESSAGES, publish)


def check(fault: str, run: Callable[[Subject], None]) -> str:
    """Run against one fault; return what was said about it, empty for nothing."""
    try:
        run(Subject(fault, fault, module("bench.peers.faulty", "--fault", fault), PEER))
    except BenchError as error:
        return str(error)
    return ""


def main() -> int:
    """Return 0 when every fault was noticed, and none where there is none."""
    failed = 0
    by_others = [(fault, _published_by_others) for fault in ("none", "drop", "twice", "late")]
    for fault, run in [*((fault, _published_by_load) for fault in EXPECTED), *by_others]:
        expected = EXPECTED[fault]
        said = check(fault, run)
        right = expected in said if expected else not said
        failed += not right
        shown = said.splitlines()[0] if said else "passed"
        by = ", published by others" if run is _published_by_others else ""
        print(f"{'ok    ' if right else 'FAILED'} {fault}{by}: {shown}", flush=True)
    return min(failed, 1)
