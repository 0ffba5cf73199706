"""Questions between nodes: repeated until answered, done once, bounded, never waited for in vain."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from gateway.broker.redis.broker import RedisBroker
from gateway.cluster.rpc import Rpc
from gateway.config.settings import ClusterSettings, HistorySettings, RedisSettings
from protocol.errors import ErrorCode, ProtocolError
from tests.redis_server import RedisServer
from tests.support import until

_prefixes = itertools.count(1)


class Node:
    """One node's exchange, and what it was asked."""

    def __init__(self, broker: RedisBroker, name: str, settings: ClusterSettings) -> None:
        self.asked: list[Any] = []
        self.hurried = 0
        self.rpc = Rpc(broker.client, name, settings, self._answer, self._hurry)
        self.client = broker.client

    def _answer(self, operation: str, data: Any) -> Any:
        self.asked.append((operation, data))
        if operation == "refuse":
            raise ProtocolError(ErrorCode.NOT_FOUND, "not here", retry_after=2.5)
        if operation == "fail":
            raise KeyError("a fault")
        return data

    def _hurry(self) -> None:
        self.hurried += 1


@asynccontextmanager
async def nodes(redis: RedisServer, count: int, **settings: Any) -> AsyncIterator[list[Node]]:
    """Nodes ``n0``, ``n1``, … that hear each other."""
    prefix = f"exchange{next(_prefixes)}"
    async with trio.open_nursery() as nursery:
        made = []
        for number in range(count):
            broker = RedisBroker(redis.url, RedisSettings(prefix=prefix), HistorySettings())
            nursery.start_soon(broker.run)
            made.append(Node(broker, f"n{number}", ClusterSettings(**settings)))
            made[-1].rpc.listen()
            nursery.start_soon(made[-1].rpc.run)
        for node in made:
            await until(lambda: node.client._servers.silent(0) is None)  # noqa: B023 - awaited here
        names = {f"n{number}" for number in range(count)}
        while (await made[0].rpc.ask(names, "warm up", None)).missing:
            pass
        for node in made:
            node.asked.clear()
        yield made
        nursery.cancel_scope.cancel()


async def test_everybody_answers_in_a_way_of_their_own(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 3) as (n0, n1, n2):
        for all in (True, False):
            answers = await n0.rpc.ask({"n0", "n1", "n2"}, "echo", {"x": [1]}, all=all)
            assert answers.good == {"n1": {"x": [1]}, "n2": {"x": [1]}} and answers.missing == []
        assert n0.asked == [] and n1.asked == n2.asked == [("echo", {"x": [1]})] * 2
        assert (await n0.rpc.ask({"n0"}, "echo", 1)).good == {}
        assert n0.rpc.pending == 0


async def test_a_refusal_and_a_fault_come_back_as_numbered_errors(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2) as (n0, _):
        answers = await n0.rpc.ask({"n1"}, "refuse", None)
        with pytest.raises(ProtocolError) as caught:
            answers.check()
        error = caught.value
        assert (error.code, error.message, error.retry_after) == (ErrorCode.NOT_FOUND, "not here", 2.5)
        answers = await n0.rpc.ask({"n1"}, "fail", None)
        assert answers.bad["n1"].code == ErrorCode.INTERNAL and answers.missing == ["n1"]
        assert (await n0.rpc.ask({"n1"}, "echo", 1)).good == {"n1": 1}


async def test_a_question_that_comes_again_is_not_done_again(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(shared_redis, 2) as (n0, n1):
        swallowed = []
        heard = n1.rpc._to_say

        class Lossy:
            def send_nowait(self, item: Any) -> None:
                if len(swallowed) < 2:
                    swallowed.append(item)
                else:
                    heard.send_nowait(item)

        monkeypatch.setattr(n1.rpc, "_to_say", Lossy())
        answers = await n0.rpc.ask({"n1"}, "echo", "once")
        assert answers.good == {"n1": "once"}
        assert len(swallowed) == 2 and n1.asked == [("echo", "once")]


async def test_a_node_that_is_gone_is_not_waited_for(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2, answer_timeout=60.0) as (n0, _):
        with trio.fail_after(10):
            answers = await n0.rpc.ask({"n1", "gone"}, "echo", 1, all=True)
        assert answers.good == {"n1": 1} and answers.unheard == {"gone"} and answers.missing == ["gone"]
        answers.check()


async def test_a_node_that_hears_and_says_nothing_is_a_timeout(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(shared_redis, 2, answer_timeout=0.4, pending=1) as (n0, n1):
        monkeypatch.setattr(n1.rpc, "_heard_question", lambda message: None)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answers = await n0.rpc.ask({"n1"}, "echo", 1)
                assert answers.silent == {"n1"}
                with pytest.raises(ProtocolError, match="may have been done") as caught:
                    answers.check()
                assert caught.value.code == ErrorCode.TIMEOUT and caught.value.retry_after

            nursery.start_soon(ask)
            await until(lambda: n0.rpc.pending == 1)
            with pytest.raises(ProtocolError, match="too many") as caught:
                await n0.rpc.ask({"n1"}, "echo", 2)
            assert caught.value.code == ErrorCode.OVERLOADED
        measures = n0.rpc.measures()
        assert measures["cluster_unanswered_total"][1] == 1 and measures["cluster_questions_pending"][1] == 0


async def test_an_answer_that_is_too_large_is_refused(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2, answer_bytes=5000) as (n0, _):
        assert (await n0.rpc.ask({"n1"}, "echo", "x" * 4900)).good == {"n1": "x" * 4900}
        answers = await n0.rpc.ask({"n1"}, "echo", "x" * 5000)
        assert answers.bad["n1"].code == ErrorCode.TOO_LARGE


async def test_to_hurry_reaches_the_others(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 3) as (n0, n1, n2):
        await n0.rpc.hurry()
        await until(lambda: (n0.hurried, n1.hurried, n2.hurried) == (0, 1, 1))


async def test_what_cannot_be_read_is_left_alone(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2) as (n0, n1):
        for payload in (b"", b"{}", b"[1,2,3]", b'["x"]'):
            assert await n0.client.tell("node:n1", payload) == 1
        assert (await n0.rpc.ask({"n1"}, "echo", 1)).good == {"n1": 1}
        assert n1.asked == [("echo", 1)]
