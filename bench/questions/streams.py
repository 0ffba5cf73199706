"""What does a reader of server-sent events cost beside a WebSocket?

500 readers of one room, one event at a time and 64 in flight; the same load reads both kinds. Then what 1,000
idle readers more take.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bench import build
from bench.generator import write_tokens
from bench.helper import Helper
from bench.machine import free_port
from bench.question import Case, Goal, Metric, Options, Question, plain, ratio
from bench.server import Server
from bench.subjects import SUBJECTS, Setting, Subject

READERS: Final = 500
IDLE: Final = 1000
WARM_UP: Final = 0.3
SETTLE: Final = 1.0
SLACK: Final = 120.0


@contextlib.contextmanager
def reading(subject: Subject, count: int) -> Iterator[tuple[Server, Helper]]:
    """A server, and a load for so many readers."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, secret, port = Path(name), secrets.token_hex(32), free_port()
        tokens = folder / "tokens"
        write_tokens(tokens, count + 1, secret, "bench")
        arguments = [sys.executable, "-m", "bench.readers", "--port", str(port), "--tokens", str(tokens)]
        command = subject.command(Setting(port, folder, secret, {}))
        path = {"PYTHONPATH": str(build.HERE.parent)}
        with Server(command, port, folder) as server, Helper(arguments, path) as readers:
            yield server, readers


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    with reading(case.subject, READERS + IDLE) as (server, readers):
        return _events(case.name, server, readers, options)


def _events(kind: str, server: Server, readers: Helper, options: Options) -> dict[str, float]:
    found: dict[str, float] = {}
    readers.command(f"open {kind} {READERS}", SLACK)
    for metric, in_flight in (("one", 1), ("many", 64)):
        readers.command(f"publish {in_flight} {WARM_UP}", SLACK)
        before = server.usage().cpu
        outcome = readers.command(f"publish {in_flight} {options.seconds}", SLACK)
        found[metric] = 1e6 * (server.usage().cpu - before) / outcome["deliveries"]
        found[f"{metric}_rate"] = outcome["deliveries"] / outcome["seconds"]
    before_memory = server.usage().rss
    readers.command(f"open {kind} {IDLE}", SLACK)
    time.sleep(SETTLE)
    found["idle"] = (server.usage().rss - before_memory) / IDLE / 1000
    return found


QUESTION = Question(
    name="streams",
    title=f"Server-sent events to {READERS} readers of a room, beside WebSockets",
    metrics=(
        Metric("one", "Server CPU per delivery, one event at a time", "µs", "lower"),
        Metric("many", "Server CPU per delivery, 64 in flight", "µs", "lower"),
        Metric("idle", "Memory of an idle reader", "kB", "lower"),
    ),
    cases=tuple(Case(name, SUBJECTS["ours"], title=name) for name in ("websocket", "sse")),
    goals=(
        Goal("one at a time, SSE ÷ WebSocket", ratio("one", "sse", "websocket"), "<=", 1.3),
        Goal("64 in flight, SSE ÷ WebSocket", ratio("many", "sse", "websocket"), "<=", 1.3),
        Goal("kB of an idle stream", plain("idle", "sse"), "<=", 12.0),
    ),
    measure=_measure,
    ours="sse",
    limit="websocket",
)
