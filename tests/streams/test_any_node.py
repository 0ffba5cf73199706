"""A cursor that one node gave is good on every other one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio

from gateway.broker.base import Channel, HistoryPage
from gateway.broker.redis.broker import RedisBroker
from tests.cluster.together import together
from tests.redis_server import RedisServer
from tests.streams.support import Caller
from tests.support import until


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


async def test_history_is_read_only_where_something_moved(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that waits, of what its node follows, asks Redis for nothing that its client has."""
    reads: list[str] = []

    async def wait(caller: Caller, cursor: str, *, task_status: trio.TaskStatus[Any]) -> None:
        give, take = trio.open_memory_channel[Any](1)
        task_status.started(take)
        await give.send(await caller.poll(join=["a", "b"], cursor=cursor, timeout=20))

    history = RedisBroker.history

    async def counted(broker: RedisBroker, channel: Channel, **how: Any) -> HistoryPage:
        reads.append(channel.kind.name)
        return await history(broker, channel, **how)

    monkeypatch.setattr(RedisBroker, "history", counted)
    async with together(shared_redis, "n1", "n2", redis={"linger": 300.0}) as (n1, n2):
        here, there = Caller(n1), Caller(n2)
        _, cursor = await here.poll(join=["a", "b"], timeout=0)
        assert sorted(reads) == ["ORGANISATION", "ROOM", "ROOM", "USER"]
        for number in range(3):
            await until(lambda: not n1.hub.connections)
            reads.clear()
            async with trio.open_nursery() as nursery:
                answer = await nursery.start(wait, here, cursor)
                await until(lambda: any(len(each.memberships) == 2 for each in n1.hub.connections.values()))
                assert reads == []
                await n2.publish("acme", "a", "e", number)
                messages, cursor = await answer.receive()
            assert [each["data"] for each in messages] == [number]
            # What was missed is read, also where the node has heard it, and where it has not.
            await n2.publish("acme", "b", "e", number)
            for caller in (here, there):
                messages, after = await caller.poll(join=["a", "b"], cursor=cursor, timeout=20)
                assert [each["data"] for each in messages] == [number]
            cursor = after
        # Who does not wait is told what there is anywhere.
        await n2.publish("acme", "b", "e", "last")
        messages, _ = await here.poll(join="b", cursor=cursor, timeout=0)
        assert [each["data"] for each in messages] == ["last"]


async def test_where_a_client_has_everything_it_does_not_begin_anew(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning where the broker is would pass over what this node has not heard from another one yet."""
    reads: list[tuple[str, bool]] = []
    history = RedisBroker.history

    async def noted(broker: RedisBroker, channel: Channel, **how: Any) -> HistoryPage:
        reads.append((channel.kind.name, how["since"] is not None))
        return await history(broker, channel, **how)

    async with together(shared_redis, "n1", "n2", redis={"linger": 300.0}) as (n1, n2):
        caller = Caller(n1)
        async with caller.stream() as events:  # so that the node knows where the organisation is
            await events.of("connected")
            await n2.publish("acme", None, "e", 0)
            await events.of("event")
            _, cursor = await caller.poll(timeout=0)
            monkeypatch.setattr(RedisBroker, "history", noted)
            for overflow, asked in (("disconnect", set()), ("replay", {("ORGANISATION", True)})):
                await n2.send_to_user("acme", "alice", "mine", overflow)
                await events.of("event")
                reads.clear()
                messages, cursor = await caller.poll(cursor=cursor, overflow=overflow, timeout=0)
                assert [each["data"] for each in messages] == [overflow]
                assert set(reads) == {("USER", True)} | asked
