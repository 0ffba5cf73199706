"""How many distinct users in a second can be sent to through Redis, each in an order of their own?

The gateway's broker and nothing around it (the writing side of a node), on a core for itself; Redis is on the
other. Nobody is connected: all is kept, for 10,000 users who are away.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio

from bench import machine, redis
from bench.machine import LOAD_CORE, SERVER_CORE, BenchError, free_port, pinned
from bench.question import Case, Goal, Metric, Options, Question, plain
from bench.server import Server
from bench.subjects import through_redis
from gateway.app import tune_interpreter
from gateway.broker.base import Event, Position, user_channel
from gateway.broker.redis.broker import RedisBroker
from gateway.config.settings import HistorySettings, RedisSettings
from protocol.errors import ProtocolError

USERS: Final = 10_000
PATIENT: Final = RedisSettings(patience=10.0, timeout=20.0)
"""So that a busy machine makes it slow and not wrong."""
WINDOW: Final = 4096
"""Messages that have no place yet."""


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Server(redis.command(port), port, Path(folder), core=LOAD_CORE) as server,
        pinned(SERVER_CORE),
    ):
        used, before = server.usage().cpu, machine.usage(os.getpid()).cpu
        rates = trio.run(_send, redis.url(port), options.seconds)
        count = rates.pop("count")
        return {
            **rates,
            "node": 1e6 * (machine.usage(os.getpid()).cpu - before) / count,
            "redis": 1e6 * (server.usage().cpu - used) / count,
        }


async def _send(address: str, seconds: float) -> dict[str, float]:
    tune_interpreter()
    broker = RedisBroker(address, PATIENT, HistorySettings())
    number = done = 0
    failed: list[ProtocolError] = []
    moved = trio.Event()

    async def until_done(least: int) -> None:
        nonlocal moved
        while done < least:
            moved = trio.Event()
            await moved.wait()

    def placed(result: Position | ProtocolError) -> None:
        nonlocal done
        done += 1
        moved.set()
        if isinstance(result, ProtocolError):
            failed.append(result)

    async def send(count: int, until: float) -> int:
        """To each of the users in turn, to so many at least, and until the time is over."""
        nonlocal number
        first = number
        while number < first + count or time.perf_counter() < until:
            broker.submit(
                Event(
                    channel=user_channel("bench", f"user-{number % USERS}"),
                    event="tick",
                    mid=f"m{number:016x}",
                    ts=time.time_ns() // 1_000_000,
                    data={"number": number, "pad": "x" * 80},
                    size=150,
                ),
                placed,
            )
            number += 1
            if number % 64 == 0:
                await trio.lowlevel.checkpoint()
                await until_done(number - WINDOW)
        await until_done(number)
        return number - first

    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        with trio.fail_after(10):
            while broker.ready() is not None:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.01)
        begun = time.perf_counter()
        new = await send(USERS, 0.0)
        between = time.perf_counter()
        known = await send(USERS, between + seconds)
        end = time.perf_counter()
        nursery.cancel_scope.cancel()
    if failed:
        raise BenchError(f"{len(failed)} messages were refused: {failed[0].message}")
    return {"first": new / (between - begun), "rate": known / (end - between), "count": float(new + known)}


QUESTION = Question(
    name="redis-users",
    title=f"Messages to {USERS:,} distinct users through Redis",
    metrics=(
        Metric("first", "The first message of each", "users/s"),
        Metric("rate", "Later ones", "users/s"),
        Metric("node", "CPU per message of who sends", "µs", "lower"),
        Metric("redis", "CPU per message of Redis", "µs", "lower"),
    ),
    cases=(Case("ours-redis", through_redis("ours")),),
    goals=(
        Goal("first messages/s", plain("first", "ours-redis"), ">=", 20_000),
        Goal("later messages/s", plain("rate", "ours-redis"), ">=", 20_000),
    ),
    measure=_measure,
    ours="ours-redis",
    limit="",
)
