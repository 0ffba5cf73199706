"""A cursor that one node gave is good on every other one."""

from __future__ import annotations

import itertools

import trio

from tests.cluster.together import together
from tests.redis_server import RedisServer
from tests.streams.support import Caller


async def test_streams_and_polls_go_on_at_another_node(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as nodes:
        callers = itertools.cycle(Caller(node) for node in nodes)
        polled: list[int] = []
        streamed: list[int] = []
        _, cursor = await next(callers).poll(join="r", timeout=0)
        last_id = cursor

        async def flood() -> None:
            for number in range(200):
                await nodes[0].publish("acme", "r", "e", number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            with trio.fail_after(60):
                while len(polled) < 200:
                    messages, cursor = await next(callers).poll(join="r", cursor=cursor)
                    polled += [each["data"] for each in messages]
                while len(streamed) < 200:
                    async with next(callers).stream(join="r", last_id=last_id) as events:
                        for _ in range(min(50, 200 - len(streamed))):
                            streamed.append((await events.of("event"))["data"])
                        last_id = events.last_id
        assert polled == list(range(200))
        assert streamed == list(range(200))
