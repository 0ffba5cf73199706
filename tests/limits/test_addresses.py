"""Whose address counts behind proxies, and that nobody can choose one."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

from gateway.limits.addresses import Addresses
from gateway.networks import network_of
from protocol.errors import ErrorCode as E
from tests.rest.api import asking, problem
from tests.support import connected, running_gateway, until
from tests.upgrade import Answer, knock, request_head
from tests.wire.support import read_head

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


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        (CLIENT, CLIENT),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"64:ff9b::{CLIENT}", CLIENT),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:1:2:3", "2001:db8:1:2::/64"),
        ("2001:0DB8:0001:0002::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::7", "2001:db8:1:3::/64"),
        ("fe80::7%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("memory", "memory"),
        ("rub:bish", "rub:bish"),
    ],
)
def test_what_an_address_counts_as(address: str, counts_as: str) -> None:
    assert network_of(address) == counts_as


V6 = "2001:db8:1:2::"
BY_ADDRESS: dict[str, dict[str, Any]] = {
    "failed logins": {"rates": {"failed_logins_per_ip": 0.01, "burst": 300.0}},
    "new connections": {"rates": {"connections_per_ip": 0.01, "burst": 300.0}},
    "open connections": {"limits": {"connections_per_ip": 3}},
    "bans": {"suspicion": {"connections": 3, "ban": 60.0}},
}


@pytest.mark.parametrize("bounds", BY_ADDRESS.values(), ids=BY_ADDRESS)
async def test_limits_by_address_are_of_a_network_of_ipv6(bounds: dict[str, Any]) -> None:
    """A peer that comes from another address of its network each time is still one."""
    async with running_gateway(trusted_proxies=["127.0.0.1"], **bounds) as gateway:
        bad = "failed_logins_per_ip" in bounds.get("rates", {})
        good = gateway.auth.issue(org="acme", user="alice").token
        async with contextlib.AsyncExitStack() as opened:

            async def come(token: str, address: str) -> int:
                stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
                opened.push_async_callback(trio.aclose_forcefully, stream)
                headers = [("X-Forwarded-For", address)]
                await stream.send_all(request_head(f"/ws?token={token}", headers=headers))
                head, _ = await read_head(stream)
                return int(head.split()[1])

            for number in range(3):
                assert await come("a.b.c" if bad else good, f"{V6}{number + 1}") == (401 if bad else 101)
            assert await come(good, f"{V6}ffff") in {429, 503}
            assert await come(good, "2001:db8:1:3::1") == 101
        await until(lambda: gateway.guard.census()["addresses"] == 0, "the end of the connections")


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
