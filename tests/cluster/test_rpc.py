"""Requests between nodes: repeated until answered, done once, bounded, never waited for in vain."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import pytest
import trio

from gateway.broker.redis.broker import RedisBroker
from gateway.cluster import requests
from gateway.cluster.answering import Handlers
from gateway.cluster.local import Local
from gateway.cluster.rpc import Answers, Rpc
from gateway.config.settings import ClusterSettings, HistorySettings, RedisSettings
from protocol.errors import ErrorCode, ProtocolError
from tests.redis_server import RedisServer
from tests.support import DEADLINE, until

_prefixes = itertools.count(1)


class Node:
    """One node's part, and what it was asked.

    It answers a question for traces with what was asked, and a revocation once ``gate`` is open.
    """

    def __init__(self, broker: RedisBroker, name: str, settings: ClusterSettings) -> None:
        self.asked: list[Any] = []
        self.hurried = 0
        self.gate = trio.Event()
        handlers: Handlers = {
            requests.Trace: self._echo,
            requests.Disconnect: self._refuse,
            requests.Connection: self._fail,
            requests.Revoked: self._wait,
            requests.TakeOver: self._misspeak,
        }
        self.rpc = Rpc(broker.client, name, settings, handlers, self._hurry)
        self.client = broker.client

    async def _echo(self, wanted: requests.Trace) -> dict[str, Any]:
        self.asked.append(wanted)
        return {"mid": wanted.mid}

    async def _refuse(self, wanted: requests.Disconnect) -> None:
        raise ProtocolError(ErrorCode.NOT_FOUND, "not here", retry_after=2.5)

    async def _fail(self, wanted: requests.Connection) -> dict[str, Any]:
        raise KeyError("a fault")

    async def _wait(self, wanted: requests.Revoked) -> int:
        self.asked.append(wanted)
        await self.gate.wait()
        return 7

    async def _misspeak(self, wanted: requests.TakeOver) -> int:
        return 1

    def _hurry(self) -> None:
        self.hurried += 1


def echo(mid: str) -> requests.Trace:
    """What is answered with ``{"mid": mid}``."""
    return requests.Trace("acme", mid, None)


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
        while (await made[0].rpc.ask(names, echo("warm up"))).missing:
            pass
        for node in made:
            node.asked.clear()
        yield made
        nursery.cancel_scope.cancel()


async def heard_by(node: Node, name: str) -> list[requests.Message]:
    """What is said to a node that is not there, from now on."""
    told: list[requests.Message] = []
    node.client.listen(f"node:{name}", lambda payload: told.append(requests.decode(payload)))
    with trio.fail_after(DEADLINE):
        while not await node.client.tell(f"node:{name}", b'["warm","up"]'):
            await trio.lowlevel.checkpoint()
    await until(lambda: bool(told))
    told.clear()
    return told


async def test_everybody_answers_in_a_way_of_their_own(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 3) as (n0, n1, n2):
        for all in (True, False):
            answers = await n0.rpc.ask({"n0", "n1", "n2"}, echo("x"), all=all)
            assert answers.good == {"n1": {"mid": "x"}, "n2": {"mid": "x"}} and answers.missing == []
        assert n0.asked == [] and n1.asked == n2.asked == [echo("x")] * 2
        assert (await n0.rpc.ask({"n0"}, echo("1"))).good == {}
        assert n0.rpc.pending == 0


async def test_a_refusal_and_a_fault_come_back_as_numbered_errors(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2) as (n0, _):
        answers: Answers[Any] = await n0.rpc.ask({"n1"}, requests.Disconnect("acme", "c", 1000, "", None))
        with pytest.raises(ProtocolError) as caught:
            answers.check()
        error = caught.value
        assert (error.code, error.message, error.retry_after) == (ErrorCode.NOT_FOUND, "not here", 2.5)
        answers = await n0.rpc.ask({"n1"}, requests.Connection("acme", "c"))
        assert answers.bad["n1"].code == ErrorCode.INTERNAL and answers.missing == ["n1"]
        answers = await n0.rpc.ask({"n1"}, requests.TakeOver("acme", None, "t"))
        assert answers.bad["n1"].code == ErrorCode.INTERNAL and "cannot be read" in answers.bad["n1"].message
        assert (await n0.rpc.ask({"n1"}, echo("1"))).good == {"n1": {"mid": "1"}}


async def test_a_question_that_comes_again_is_not_done_again(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(shared_redis, 2) as (n0, n1):
        swallowed = []
        heard = n1.rpc.answering._to_say

        class Lossy:
            def send_nowait(self, item: Any) -> None:
                if len(swallowed) < 2:
                    swallowed.append(item)
                else:
                    heard.send_nowait(item)

        monkeypatch.setattr(n1.rpc.answering, "_to_say", Lossy())
        answers = await n0.rpc.ask({"n1"}, echo("once"))
        assert answers.good == {"n1": {"mid": "once"}}
        assert len(swallowed) == 2 and n1.asked == [(echo("once"))]


async def test_a_node_that_is_gone_is_not_waited_for(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2, answer_timeout=60.0) as (n0, _):
        with trio.fail_after(60):
            answers = await n0.rpc.ask({"n1", "gone"}, echo("1"), all=True)
        assert (
            answers.good == {"n1": {"mid": "1"}}
            and answers.unheard == {"gone"}
            and answers.missing == ["gone"]
        )
        answers.check()


async def test_a_node_that_hears_and_says_nothing_is_a_timeout(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(shared_redis, 2, answer_timeout=1.5, pending=1) as (n0, n1):
        monkeypatch.setattr(n1.rpc.answering, "take", lambda message, size: None)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                answers = await n0.rpc.ask({"n1"}, echo("1"))
                assert answers.silent == {"n1"}
                with pytest.raises(ProtocolError, match="may have been done") as caught:
                    answers.check()
                assert caught.value.code == ErrorCode.TIMEOUT and caught.value.retry_after

            nursery.start_soon(ask)
            await until(lambda: n0.rpc.pending == 1)
            with pytest.raises(ProtocolError, match="too many") as caught:
                await n0.rpc.ask({"n1"}, echo("2"))
            assert caught.value.code == ErrorCode.OVERLOADED
        measures = n0.rpc.measures()
        assert measures["cluster_unanswered_total"][1] == 1 and measures["cluster_questions_pending"][1] == 0


async def test_an_answer_that_is_too_large_is_refused(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2, answer_bytes=5000) as (n0, _):
        assert (await n0.rpc.ask({"n1"}, echo("x" * 4900))).good == {"n1": {"mid": "x" * 4900}}
        answers = await n0.rpc.ask({"n1"}, echo("x" * 5000))
        assert answers.bad["n1"].code == ErrorCode.TOO_LARGE


async def test_to_hurry_reaches_the_others(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 3) as (n0, n1, n2):
        await n0.rpc.hurry()
        await until(lambda: (n0.hurried, n1.hurried, n2.hurried) == (0, 1, 1))


async def test_what_cannot_be_read_is_left_alone(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2) as (n0, n1):
        for payload in (b"", b"{}", b"[1,2,3]", b'["x"]'):
            assert await n0.client.tell("node:n1", payload) == 1
        assert (await n0.rpc.ask({"n1"}, echo("1"))).good == {"n1": {"mid": "1"}}
        assert n1.asked == [echo("1")]


async def test_a_handler_may_wait_and_a_request_that_comes_meanwhile_is_left_alone(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(shared_redis, 2, answer_timeout=30.0) as (n0, n1):
        came: list[str] = []
        take = n1.rpc.answering.take

        def counted(message: requests.Message, size: int) -> None:
            came.append(message.op)
            take(message, size)

        monkeypatch.setattr(n1.rpc.answering, "take", counted)
        wanted = requests.Revoked("acme", None, "alice", 1.5)
        found: list[dict[str, int]] = []
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                found.append((await n0.rpc.ask({"n1"}, wanted)).good)

            nursery.start_soon(ask)
            await until(lambda: len(came) >= 3)
            assert n1.asked == [wanted] and n1.rpc.measures()["cluster_requests_running"][1] == 1
            # Others are served meanwhile.
            assert (await n0.rpc.ask({"n1"}, echo("1"))).good == {"n1": {"mid": "1"}}
            n1.gate.set()
        assert found == [{"n1": 7}] and n1.asked == [wanted, echo("1")]
        assert n1.rpc.answering.running == 0


async def test_a_handler_has_as_long_as_the_asking_node_waits(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2) as (_, n1):
        told = await heard_by(n1, "late")
        wanted = requests.Revoked("acme", None, "alice", 1.5)
        question = requests.encode_request("q1", "late", wanted, 0.05)
        n1.rpc.answering.take(requests.decode(question), len(question))
        await until(lambda: bool(told))
        assert told[0].error is not None and told[0].error[0] == ErrorCode.TIMEOUT
        assert n1.asked == [wanted]


async def test_what_is_being_carried_out_is_bounded(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2, pending=2, answer_timeout=30.0) as (n0, n1):
        wanted = requests.Revoked("acme", None, "alice", 1.5)
        for number in range(2):
            question = requests.encode_request(f"q{number}", "n9", wanted, 30.0)
            n1.rpc.answering.take(requests.decode(question), len(question))
        answers = await n0.rpc.ask({"n1"}, echo("1"))
        assert answers.bad["n1"].code == ErrorCode.OVERLOADED
        n1.gate.set()
        await until(lambda: not n1.rpc.answering.running)
        assert (await n0.rpc.ask({"n1"}, echo("2"))).good == {"n1": {"mid": "2"}}


async def test_a_request_of_another_version_is_refused_or_understood(shared_redis: RedisServer) -> None:
    async with nodes(shared_redis, 2) as (n0, n1):
        told = await heard_by(n0, "old")
        fields = b'{"org":"acme","mid":"m","user":null,"later":1}'
        for payload, code in (
            (b'["a","old","burn",{}]', ErrorCode.UNKNOWN_CALL),
            (b'["b","old","trace",{"org":1}]', ErrorCode.BAD_FIELD),
            (b'["c","old","trace",null,null,1.5,"later"]', ErrorCode.BAD_FIELD),
            (b'["d","old","trace",%s,null]' % fields, None),
        ):
            await n0.client.tell("node:n1", payload)
            await until(lambda: len(told) == 1)
            answer = told.pop()
            assert (answer.error and answer.error[0]) == code, answer
        assert bytes(answer.data) == b'{"mid":"m"}' and n1.asked == [echo("m")]


def test_every_request_has_a_handler() -> None:
    local = Local(None, None)  # type: ignore[arg-type]
    assert set(local.handlers) == set(get_args(requests.AnyRequest))
