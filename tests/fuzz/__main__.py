"""Fuzzing: ``python -m tests.fuzz --sessions 200000 --seed 1``.

The invariant. Whatever bytes a peer sends, in whatever state of the connection (TLS handshake, request
head, body, WebSocket frame, fragmented message, before ``auth``, joined to rooms), in whatever pieces, and
however it ends (politely, half-closed, reset, silent, or never reading):

* what comes back is valid: HTTP answers, those from 400 on with a numbered problem document; behind a
  101 whole WebSocket frames with envelopes of the connection's codec, errors with a known number;
  nothing behind a Close; never an error 500 or a close 1011;
* a peer that stays and listens is answered, and its connection ends with a Close that has a number, unless it
  was silent until it counted as dead; after a breach of RFC 6455 or a Close it always ends;
* 1002 and 1009 are said only to who deserves it, by a reading of RFC 6455 that shares no code with the
  gateway's (``reference.py``);
* in a session with which nothing is wrong, every command with an id is answered once, however it is cut;
* no traceback, error or token gets into the log, no warning and no ignored exception is left by Python;
* every session ends, by a virtual clock and by a real one; after each batch of sessions tasks, sockets,
  descriptors, connections, organisations, rooms and queues are back at zero.

A session is decided by the seed and its number: ``--only N`` runs it again alone, and prints it. The real
gateway is at the other end, on streams in memory, on sockets, and over TLS. The exit code is 1 when anything
broke the invariant.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.fuzz.batch import BatchResult, run_batch
from tests.fuzz.plan import BATCH, make_plan
from tests.redis_server import RedisServer

_SHOWN = 200


def campaign(
    seed: int, first: int, sessions: int, *, verbose: bool = True, server: RedisServer | None = None
) -> BatchResult:
    """Run ``sessions`` sessions from number ``first`` on, batch by batch; over ``server`` or in memory."""
    total = BatchResult()
    begun = time.perf_counter()
    number, stop, told = first, first + sessions, begun
    while number < stop:
        batch = range(number, min(stop, (number // BATCH + 1) * BATCH))
        if server is not None:
            trio.run(server.ask, "FLUSHALL")
        result = run_batch(seed, batch, "memory" if server is None else server.url)
        total.outcomes += result.outcomes
        where = f"sessions {batch.start} to {batch.stop - 1}"
        for culprit, what in result.violations:
            total.violations.append((culprit, what))
            if verbose and len(total.violations) <= _SHOWN:
                print(f"VIOLATION in {where if culprit < 0 else f'session {culprit}'}: {what}", flush=True)
        number = batch.stop
        if verbose and time.perf_counter() - told > 10:
            told = time.perf_counter()
            rate = (number - first) / (told - begun)
            print(f"{number - first} sessions, {rate:.0f}/s, {len(total.violations)} violations", flush=True)
    total.seconds = time.perf_counter() - begun
    return total


def repeat(seed: int, number: int) -> int:
    """Run one session alone and print all of it."""
    plan = make_plan(seed, number)
    print(f"session {number} of seed {seed}: {plan.kind} by {plan.transport}, gateway {plan.setup!r}")
    print(f"end {plan.end}, deaf after {plan.deaf_after} bytes for {plan.deaf_for} s, ids {plan.ids}")
    for pause, piece in plan.pieces:
        print(f"  → {pause:g} s later {piece!r}")
    result = run_batch(seed, range(number, number + 1))
    print(f"  ← {result.transcripts.get(number)!r}")
    print(result.log, end="")
    for outcome in result.outcomes:
        print(f"outcome: {outcome}")
    for _, what in result.violations:
        print(f"VIOLATION: {what}")
    return 1 if result.violations else 0


def report(total: BatchResult) -> None:
    """Print rate and counts."""
    sessions = sum(total.outcomes.values())
    print(f"{sessions} sessions in {total.seconds:.1f} s, {sessions / total.seconds:.0f}/s")
    for outcome, count in sorted(total.outcomes.items(), key=lambda item: -item[1]):
        print(f"  {count:8} {outcome}")
    print(f"{len(total.violations)} violations")


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the gateway.")
    parser.add_argument("--sessions", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first session")
    parser.add_argument("--only", type=int, help="run one session alone and print it")
    parser.add_argument("--broker", choices=("memory", "redis"), default="memory")
    arguments = parser.parse_args()
    if arguments.only is not None:
        return repeat(arguments.seed, arguments.only)
    run_batch(arguments.seed, range(1))
    gc.collect()
    gc.freeze()  # what all batches share need not be looked at after each of them
    gc.set_threshold(20_000, 50, 100)
    with contextlib.ExitStack() as stack:
        server = None
        if arguments.broker == "redis":
            server = RedisServer(Path(stack.enter_context(tempfile.TemporaryDirectory())))
            stack.callback(server.stop)
            trio.run(server.start)
        total = campaign(arguments.seed, arguments.first, arguments.sessions, server=server)
    report(total)
    return 1 if total.violations else 0


if __name__ == "__main__":
    sys.exit(main())
