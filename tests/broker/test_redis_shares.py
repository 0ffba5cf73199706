"""No organisation uses up what all share in Redis, and what is broken in one room harms no other."""

from __future__ import annotations

import re
from typing import Any

import pytest
import trio

from gateway.broker.base import Position, room_channel, user_channel
from protocol.errors import ErrorCode, ProtocolError
from tests.broker.nodes import cluster_of, fresh_prefix, make, redis_of, running
from tests.redis_server import RedisServer
from tests.support import until

EVIL, GOOD = room_channel("bad", "evil"), room_channel("good", "r")


async def test_asking_keeps_nothing(shared_redis: RedisServer) -> None:
    async with cluster_of(1, shared_redis.url, prefix=(name := fresh_prefix())) as (node,):
        for number in range(20):
            await node.broker.history(room_channel("acme", f"no{number}"), since=None, limit=5)
        assert await shared_redis.ask("KEYS", f"{name}:*") == []


async def test_an_organisation_fills_its_share_only(shared_redis: RedisServer) -> None:
    nodes = [make(shared_redis.url, prefix="shares", history={"total_bytes": 400_000}) for _ in range(2)]
    async with running(*nodes):
        one, two = nodes
        await one.publish(GOOD)
        refused: list[ProtocolError] = []
        taken = 0
        for number in range(60):
            outcome = one.submit(room_channel("bad", f"r{number}"), data="x" * 10_000)
            await until(lambda: outcome)  # noqa: B023
            if isinstance(outcome[0], ProtocolError):
                refused.append(outcome[0])
            else:
                taken += 1
        assert refused and 20 < taken < 40
        assert refused[0].code == ErrorCode.OVERLOADED and refused[0].retry_after
        await one.publish(GOOD)

        async def other_node_knows() -> None:
            while True:
                outcome = two.submit(room_channel("bad", "more"))
                await until(lambda: outcome)  # noqa: B023
                if isinstance(outcome[0], ProtocolError):
                    return
                await trio.sleep(0.05)

        with trio.fail_after(60):
            await other_node_knows()
        await two.publish(GOOD)


async def test_notes_are_bounded_for_each_organisation(shared_redis: RedisServer) -> None:
    prefix = fresh_prefix()
    nodes = [make(shared_redis.url, prefix=prefix, history={"total_bytes": 32 * 20_000}) for _ in range(2)]
    async with running(*nodes):
        one, two = nodes
        one.broker.remember("good", "k", b"mine", 60)
        await redis_of(one)._notes.written()
        for number in range(30):
            one.broker.remember("bad", f"k{number}", b"x" * 1000, 60)
            await redis_of(one)._notes.written()
        kept = [await two.broker.recall("bad", f"k{number}") is not None for number in range(30)]
        assert kept == [False] * (30 - sum(kept)) + [True] * sum(kept) and 10 < sum(kept) < 20
        assert await two.broker.recall("good", "k") == b"mine"


SPOILT: dict[str, tuple[str, ...]] = {
    "stream": ("SET", "{stream}", "x"),
    "hash": ("SET", "{stream}:m", "x"),
    "number": ("HSET", "{stream}:m", "seq", "zzz"),
}


@pytest.mark.parametrize("what", SPOILT)
async def test_a_spoilt_room_harms_no_other(shared_redis: RedisServer, what: str) -> None:
    prefix = fresh_prefix()
    quick: dict[str, Any] = {"prefix": prefix, "timeout": 1.0, "sweep": 0.2}
    async with cluster_of(1, shared_redis.url, **quick) as (node,):
        await node.broker.subscribe(GOOD)
        await node.broker.subscribe(EVIL)
        await node.publish(EVIL)
        stream = f"{prefix}:{{bad%00r%00evil}}"
        command, *words = SPOILT[what]
        await shared_redis.ask(command, *(word.format(stream=stream) for word in words))
        outcomes = [node.submit(room) for _ in range(50) for room in (EVIL, GOOD)]
        await until(lambda: all(outcomes))
        good = [outcome[0] for outcome in outcomes[1::2]]
        assert all(isinstance(place, Position) for place in good)
        assert any(isinstance(outcome[0], ProtocolError) for outcome in outcomes[::2])
        for outcome in outcomes[::2]:
            if isinstance(outcome[0], ProtocolError):
                assert prefix not in outcome[0].message and "127.0.0.1" not in outcome[0].message
        await until(lambda: len(node.got(GOOD)) == 50)


async def test_users_are_counted_by_what_they_take_and_not_as_rooms(shared_redis: RedisServer) -> None:
    """As many users as an organisation has may be told something each: 100,000 fit into the defaults."""
    history = {"rooms": 100, "total_bytes": 20_000_000}
    node = make(shared_redis.url, prefix=fresh_prefix(), history=history)
    async with running(node):
        before = await used_memory(shared_redis)
        users = [(user_channel("acme", f"user{number}"), {"data": {"n": number}}) for number in range(2000)]
        await node.publish_many(users)
        budgets = redis_of(node)._budgets
        await until(lambda: not any(each.changed for each in budgets._accounts.values()))
        assert 0.6 < (await used_memory(shared_redis) - before) / budgets.bytes < 1.4
        rooms = [room_channel("acme", f"r{number}") for number in range(76)]
        await node.publish_many([(room, {}) for room in rooms[:74]])
        await until(lambda: budgets._accounts["acme"].rooms == 74)
        outcomes = [node.submit(room) for room in rooms]
        await until(lambda: all(outcomes))
        more = node.submit(room_channel("acme", "one more"))
        await until(lambda: more)
        assert isinstance(more[0], ProtocolError) and "history.rooms" in more[0].message


async def used_memory(server: RedisServer) -> int:
    """Bytes that the server has allocated."""
    text = (await server.ask("INFO", "memory")).decode()
    return int(re.findall(r"used_memory:(\d+)", text)[0])
