"""Authentication by the first message, where ``auth.in_band`` allows it; on a virtual clock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.auth.tokens import Authenticator
from gateway.testing.node import Node, run_node
from protocol.codec import Codec
from protocol.errors import ErrorCode as E
from tests.support import Raw


@contextlib.asynccontextmanager
async def stranger(codec: Codec | None = None, **auth: Any) -> AsyncIterator[tuple[Node, Raw]]:
    """A gateway that authenticates in-band, and a client that has said nothing yet."""
    async with run_node(auth={"in_band": True, **auth}) as node:
        arguments: dict[str, Any] = {} if codec is None else {"codec": codec}
        async with node.raw(resource="/ws", greet=False, **arguments) as client:
            yield node, client


async def assert_refused(node: Node, client: Raw, reason: str) -> None:
    """``closing`` and Close with 1008 and a reason; nobody was let in."""
    close = await client.closed()
    assert close.code == 1008 and reason in (close.reason or ""), close
    closing = client.events[-1]
    assert (closing.t, closing.code, closing.message) == ("closing", 1008, close.reason)
    assert closing.data == {"reconnect": False}
    assert node.gateway.hub.counters.connects == 0 and not node.gateway.hub.organisations


async def test_auth_is_answered_with_connected(clock: MockClock, codec: Codec) -> None:
    async with stranger(codec) as (node, client):
        token = node.token()
        answer = await client.ask("auth", data={"token": token})
        assert (answer.t, answer.data["org"], answer.data["user"]) == ("connected", "acme", "alice")
        assert (await client.ask("info")).data["connection"] == answer.data["connection"]
        await trio.sleep(20)
        assert (await client.ask("ping")).t == "pong", "the time for auth no longer counts"


async def test_few_values_are_read_before_the_sender_is_known(clock: MockClock, codec: Codec) -> None:
    async with stranger(codec) as (node, client):
        token = node.token()
        await client.send("auth", id=1, data={"token": token, "more": [{}] * 60})
        await assert_refused(node, client, "auth")
    async with stranger(codec) as (node, client):
        token = node.token()
        assert (await client.ask("auth", data={"token": token, "more": [{}] * 50})).t == "connected"
        assert (await client.ask("ping", data=[{}] * 8000)).t == "pong", "then as many as the greeting says"


async def test_auth_without_id_is_answered_all_the_same(clock: MockClock) -> None:
    async with stranger() as (node, client):
        await client.send("auth", data={"token": node.token(user=None)})
        answer = await client.receive()
        assert (answer.t, answer.id) == ("connected", None)


async def test_commands_may_follow_auth_at_once(clock: MockClock) -> None:
    async with stranger() as (node, client):
        await client.send("auth", id=1, data={"token": node.token(user=None)})
        await client.send("join", id=2, room="r")
        await client.send("publish", id=3, room="r", event="e")
        answers = [await client.receive() for _ in range(4)]
        assert [answer.t for answer in answers] == ["connected", "reply", "event", "reply"]


async def test_silence_is_closed_after_five_seconds(clock: MockClock, codec: Codec) -> None:
    async with stranger(codec) as (node, client):
        begun = trio.current_time()
        await assert_refused(node, client, "auth")
        assert trio.current_time() - begun == pytest.approx(5.0, abs=0.01)


async def test_the_time_for_auth_is_a_setting(clock: MockClock) -> None:
    async with stranger(in_band_timeout=1.5) as (node, client):
        begun = trio.current_time()
        await client.socket.ping()  # no message
        await assert_refused(node, client, "auth")
        assert trio.current_time() - begun == pytest.approx(1.5, abs=0.01)


@pytest.mark.parametrize(
    "first",
    [
        {"t": "ping"},
        {"t": "join", "room": "r"},
        {"t": "refresh", "data": {"token": "x"}},
        {"t": "connected"},
        {"t": "event", "event": "e"},
    ],
    ids=lambda first: first["t"],
)
async def test_another_first_message_closes(clock: MockClock, codec: Codec, first: dict[str, Any]) -> None:
    async with stranger(codec) as (node, client):
        await client.send(**first)
        await assert_refused(node, client, "auth")
        assert trio.current_time() < 1, "not only when the time for auth is over"


@pytest.mark.parametrize(
    "first", ['{"v":1}', '{"v":1,"t":"nothing"}', '{"v":2,"t":"auth"}', '{"v":1,"t":"auth","id":-1}']
)
async def test_an_invalid_first_message_closes(clock: MockClock, first: str) -> None:
    async with stranger() as (node, client):
        await client.send_raw(first)
        await assert_refused(node, client, "")
        assert trio.current_time() < 1, "not only when the time for auth is over"


async def test_a_malformed_first_message_closes(clock: MockClock, codec: Codec) -> None:
    async with stranger(codec) as (node, client):
        await client.send_raw(b"\xff" if codec.binary else "{")
        assert (await client.closed()).code == 1007
        assert node.gateway.hub.counters.connects == 0


def expired(node: Node) -> str:
    past = Authenticator(node.gateway.settings.auth, now=lambda: time.time() - 7200)
    return past.issue(org="acme", ttl=60).token


@pytest.mark.parametrize("what", ["garbage", "none", "number", "no data", "expired", "revoked", "ticket"])
async def test_a_bad_token_closes_with_a_reason(clock: MockClock, codec: Codec, what: str) -> None:
    async with stranger(codec) as (node, client):
        good = node.gateway.auth.issue(org="acme", user="alice")
        data: Any = {"token": good.token}
        code = E.UNAUTHENTICATED
        match what:
            case "garbage":
                data = {"token": "a.b.c"}
            case "none":
                data, code = {}, E.MISSING_FIELD
            case "number":
                data, code = {"token": 5}, E.BAD_FIELD
            case "no data":
                data, code = None, E.MISSING_FIELD
            case "expired":
                data, code = {"token": expired(node)}, E.TOKEN_EXPIRED
            case "revoked":
                node.gateway.auth.revocations.revoke(jti=good.jti)
                code = E.TOKEN_REVOKED
            case "ticket":
                data = {"token": node.gateway.auth.tickets.issue(await node.gateway.auth.verify(good.token))}
        error = await client.ask("auth", data=data)
        assert (error.t, error.code) == ("error", code) and error.message
        await assert_refused(node, client, error.message)


async def test_nothing_is_heard_before_auth(clock: MockClock) -> None:
    async with stranger() as (node, client), node.raw(user="bob") as bob:
        await node.gateway.hub.publish("acme", None, "to:all")
        assert len(await bob.settled()) == 1
        assert node.gateway.hub.statistics.of("acme")["connections"] == 1
        answer = await client.ask("auth", data={"token": node.token(user=None)})
        assert answer.t == "connected" and client.events == []


async def test_a_token_in_the_address_needs_no_auth(clock: MockClock) -> None:
    async with run_node(auth={"in_band": True}) as node, node.raw() as alice:
        await trio.sleep(30)
        assert (await alice.ask("ping")).t == "pong"


async def test_who_is_refused_only_for_now_may_come_again(clock: MockClock) -> None:
    async with (
        run_node(auth={"in_band": True}, limits={"connections_per_user": 1}) as node,
        node.raw(),
        node.raw(resource="/ws", greet=False) as client,
    ):
        error = await client.ask("auth", data={"token": node.token()})
        assert (error.code, error.data) == (E.TOO_MANY_CONNECTIONS, {"retry_after": 1.0})
        assert (await client.closed()).code == 1013
        assert client.events[-1].data == {"reconnect": True, "retry_after": 1.0}


async def test_nothing_large_is_read_before_auth(clock: MockClock) -> None:
    async with stranger() as (node, client):
        await client.send("publish", room="r", event="e", data="x" * 100_000)
        assert (await client.closed()).code == 1009
        assert node.gateway.hub.counters.connects == 0


async def test_after_auth_messages_have_their_full_size(clock: MockClock) -> None:
    async with stranger() as (node, client):
        await client.ask("auth", data={"token": node.token(user=None)})
        await client.ask("join", room="r")
        assert (await client.ask("publish", room="r", event="e", data="x" * 100_000)).t == "reply"
