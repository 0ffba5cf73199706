"""Revocations and tickets over several nodes."""

from __future__ import annotations

import time

import httpx
import pytest
import trio
from websockets.exceptions import InvalidStatus
from websockets.trio.client import connect

from gateway.app import Gateway
from tests.cluster.test_control import closed
from tests.cluster.together import client, request, rest, together
from tests.redis_server import RedisServer
from tests.support import DEADLINE, start_gateway, until

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


async def refused(node: Gateway, query: str) -> tuple[int, int]:
    """Status and code with which the upgrade is refused."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{node.port}/ws?{query}", headers=UPGRADE)
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("what", ["jti", "user", "org"])
async def test_a_revocation_holds_on_every_node_at_once(shared_redis: RedisServer, what: str) -> None:
    async with together(shared_redis, "n1", "n2", cluster={"lease": 300.0}) as (n1, n2):  # long before a beat
        issued = n2.auth.issue(org="acme", user="alice")
        kept = n2.auth.issue(org="acme", user="bob").token
        other = n2.auth.issue(org="other", user="alice").token
        async with (
            client(n1, token=issued.token) as one,
            client(n2, token=issued.token) as two,
            client(n2, token=kept) as bob,
            client(n2, token=other) as eve,
        ):
            body = (
                {"jti": issued.jti}
                if what == "jti"
                else {"user": "alice"}
                if what == "user"
                else {"org": "acme"}
            )
            with trio.fail_after(DEADLINE):
                answer = await rest(n1, "/auth/revoke", body)
            assert answer == {"closed": 3 if what == "org" else 2}
            for each in (one, two):
                assert await closed(each) == 1008
            if what == "org":
                assert await closed(bob) == 1008
            else:
                await bob.quiet()
            await eve.quiet()
        for node in (n1, n2):
            assert await refused(node, f"token={issued.token}") == (401, 203)
        async with client(n1, token=n1.auth.issue(org="acme", user="alice").token):
            pass


async def test_a_node_that_starts_later_knows_what_was_revoked(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1") as (n1,), trio.open_nursery() as nursery:
        tokens = [n1.auth.issue(org="acme", user=f"u{number}") for number in range(3)]
        await rest(n1, "/auth/revoke", {"jti": tokens[0].jti})
        await rest(n1, "/auth/revoke", {"user": "u1"})
        n2 = await start_gateway(
            nursery, node="n2", broker=n1.settings.broker, redis={"prefix": n1.settings.redis.prefix}
        )
        for token in tokens[:2]:
            assert await refused(n2, f"token={token.token}") == (401, 203)
        async with client(n2, token=tokens[2].token):
            pass
        nursery.cancel_scope.cancel()


async def test_a_revocation_that_a_node_did_not_hear_comes_with_the_next_beat(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with together(shared_redis, "n1", "n2", cluster={"lease": 2.0, "answer_timeout": 0.3}) as (n1, n2):
        issued = n2.auth.issue(org="acme", user="alice")
        async with client(n2, token=issued.token) as alice:
            deaf = n2.cluster.rpc  # type: ignore[attr-defined]
            monkeypatch.setattr(deaf.answering, "take", lambda message, size: None)
            monkeypatch.setattr(deaf, "_hurried", lambda: None)
            await rest(n1, "/auth/revoke", {"user": "alice"})
            assert await closed(alice) == 1008


AN_HOUR_AGO = """
for _, each in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  redis.call('ZINCRBY', KEYS[1], 3600000, each)
end
"""
"""What is kept looks as if the clock had been set back by an hour since."""


async def test_a_revocation_is_learned_after_the_clock_of_redis_was_set_back(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with together(shared_redis, "n1", "n2", cluster={"lease": 2.0, "answer_timeout": 0.3}) as (n1, n2):
        issued = n2.auth.issue(org="acme", user="alice")
        async with client(n2, token=issued.token) as alice:
            await rest(n1, "/auth/revoke", {"user": "bob"})
            kept = n1.broker.client.key("revoked", "cluster")  # type: ignore[attr-defined]
            await shared_redis.ask("EVAL", AN_HOUR_AGO, 1, kept)
            membership = n2.cluster.membership  # type: ignore[attr-defined]
            await until(lambda: membership._cursor > (time.time() + 1800) * 1000, "the node has seen that")
            deaf = n2.cluster.rpc  # type: ignore[attr-defined]
            monkeypatch.setattr(deaf.answering, "take", lambda message, size: None)
            monkeypatch.setattr(deaf, "_hurried", lambda: None)
            await rest(n1, "/auth/revoke", {"user": "alice"})
            assert await closed(alice) == 1008


async def test_a_ticket_is_good_once_on_whichever_node(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        claims = {"user": "alice", "roles": [], "rooms": {"a*": ["join"]}}
        ticket = (await rest(n1, "/auth/ticket", {}, **claims))["ticket"]
        statuses = []

        async def redeem(node: Gateway) -> None:
            try:
                async with connect(f"ws://127.0.0.1:{node.port}/ws?ticket={ticket}", open_timeout=60):
                    statuses.append(101)
            except InvalidStatus as error:
                statuses.append(error.response.status_code)

        async with trio.open_nursery() as nursery:
            for node in (n1, n2) * 4:
                nursery.start_soon(redeem, node)
        assert sorted(statuses) == [101] + [401] * 7

        ticket = (await rest(n1, "/auth/ticket", {}, **claims))["ticket"]
        async with connect(f"ws://127.0.0.1:{n2.port}/ws?ticket={ticket}", open_timeout=60) as socket:
            assert '"user":"alice"' in str(await socket.recv())
            await socket.send('{"v":1,"t":"join","id":1,"room":"b"}')
            assert '"code":202' in str(await socket.recv())


async def test_a_ticket_is_good_for_its_time_only(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", auth={"ticket_ttl": 0.3}) as (n1, n2):
        late = (await rest(n1, "/auth/ticket", {}))["ticket"]
        with trio.fail_after(DEADLINE):
            while await shared_redis.ask(  # noqa: ASYNC110 - Redis tells nobody
                "KEYS", f"{n1.settings.redis.prefix}:ticket:*"
            ):
                await trio.sleep(0.02)
        assert await refused(n2, f"ticket={late}") == (401, 200)


async def test_a_ticket_is_not_better_than_its_token(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2") as (n1, n2):
        ticket = (await rest(n1, "/auth/ticket", {}, user="alice", roles=[]))["ticket"]
        await rest(n2, "/auth/revoke", {"user": "alice"})
        assert await refused(n2, f"ticket={ticket}") == (401, 203)


async def test_revocations_and_tickets_are_bounded(shared_redis: RedisServer) -> None:
    async with together(shared_redis, "n1", "n2", auth={"max_revocations": 2, "max_tickets": 2}) as (n1, n2):
        for number in range(2):
            await rest(n1, "/auth/revoke", {"jti": f"t{number}"})
            await rest(n1, "/auth/ticket", {})
        for node in (n1, n2):
            answer = await request(node, "/auth/revoke", {"jti": "one too many"})
            assert (answer.status_code, answer.json()["code"]) == (503, 301)
        assert (await rest(n2, "/auth/revoke", {"jti": "t0"}))["closed"] == 0
        answer = await request(n1, "/auth/ticket", {})
        assert (answer.status_code, answer.json()["code"]) == (503, 301)
        assert answer.json()["retry_after"] <= 30
        # That was one organisation's share: another has its own.
        await rest(n1, "/auth/ticket", {}, org="other")
        await rest(n1, "/auth/revoke", {"jti": "t0"}, org="other")
        await rest(n2, "/auth/revoke", {"jti": "t1"}, org="other")
