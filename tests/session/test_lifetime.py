"""How long a connection may last: its token, its refresh, its inactivity; on a virtual clock."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

from gateway.auth.tokens import Authenticator
from gateway.testing.node import Node, run_node
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import ErrorCode as E
from tests.support import Raw, until

LEEWAY = 5.0


def token(node: Node, ttl: float, org: str = "acme", user: str | None = "alice") -> str:
    return node.token(org=org, user=user, ttl=ttl)


async def end(client: Raw) -> tuple[int, Envelope]:
    """The close code and the message before it."""
    code = (await client.closed()).code
    assert client.events[-1].t == "closing"
    return code, client.events[-1]


async def test_an_expired_token_ends_the_connection(clock: MockClock, codec: Codec) -> None:
    async with run_node() as node:
        async with node.raw(token=token(node, 60), codec=codec) as alice:
            begun = trio.current_time()
            code, closing = await end(alice)
            assert code == closing.code == 1008
            assert closing.message == "the token has expired"
            assert closing.data == {"reconnect": False}
            # `exp` has whole seconds, rounded up.
            assert 60 + LEEWAY - 0.5 <= trio.current_time() - begun <= 61 + LEEWAY
        await until(lambda: not node.gateway.hub.connections)
        assert node.gateway.hub.counters.closes[1008] == 1


async def test_the_end_is_announced(clock: MockClock) -> None:
    async with (
        run_node(connection={"expiry_notice": 20.0}) as node,
        node.raw(token=token(node, 60)) as alice,
    ):
        notice = await alice.event()
        assert notice.event == "token:expiring"
        assert notice.data == {"expires": alice.greeting.data["expires"]}
        announced = trio.current_time()
        assert (await end(alice))[0] == 1008
        assert trio.current_time() - announced == pytest.approx(20 + LEEWAY, abs=0.5), "before the token ends"


async def test_refresh_prolongs(clock: MockClock, codec: Codec) -> None:
    async with (
        run_node() as node,
        node.raw(token=token(node, 60), codec=codec) as alice,
    ):
        await trio.sleep(50)
        fresh = node.gateway.auth.issue(org="acme", user="alice", ttl=100)
        reply = await alice.ask("refresh", data={"token": fresh.token})
        assert (reply.t, reply.data) == ("reply", {"expires": fresh.expires * 1000})
        assert (await alice.ask("info")).data["expires"] == fresh.expires * 1000
        refreshed = trio.current_time()
        assert (await end(alice))[0] == 1008
        assert 100 + LEEWAY - 1 <= trio.current_time() - refreshed <= 101 + LEEWAY


async def test_refresh_refuses_another_organisation_and_another_user(clock: MockClock, codec: Codec) -> None:
    async with (
        run_node() as node,
        node.raw(token=token(node, 60), codec=codec) as alice,
        node.raw(user=None, codec=codec) as nobody,
    ):
        for org, user in (("other", "alice"), ("acme", "bob"), ("acme", None)):
            refused = await alice.ask("refresh", data={"token": token(node, 600, org, user)})
            assert refused.code == E.WRONG_ORGANISATION
        assert (await nobody.ask("refresh", data={"token": token(node, 600)})).code == E.WRONG_ORGANISATION
        info = (await alice.ask("info")).data
        assert (info["org"], info["user"], info["expires"]) == (
            "acme",
            "alice",
            alice.greeting.data["expires"],
        )
        begun = trio.current_time()
        assert (await end(alice))[0] == 1008
        assert trio.current_time() - begun < 70, "the old token counts on"


async def test_refresh_refuses_tokens_that_are_not_good(clock: MockClock) -> None:
    async with run_node() as node, node.raw(token=token(node, 600)) as alice:
        past = Authenticator(node.gateway.settings.auth, now=lambda: time.time() - 7200)
        revoked = node.gateway.auth.issue(org="acme", user="alice", ttl=900)
        node.gateway.auth.revocations.revoke(jti=revoked.jti)
        for bad, code in (
            ("x.y.z", E.UNAUTHENTICATED),
            (past.issue(org="acme", user="alice", ttl=60).token, E.TOKEN_EXPIRED),
            (revoked.token, E.TOKEN_REVOKED),
            (token(node, 60), E.BAD_FIELD),  # ends before the present one
        ):
            assert (await alice.ask("refresh", data={"token": bad})).code == code
        assert (await alice.ask("info")).data["expires"] == alice.greeting.data["expires"]


async def test_refresh_changes_what_is_permitted(clock: MockClock, codec: Codec) -> None:
    async with run_node() as node, node.raw(codec=codec) as alice, node.raw() as bob:
        for room in ("chat:1", "secret:1"):
            await alice.ask("join", room=room)
        await alice.ask("typing", room="secret:1")
        less = node.gateway.auth.issue(org="acme", user="alice", rooms={"chat:*": ["join"]}, ttl=7200)
        reply = await alice.ask("refresh", data={"token": less.token})
        assert reply.data == {"expires": less.expires * 1000, "left": ["secret:1"]}
        assert (await alice.ask("publish", room="chat:1", event="e")).code == E.FORBIDDEN
        assert (await alice.ask("join", room="secret:1")).code == E.FORBIDDEN
        for room in ("chat:1", "secret:1"):
            await bob.ask("publish", room=room, event="e")
        assert [event.room for event in await alice.settled()] == ["chat:1"]
        assert [room["room"] for room in (await alice.ask("info")).data["rooms"]] == ["chat:1"]
        more = node.gateway.auth.issue(org="acme", user="alice", roles=["service"], ttl=7300)
        assert (await alice.ask("refresh", data={"token": more.token})).data == {
            "expires": more.expires * 1000
        }
        assert (await alice.ask("publish", event="to:all")).t == "reply"


async def test_inactivity_closes(clock: MockClock, codec: Codec) -> None:
    async with run_node(connection={"inactivity": 10.0, "heartbeat": 3.0}) as node:
        async with node.raw(codec=codec) as alice, node.raw(user="bob") as bob:
            begun = trio.current_time()
            for _ in range(5):
                await trio.sleep(8)
                assert (await alice.ask("ping")).t == "pong"
            # Bob only answered the heartbeat and heard events, which is no activity of his.
            code, closing = await end(bob)
            assert (code, closing.code, closing.data["reconnect"]) == (4002, 4002, True)
            assert "10 seconds" in (closing.message or "")
            code, _ = await end(alice)
            assert code == 4002
            assert trio.current_time() - begun == pytest.approx(50, abs=0.1)


async def test_inactivity_counts_from_the_last_command(clock: MockClock) -> None:
    async with run_node(connection={"inactivity": 10.0}) as node, node.raw() as alice:
        begun = trio.current_time()
        await trio.sleep(9)
        await alice.send("ping")
        await alice.receive()
        assert (await end(alice))[0] == 4002
        assert trio.current_time() - begun == pytest.approx(19, abs=0.1)


async def test_without_the_setting_nobody_is_inactive(clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        await trio.sleep(500)
        assert (await alice.ask("ping")).t == "pong"


async def test_a_long_call_is_no_missed_heartbeat(clock: MockClock) -> None:
    """A connection that only waits for an answer is alive."""

    async def slow(*_: object) -> None:
        await trio.sleep(60)

    async with run_node(connection={"heartbeat": 2.0, "command_timeout": 100.0}) as node:
        node.gateway.handle_call("slow", slow)
        async with node.raw() as alice:
            await alice.send("call", id=1, event="slow")
            answer = await alice.receive()
            assert (answer.t, answer.id) == ("reply", 1)
            await trio.sleep(30)
            assert (await alice.ask("ping")).t == "pong"
