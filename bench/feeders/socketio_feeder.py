"""python-socketio's external process: a manager that only writes, as its documentation has it."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import msgspec
import socketio
import uvloop

from bench.feeders import Stopwatch, read_order


class Json:
    """msgspec behind the two functions that python-socketio asks of a JSON module."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> bytes:
        return msgspec.json.encode(value)

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        return msgspec.json.decode(text)


async def main(redis: str) -> None:
    """Serve orders until the input ends."""
    manager = socketio.AsyncRedisManager(redis, write_only=True, json=Json)
    while order := await asyncio.to_thread(read_order):
        watch = Stopwatch()
        for number in order.numbers:
            await manager.emit("tick", order.data(number), room=order.room(number))
        watch.answer()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    uvloop.run(main(parser.parse_args().redis))
