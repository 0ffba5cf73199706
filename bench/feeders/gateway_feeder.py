"""The writing side of a node: the gateway's own broker, and nothing around it."""

from __future__ import annotations

import argparse
import secrets
import time

import trio

from bench.feeders import Order, Stopwatch, read_order
from gateway.broker.base import Event, Position, room_channel
from gateway.broker.redis.broker import RedisBroker
from gateway.config.settings import HistorySettings, RedisSettings
from protocol.errors import ProtocolError

WINDOW = 4096
"""Messages that have no place yet."""
SIZE = 150
ORG = "bench"


class Feeder:
    """Publishes as fast as places are given."""

    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker
        self._pending = 0
        self._room = trio.Event()
        self._failed: str | None = None

    async def publish(self, order: Order) -> None:
        """Carry out one order, and answer it."""
        watch = Stopwatch()
        prefix = secrets.token_hex(4)
        for number in order.numbers:
            if self._pending >= WINDOW:
                await self._until(WINDOW // 2)
            room = order.room(number)
            self._pending += 1
            self._broker.submit(
                Event(
                    channel=room_channel(ORG, room),
                    room=room,
                    event="tick",
                    mid=f"{prefix}{number:016x}",
                    ts=time.time_ns() // 1_000_000,
                    data=order.data(number),
                    sender="feeder",
                    size=SIZE,
                ),
                self._done,
            )
        await self._until(0)
        watch.answer(self._failed)

    def _done(self, result: Position | ProtocolError) -> None:
        self._pending -= 1
        if isinstance(result, ProtocolError):
            self._failed = result.message
        self._room.set()

    async def _until(self, pending: int) -> None:
        while self._pending > pending:
            self._room = trio.Event()
            await self._room.wait()


async def main(redis: str) -> None:
    """Serve orders until the input ends."""
    broker = RedisBroker(redis, RedisSettings(), HistorySettings())
    feeder = Feeder(broker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        with trio.fail_after(10):
            while broker.ready() is not None:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.01)
        while order := await trio.to_thread.run_sync(read_order):
            await feeder.publish(order)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    trio.run(main, parser.parse_args().redis)
