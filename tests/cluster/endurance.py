"""The failures at full length: ``python -m tests.cluster.endurance [--tls] [NAME ...]``, ten minutes for all.

With the settings that a gateway has by default. Prints one line for each: what was published meanwhile, how
often publishers were refused, and how much memory the process (both nodes and all clients) took in all.
Ends with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import structlog
import trio

from tests.cluster import failures
from tests.cluster import further_failures as further
from tests.cluster.secure import over_tls
from tests.cluster.traffic import Traffic

Failure = Callable[[Path], Awaitable[Traffic]]
MESSAGES = 500
"""From each of the four publishers, before the failure and after it."""
FAILURES: dict[str, Failure] = {
    "broker-restarted": partial(failures.broker_restarted, redis={}, seconds=5, messages=MESSAGES),
    "broker-paused": partial(failures.broker_paused, redis={}, seconds=10, messages=MESSAGES),
    "broker-unreachable": partial(failures.broker_unreachable, redis={}, seconds=30, messages=MESSAGES),
    "connections-cut": partial(failures.connections_cut, redis={}, cuts=20),
    "broker-lost-data": partial(failures.broker_lost_data, redis={}, seconds=5, messages=MESSAGES),
    "broker-replaced": partial(failures.broker_replaced, redis={}, messages=MESSAGES),
    "broker-full": partial(failures.broker_full, redis={}, seconds=10, messages=MESSAGES),
    "subscribers-dropped": partial(failures.subscribers_dropped, redis={}, times=20),
    "node-killed": partial(failures.node_killed, seconds=10, messages=MESSAGES),
    "node-slow": partial(failures.node_slow, seconds=10, messages=MESSAGES),
    "slots-moved": partial(further.slots_moved, redis={}, times=10, messages=MESSAGES, most=1.0),
    "primary-outvoted": partial(further.primary_outvoted, redis={}, messages=MESSAGES),
    "keys-spoilt": partial(further.keys_spoilt, redis={}, seconds=10, messages=MESSAGES),
    "clock-set-back": partial(further.clock_set_back, redis={}, seconds=10, messages=MESSAGES),
    "reload-that-cannot-start": partial(further.reload_that_cannot_start, seconds=10, messages=MESSAGES),
    "worker-stands-still": partial(further.worker_stands_still, silence=5, messages=MESSAGES),
}
_LIMIT = 900.0
"""Seconds after which one of them is hopeless."""


def _resident() -> float:
    """What this process has in memory now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def _run(failure: Failure, tls: bool) -> Traffic:
    with tempfile.TemporaryDirectory() as name, trio.fail_after(_LIMIT):
        folder = Path(name)
        with over_tls(folder) if tls else contextlib.nullcontext():
            return await failure(folder)


def main() -> int:
    """Run those that are named, or all; returns the exit code."""
    parser = argparse.ArgumentParser(description="Failures around a node, at full length.")
    parser.add_argument("name", nargs="*", help=f"of {', '.join(FAILURES)}")
    parser.add_argument("--tls", action="store_true", help="clients speak TLS to the nodes")
    arguments = parser.parse_args()
    chosen, tls = arguments.name or list(FAILURES), bool(arguments.tls)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    failed = 0
    for name in chosen:
        begun, before = time.monotonic(), _resident()
        try:
            running = trio.run(_run, FAILURES[name], tls)
        except Exception as error:
            failed += 1
            print(f"{name}{' over TLS' * tls}: BROKEN", flush=True)
            sys.excepthook(type(error), error, error.__traceback__)
            continue
        events = sum(len(watcher.got) for watcher in running.watchers)
        print(
            f"{name}{' over TLS' * tls}: kept, {time.monotonic() - begun:.0f} s; "
            f"{len(running.books.acknowledged)} acknowledged, "
            f"{events} received and checked, refused {dict(sorted(running.codes().items())) or 'none'}, "
            + (f"at most for {running.books.longest:.1f} s, " if running.codes() else "")
            + f"{running.reconnects} reconnected, memory {before:.0f} → {_resident():.0f} MB",
            flush=True,
        )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
