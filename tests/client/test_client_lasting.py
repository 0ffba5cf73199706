"""What the client outlives: long outages, refusals, expired tokens, wrong clocks, and many rooms."""

from __future__ import annotations

import itertools
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.client import Backoff, Client, ConnectionRefused, ReconnectFailed, connect
from gateway.client.backoff import Retries
from tests.client.loops import settle
from tests.client.scripted import WELCOME, Peer, Refusal, ScriptedGateway, beside
from tests.support import start_gateway

EXACT = Backoff(jitter=lambda: 1.0)


async def numbered(numbers: itertools.count[int]) -> str:
    """A token that can be told from the one before."""
    return f"t{next(numbers)}"


def fresh() -> Callable[[], Any]:
    return partial(numbered, itertools.count(1))


# ---- waits


def test_no_dice_make_a_restart_of_two_seconds_cost_more_than_three() -> None:
    dice = random.Random(1)
    for _ in range(1000):
        retries = Retries(Backoff(jitter=dice.random))
        at = 0.0
        while at < 2:
            retries.failed()
            at += retries.wait()
        assert at <= 3


def test_the_waits_grow_and_end_at_the_maximum() -> None:
    retries = Retries(EXACT)
    waits, told = [], []
    for _ in range(12):
        told.append(retries.failed())
        waits.append(retries.wait())
    assert waits == [0.5, 1, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30]
    assert told == [False] * 10 + [True, False]
    retries.afresh()
    assert not retries.failed()
    assert retries.wait(7) == 7.5


def test_after_all_tries_the_pace_is_the_slowest_whatever_the_waits_were() -> None:
    retries = Retries(Backoff(tries=1, jitter=lambda: 1.0))
    waits = []
    for _ in range(5):
        retries.failed()
        waits.append(retries.wait())
    assert waits == [0.5, 1, 1, 30, 30]


async def test_a_long_outage_is_told_and_outlived(scripted: ScriptedGateway, clock: MockClock) -> None:
    told: list[ReconnectFailed] = []
    scripted.plan.extend([None, *[OSError("away")] * 30])
    async with scripted.connect(reconnect=EXACT, reconnect_failed=told.append) as client:
        await (await scripted.peer()).drop()
        await anyio.sleep(70)
        assert told == []
        peer = await scripted.peer()
        await settle()
        assert (client.state, len(told), told[0].tries) == ("connected", 1, 10)
        assert "away" in str(told[0].__cause__)
        async with beside(partial(peer.answer, data=1)):
            assert await client.info() == 1
    assert scripted.dials[-1] - scripted.dials[-2] == 30


async def test_the_first_connection_is_waited_for_too(scripted: ScriptedGateway, clock: MockClock) -> None:
    scripted.plan.extend([OSError("not yet")] * 15)
    async with scripted.connect(reconnect=EXACT) as client:
        assert client.state == "connected"


async def test_what_the_callback_raises_ends_the_block(scripted: ScriptedGateway, clock: MockClock) -> None:
    def enough(error: ReconnectFailed) -> None:
        raise error

    scripted.plan.extend([OSError("away")] * 15)
    with pytest.raises(ReconnectFailed):
        async with scripted.connect(reconnect=Backoff(tries=2), reconnect_failed=enough):
            pytest.fail("not connected")
    assert len(scripted.dials) == 3


async def test_why_the_first_try_failed_is_logged_at_once(
    scripted: ScriptedGateway, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.plan.extend([OSError("no route"), OSError("no route"), None])
    with caplog.at_level(logging.WARNING, "gateway.client"):
        async with scripted.connect(token="secret", reconnect=EXACT):
            pass
    (record,) = caplog.records
    assert "gateway.example" in record.getMessage()
    assert "no route" in record.getMessage()
    assert "secret" not in caplog.text


# ---- refusals


async def test_a_refused_token_is_final_at_once_and_says_where(scripted: ScriptedGateway) -> None:
    scripted.plan.append(Refusal(401, b'{"detail": "the token has expired"}'))
    with pytest.raises(ConnectionRefused, match=r"gateway\.example with HTTP 401: the token has expired"):
        async with scripted.connect():
            pytest.fail("not connected")
    assert len(scripted.dials) == 1


async def test_a_refused_token_is_not_the_end_for_who_can_ask_for_another(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    scripted.plan.extend([Refusal(401), None, Refusal(401), None])
    async with scripted.connect(token=fresh(), reconnect=EXACT):
        peer = await scripted.peer()
        assert peer.headers["authorization"] == "Bearer t2"
        await peer.close(1008, "the token has expired")
        assert (await scripted.peer()).headers["authorization"] == "Bearer t4"


async def test_a_token_refused_after_the_upgrade_is_not_the_end_either(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async def refuse() -> None:
        await (await scripted.peer()).close(1008, "the token has expired")

    scripted.plan.append("unwelcome")
    async with beside(refuse), scripted.connect(token=fresh(), reconnect=EXACT) as client:
        assert client.state == "connected"


@pytest.mark.parametrize("step", [Refusal(404), Refusal(403), ssl.SSLCertVerificationError("captive portal")])
async def test_where_a_gateway_was_there_before_a_stranger_in_between_is_outlived(
    scripted: ScriptedGateway, clock: MockClock, step: Any
) -> None:
    scripted.plan.extend([None, step, None])
    async with scripted.connect(reconnect=EXACT) as client:
        await (await scripted.peer()).drop()
        await scripted.peer()
        await settle()
        assert client.state == "connected"


async def test_a_polite_end_after_closing_was_announced_is_that_end(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await peer.send("closing", code=4500, message="by an administrator", data={"reconnect": False})
        await peer.close(1000)
        with pytest.raises(Exception, match="4500: by an administrator"):
            await anext(client)


# ---- the token


@asynccontextmanager
async def expiring(
    scripted: ScriptedGateway, seconds: float, token: Any, **options: Any
) -> AsyncIterator[tuple[Client, Peer]]:
    """A connection whose token ends in so many seconds of the gateway's clock, which shows 1 ms."""
    scripted.welcome = {**WELCOME, "expires": 1 + round(seconds * 1000)}
    async with scripted.connect(token=token, heartbeat=1e6, **options) as client:
        yield client, await scripted.peer()


@pytest.mark.parametrize(("lifetime", "at"), [(3600, 3540), (100, 80), (1, 1)])
async def test_renewal_by_the_gateways_clock(
    scripted: ScriptedGateway, clock: MockClock, lifetime: float, at: float
) -> None:
    async with expiring(scripted, lifetime, fresh()) as (client, peer):
        command = await peer.receive()
        assert (command.t, command.data) == ("refresh", {"token": "t2"})
        assert anyio.current_time() == pytest.approx(at)
        expires = 1 + round((anyio.current_time() + 1000) * 1000)
        await peer.reply(command, data={"expires": expires})
        began = anyio.current_time()
        command = await peer.receive()
        assert command.data == {"token": "t3"}
        assert anyio.current_time() - began == pytest.approx(940)
        assert client.connection.expires == expires


async def test_a_renewal_that_fails_hangs_or_is_refused_is_repeated(
    scripted: ScriptedGateway, clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = itertools.count(1)

    async def token() -> str:
        number = next(numbers)
        if number == 2:
            raise RuntimeError("503")
        if number == 3:
            await anyio.sleep_forever()
        return f"t{number}"

    async with expiring(scripted, 300, token, connect_timeout=5.0) as (_, peer):
        command = await peer.answer("error", code=302, message="not now")
        assert command.data == {"token": "t4"}
        assert anyio.current_time() < 300
        assert (await peer.answer(data={"expires": None})).data == {"token": "t5"}
        await anyio.sleep(10_000)
        assert len(peer.commands) == 2
    assert "503" in caplog.text and "no answer within 5 s" in caplog.text and "not now" in caplog.text


async def test_renewal_by_hand_moves_the_next_one(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with expiring(scripted, 100, fresh()) as (client, peer):
        async with beside(partial(peer.answer, data={"expires": 1_000_001})):
            await client.refresh("by hand")
        await peer.receive()
        assert anyio.current_time() == pytest.approx(940)


@pytest.mark.parametrize("token", ["t", None])
async def test_nothing_to_renew_with(scripted: ScriptedGateway, clock: MockClock, token: str | None) -> None:
    async with expiring(scripted, 100, token) as (_, peer):
        await anyio.sleep(1000)
        assert peer.commands == []


async def test_a_client_outlives_its_tokens_on_a_gateway(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    asked = 0
    renewed = anyio.Event()

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked == 4:
            renewed.set()
        return gateway.auth.issue(org="acme", user="alice", ttl=3).token

    async with connect(f"ws://127.0.0.1:{gateway.port}", token=token) as client:
        connection = client.connection.connection
        first = client.connection.expires
        assert first is not None
        with anyio.fail_after(60):
            await renewed.wait()
        await client.join("r")
        assert client.connection.connection == connection, "the connection itself has lasted"
        assert client.connection.expires is not None and client.connection.expires > first


# ---- rooms


async def test_too_many_pending_is_no_reason_to_give_up_a_room(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    names = [f"r{number}" for number in range(100)]
    async with scripted.connect(reconnect=EXACT) as client:
        peer = await scripted.peer()
        for name in [*names, "constructor", "__proto__"]:
            async with beside(partial(peer.answer, room=name, epoch="e", seq=1)):
                await client.join(name)
        await peer.drop()
        peer = await scripted.peer()
        for code in (403, 201):
            await peer.answer("error", code=code, message="not so")
        for _ in range(102):
            command = await peer.receive()
            await peer.reply(command, room=command.room, epoch="e", seq=1)
        assert len({command.room for command in peer.commands}) == 102
        async with beside(partial(peer.answer, data=1)):
            await client.info()
        assert len(client.rooms) == 102
