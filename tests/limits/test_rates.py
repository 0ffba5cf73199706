"""Rates of commands, bytes, joins and connections, by connection, user, organisation and address."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.app import Gateway
from gateway.testing.node import run_node
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import ErrorCode as E
from tests.rest.api import asking, problem
from tests.support import Raw, connected, running_gateway, until
from tests.upgrade import Answer, knock

PAD = "x" * 500
COMMANDS: dict[str, tuple[float, tuple[str, dict[str, Any]]]] = {
    "commands": (5.0, ("ping", {})),
    "bytes": (3000.0, ("ping", {"data": PAD})),
    "joins": (5.0, ("join", {"room": "r"})),
}
"""What is limited → a rate that lets about ten through at once, and the command that draws from it."""

SUBJECTS = ["connection", "user", "organisation", "ip"]
OTHERS = {
    "connection": {"user": "alice"},
    "user": {"user": "bob"},
    "organisation": {"org": "globex"},
}
"""Whose limit it is → somebody who has one of its own, however near."""


async def use_up(client: Raw, what: str) -> tuple[int, Envelope]:
    """Go on until a command is refused; returns how many were not, and the refusal."""
    kind, fields = COMMANDS[what][1]
    for count in range(100):
        answer = await client.ask(kind, **fields)
        if answer.t == "error":
            return count, answer
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize("whose", SUBJECTS)
@pytest.mark.parametrize("what", COMMANDS)
async def test_over_a_rate_there_is_an_error_that_says_when_to_come_again(
    clock: MockClock, what: str, whose: str, codec: Codec
) -> None:
    rate, (kind, fields) = COMMANDS[what]
    rates = {"burst": 2.0, f"{what}_per_{whose}": rate}
    async with run_node(rates=rates) as node, contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(node.raw(codec=codec))
        passed, refused = await use_up(client, what)
        assert 9 <= passed <= 12
        assert (refused.code, refused.room) == (E.RATE_LIMITED, fields.get("room"))
        wait = refused.data["retry_after"]
        assert 0 < wait <= 0.3
        assert (await client.ask(kind, **fields)).code == E.RATE_LIMITED
        await trio.sleep(wait + 0.001)
        assert (await client.ask(kind, **fields)).code is None
        if what == "joins":
            assert (await client.ask("ping")).t == "pong", "other commands are not joins"
        if whose in OTHERS:
            other = await stack.enter_async_context(node.raw(codec=codec, **OTHERS[whose]))
            assert (await client.ask(kind, **fields)).code == E.RATE_LIMITED
            assert (await other.ask(kind, **fields)).code is None
        if whose != "connection":
            # A second connection draws from the same bucket.
            second = await stack.enter_async_context(node.raw(codec=codec))
            while (await client.ask(kind, **fields)).code is None:
                pass
            assert (await second.ask(kind, **fields)).code == E.RATE_LIMITED
        await trio.sleep(60)
        assert (await use_up(client, what))[0] == passed, "after a pause the whole burst is there again"


async def test_addresses_have_buckets_of_their_own() -> None:
    """Over sockets of two loopback addresses."""
    async with running_gateway(rates={"connections_per_ip": 0.01, "burst": 200.0}) as gateway:
        token = gateway.auth.issue(org="acme", user="alice").token

        async def ask(address: str) -> Answer:
            stream = await trio.open_tcp_stream("127.0.0.1", gateway.port, local_address=address)
            return await knock(gateway, f"/ws?token={token}", stream=stream)

        assert [(await ask("127.0.0.1")).status for _ in range(2)] == [101, 101]
        refused = await ask("127.0.0.1")
        assert (refused.status, refused.problem["code"]) == (429, E.RATE_LIMITED)
        assert 0 < int(refused.headers["retry-after"]) <= 100
        assert (await ask("127.0.0.2")).status == 101


@pytest.mark.parametrize("whose", ["user", "organisation", "ip"])
async def test_new_connections_are_limited(whose: str) -> None:
    async with running_gateway(rates={f"connections_per_{whose}": 0.01, "burst": 300.0}) as gateway:

        async def ask(org: str, user: str) -> Answer:
            return await knock(gateway, f"/ws?token={gateway.auth.issue(org=org, user=user).token}")

        assert [(await ask("acme", "alice")).status for _ in range(3)] == [101] * 3
        refused = await ask("acme", "alice")
        assert (refused.status, refused.problem["code"]) == (429, E.RATE_LIMITED)
        assert refused.problem["retry_after"] > 0 and "retry-after" in refused.headers
        assert (await ask("acme", "bob")).status == (101 if whose == "user" else 429)
        assert (await ask("globex", "alice")).status == (429 if whose == "ip" else 101)


@pytest.mark.parametrize("whose", ["user", "organisation", "ip"])
async def test_open_connections_are_limited(whose: str) -> None:
    async with running_gateway(limits={f"connections_per_{whose}": 2}) as gateway:
        token = gateway.auth.issue(org="acme", user="alice").token
        async with connected(gateway), connected(gateway):
            refused = await knock(gateway, f"/ws?token={token}")
            assert (refused.status, refused.problem["code"]) == (503, E.TOO_MANY_CONNECTIONS)
            assert refused.headers["retry-after"] == "1"
        await until(lambda: not gateway.hub.connections)
        async with connected(gateway):
            pass


async def test_who_does_not_listen_is_closed(clock: MockClock) -> None:
    async with run_node(rates={"burst": 1.0, "commands_per_connection": 10.0, "abuse_after": 30}) as node:
        async with node.raw() as rude, node.raw(user="bob") as polite:
            for number in range(100):
                await rude.send("ping", id=number)
            reason = await rude.closed()
            assert reason.code == 4501
            refused = [answer for answer in rude.events if answer.code == E.RATE_LIMITED]
            assert len(refused) == 30, "and the next one closes"
            closing = next(answer for answer in rude.events if answer.t == "closing")
            assert closing.data["reconnect"] is False
            # Somebody who waits as long as told may use up what there is again and again, and stays.
            refusals = 0
            for _ in range(300):
                answer = await polite.ask("ping")
                if answer.code == E.RATE_LIMITED:
                    refusals += 1
                    await trio.sleep(answer.data["retry_after"])
            assert refusals > 100


async def test_without_rates_nothing_is_counted(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        (session,) = gateway.sessions
        assert session._limiter is None
        for _ in range(500):
            assert (await alice.ask("ping")).t == "pong"


# --- over HTTP ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["user", "organisation", "ip"])
@pytest.mark.parametrize("what", ["commands", "bytes"])
async def test_requests_draw_from_the_same_buckets(what: str, whose: str) -> None:
    rates = {"burst": 1000.0, f"{what}_per_{whose}": {"commands": 0.01, "bytes": 1.0}[what]}
    async with running_gateway(rates=rates) as gateway:
        async with asking(gateway) as ask:
            body = {"room": "r", "event": "e", "data": PAD if what == "bytes" else None}
            answers = [await ask.post("/broadcast", body) for _ in range(11)]
            statuses = [answer.status_code for answer in answers]
            passed = statuses.index(429)
            assert statuses == [200] * passed + [429] * (11 - passed)
            assert passed == (10 if what == "commands" else 1)
            problem(answers[-1], 429, 300)
            assert int(answers[-1].headers["Retry-After"]) >= 1
            # The same user, by WebSocket: its commands have used up what there is as well.
            if whose != "ip":
                async with connected(gateway, user="backend", roles=["service"]) as client:
                    assert (await client.ask("ping", data=PAD)).code == E.RATE_LIMITED
            other = {"user": {"user": "bob"}, "organisation": {"org": "globex"}}.get(whose)
            if other is not None:
                assert (await ask.get("/stats", claims=other)).status_code == 200


async def test_each_operation_of_a_batch_counts() -> None:
    async with running_gateway(rates={"burst": 1000.0, "commands_per_user": 0.01}) as gateway:
        async with asking(gateway) as ask:
            operations = [{"op": "send", "user": "bob", "event": "e"}] * 20
            results = (await ask.post("/batch", {"operations": operations})).json()["results"]
            assert [each["status"] for each in results] == [200] * 9 + [429] * 11
            assert results[-1]["problem"]["retry_after"] > 0
