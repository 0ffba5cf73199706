"""Suspicious addresses: counted, logged once for each window, refused for a time where that is wanted."""

from __future__ import annotations

from typing import Any

import pytest
import structlog.testing
import trio

from gateway.app import Gateway
from gateway.config.settings import SuspicionSettings
from gateway.limits import suspicion
from gateway.limits.suspicion import Suspicion
from protocol.errors import ErrorCode as E
from tests.rest.api import asking, problem
from tests.support import connected, running_gateway, until, url
from tests.upgrade import Answer, knock

PATTERNS = ["failed_logins", "connections", "refused_joins"]
OFF: dict[str, Any] = dict.fromkeys(PATTERNS, 0)


def watching(ban: float = 0.0, logins: float = 0.0, **bounds: int) -> Suspicion:
    settings = SuspicionSettings(window=60.0, ban=ban, **{**OFF, **bounds})
    return Suspicion(settings, failed_logins_per_ip=logins, burst=5.0)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pattern_is_logged_once_for_each_window(pattern: Any) -> None:
    watch = watching(**{pattern: 10})
    with structlog.testing.capture_logs() as logs:
        for _ in range(9):
            watch.note(pattern, "1.2.3.4", 0.0)
        assert logs == []
        for _ in range(500):
            watch.note(pattern, "1.2.3.4", 30.0)
            watch.note(pattern, "5.6.7.8", 30.0)
        assert [(line["ip"], line["pattern"], line["count"]) for line in logs] == [
            ("1.2.3.4", pattern, 10),
            ("5.6.7.8", pattern, 10),
        ]
        for _ in range(500):
            watch.note(pattern, "1.2.3.4", 61.0)
    assert watch.reports == len(logs) == 3
    assert watch.bans == 0 and watch.blocked("1.2.3.4", 61.0) == 0.0, "without a ban nobody is refused"


def test_what_is_spread_over_windows_is_not_suspicious() -> None:
    watch = watching(refused_joins=10)
    for minute in range(100):
        for _ in range(9):
            watch.note("refused_joins", "1.2.3.4", minute * 61.0)
    assert watch.reports == 0


def test_a_ban_lasts_as_long_as_it_says_and_is_of_one_address() -> None:
    watch = watching(ban=600.0, connections=3)
    for _ in range(3):
        watch.note("connections", "1.2.3.4", 100.0)
    assert watch.bans == 1
    assert watch.blocked("1.2.3.4", 100.0) == 600.0
    assert watch.blocked("5.6.7.8", 100.0) == 0.0
    watch.note("connections", "1.2.3.4", 300.0)  # in another window
    assert watch.blocked("1.2.3.4", 699.0) == 1.0
    assert watch.blocked("1.2.3.4", 700.0) == 0.0


def test_the_addresses_are_bounded_and_a_ban_outlives_a_flood_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspicion, "_MAX_ADDRESSES", 100)
    watch = watching(ban=600.0, connections=3)
    for _ in range(3):
        watch.note("connections", "1.2.3.4", 0.0)
    for number in range(1000):
        watch.note("connections", f"10.0.{number // 256}.{number % 256}", 1.0)
        assert len(watch) <= 100
    assert watch.blocked("1.2.3.4", 2.0) > 0


# --- at the door ------------------------------------------------------------------------------------------


async def bad_upgrade(gateway: Gateway) -> None:
    assert (await knock(gateway, "/ws?token=a.b.c")).status == 401


async def bad_request(gateway: Gateway) -> None:
    async with asking(gateway) as ask:
        problem(await ask.get("/stats", token="a.b.c"), 401, E.UNAUTHENTICATED)


async def bad_auth(gateway: Gateway) -> None:
    async with trio.open_nursery():
        from tests.session.test_admission import opened

        async with opened(url(gateway)) as client:
            assert (await client.ask("auth", data={"token": "a.b.c"})).code == E.UNAUTHENTICATED


async def bad_refresh(gateway: Gateway) -> None:
    async with connected(gateway) as client:
        assert (await client.ask("refresh", data={"token": "a.b.c"})).code == E.UNAUTHENTICATED


@pytest.mark.parametrize("attempt", [bad_upgrade, bad_request, bad_auth, bad_refresh])
async def test_failed_logins_count_wherever_they_are_made(attempt: Any) -> None:
    settings: dict[str, Any] = {
        "suspicion": {**OFF, "failed_logins": 3, "ban": 600.0},
        "auth": {"in_band": True},
    }
    async with running_gateway(**settings) as gateway:
        token = gateway.auth.issue(org="acme", user="alice").token
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                await attempt(gateway)
        assert [line["pattern"] for line in logs if line["event"] == "suspicious address"] == [
            "failed_logins"
        ]
        # From here on a good token is not even looked at, on no way in.
        refused = await knock(gateway, f"/ws?token={token}")
        assert (refused.status, refused.problem["code"]) == (429, E.RATE_LIMITED)
        assert 590 < int(refused.headers["retry-after"]) <= 600
        async with asking(gateway) as ask:
            answer = await ask.get("/stats")
            problem(answer, 429, E.RATE_LIMITED)
            assert 590 < int(answer.headers["Retry-After"]) <= 600

        async def elsewhere() -> Answer:
            stream = await trio.open_tcp_stream("127.0.0.1", gateway.port, local_address="127.0.0.2")
            return await knock(gateway, f"/ws?token={token}", stream=stream)

        assert (await elsewhere()).status == 101, "other addresses are not meant"


async def test_the_rate_of_failed_logins_holds_over_http_too() -> None:
    async with running_gateway(rates={"failed_logins_per_ip": 0.01, "burst": 500.0}) as gateway:
        async with asking(gateway) as ask:
            statuses = [(await ask.get("/stats", token="a.b.c")).status_code for _ in range(8)]
            assert statuses == [401] * 5 + [429] * 3
            problem(await ask.get("/stats"), 429, E.RATE_LIMITED)


async def test_refused_joins_are_counted(gateway: Gateway) -> None:
    settings: dict[str, Any] = {"suspicion": {**OFF, "refused_joins": 5, "ban": 600.0}}
    async with running_gateway(**settings) as gateway:
        async with connected(gateway, rooms={"mine": ["join"]}) as client:
            for number in range(5):
                assert gateway.guard.suspicion.reports == 0
                assert (await client.ask("join", room=f"other{number}")).code == E.FORBIDDEN
                assert (await client.ask("join", room="mine")).t == "reply"
            assert gateway.guard.suspicion.reports == 1
            # Who is in stays in; it is the next connection that is refused.
            assert (await client.ask("ping")).t == "pong"
        refused = await knock(gateway, f"/ws?token={gateway.auth.issue(org='acme', user='alice').token}")
        assert refused.status == 429


async def test_connections_that_come_and_go_are_counted() -> None:
    settings: dict[str, Any] = {"suspicion": {**OFF, "connections": 6, "ban": 600.0}}
    async with running_gateway(**settings) as gateway:
        for _ in range(5):
            async with connected(gateway):
                pass
        await until(lambda: not gateway.hub.connections)
        assert gateway.guard.suspicion.reports == 0
        async with connected(gateway):
            pass
        assert (gateway.guard.suspicion.reports, gateway.guard.suspicion.bans) == (1, 1)
        assert (await knock(gateway, "/ws")).status == 429
