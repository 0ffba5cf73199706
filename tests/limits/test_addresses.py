"""Whose address counts behind proxies, and that nobody can choose one."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from gateway.limits.addresses import Addresses
from protocol.errors import ErrorCode as E
from tests.rest.api import asking, problem
from tests.support import connected, running_gateway
from tests.upgrade import Answer, knock

PROXY, CLIENT, OTHER = "10.0.0.1", "203.0.113.7", "203.0.113.8"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        (PROXY, CLIENT, CLIENT),
        (PROXY, f" {CLIENT} ", CLIENT),
        (PROXY, f"{OTHER}, {CLIENT}", CLIENT),
        (PROXY, f"{OTHER}, {CLIENT}, 10.0.0.2", CLIENT),
        (PROXY, f"10.0.0.9, {CLIENT}", CLIENT),
        (PROXY, "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (PROXY, "", PROXY),
        (PROXY, "unknown", PROXY),
        (PROXY, f"{CLIENT}, rubbish", PROXY),
        (PROXY, f"rubbish, {CLIENT}", CLIENT),
        (PROXY, "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", CLIENT, CLIENT),
        ("fd00::1", CLIENT, CLIENT),
        ("fd00::2", CLIENT, "fd00::2"),
        (PROXY, f"{CLIENT}:51234", CLIENT),
        (PROXY, "[2001:db8::7]:443", "2001:db8::7"),
        (PROXY, "[2001:db8::7]", "2001:db8::7"),
        (PROXY, '"[2001:db8::7]:443"', "2001:db8::7"),
        (PROXY, f"{CLIENT}:5000, 10.0.0.9:6000", CLIENT),
        (PROXY, f"{CLIENT}:port", PROXY),
        (PROXY, "[2001:db8::7", PROXY),
        (CLIENT, OTHER, CLIENT),
        ("memory", OTHER, "memory"),
    ],
)
def test_the_first_from_the_right_that_is_not_trusted(peer: str, forwarded: str, client: str) -> None:
    assert Addresses(["10.0.0.0/8", "fd00::1"]).client(peer, forwarded) == client


def test_nobody_is_trusted_by_default() -> None:
    assert Addresses([]).client(PROXY, CLIENT) == PROXY


async def test_limits_by_address_hold_behind_a_proxy() -> None:
    settings: dict[str, Any] = {
        "trusted_proxies": ["127.0.0.1"],
        "rates": {"failed_logins_per_ip": 0.01, "burst": 300.0},
    }
    async with running_gateway(**settings) as gateway, asking(gateway) as ask:
        good = gateway.auth.issue(org="acme", user="alice").token

        async def come(token: str, forwarded: str, address: str = "127.0.0.1") -> Answer:
            stream = await trio.open_tcp_stream("127.0.0.1", gateway.port, local_address=address)
            headers = [("X-Forwarded-For", forwarded)]
            return await knock(gateway, f"/ws?token={token}", headers=headers, stream=stream)

        for number in range(2):
            # Whatever an attacker puts in front of it does not help.
            assert (await come("a.b.c", f"198.51.100.{number}, {CLIENT}")).status == 401
        headers = {"X-Forwarded-For": CLIENT}
        problem(await ask.get("/stats", token="a.b.c", headers=headers), 401, E.UNAUTHENTICATED)
        assert (await come(good, CLIENT)).status == 429
        problem(await ask.get("/stats", headers=headers), 429, E.RATE_LIMITED)
        assert (await come(good, OTHER)).status == 101
        assert (await ask.get("/stats", headers={"X-Forwarded-For": OTHER})).status_code == 200
        # Who comes past the proxy is not believed.
        for _ in range(3):
            assert (await come("a.b.c", OTHER, "127.0.0.2")).status == 401
        assert (await come(good, OTHER, "127.0.0.2")).status == 429
        assert (await come(good, OTHER)).status == 101
        # And what is shown of a connection is the client's address as well.
        async with connected(gateway) as direct:
            assert (await direct.ask("info")).data["ip"] == "127.0.0.1"
