"""The commands that need no room: ping, info, stats, send, call, auth."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio_websocket
from trio.testing import MockClock

from gateway.app import Gateway
from gateway.calls.caller import Caller
from gateway.testing.node import run_node
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON
from tests.support import Raw, connected, greeted, running_gateway, url


async def test_connected_says_who_and_where(gateway: Gateway, codec: Codec) -> None:
    token = gateway.auth.issue(org="acme", user="alice", ttl=600)
    async with connected(gateway, codec=codec, token=token.token) as alice:
        greeting = alice.greeting
        assert greeting.id is None and greeting.ts is not None
        assert greeting.data.pop("resume")
        positions = greeting.data.pop("positions")
        assert {of: place["seq"] for of, place in positions.items()} == {"organisation": 0, "user": 0}
        assert greeting.data == {
            "connection": "test-1",
            "org": "acme",
            "user": "alice",
            "node": "test",
            "heartbeat": 30.0,
            "subprotocol": codec.subprotocol,
            "limits": {"message_bytes": 2**20, "rooms": 1000, "patterns": 64, "values": 8192},
            "expires": token.expires * 1000,
        }


async def test_ping_returns_its_data(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        pong = await alice.ask("ping", data={"any": ["thing", 1]})
        assert (pong.t, pong.data) == ("pong", {"any": ["thing", 1]})
        assert pong.ts is not None and pong.ts >= (alice.greeting.ts or 0)
        await alice.send("ping")
        silent = await alice.receive()
        assert (silent.t, silent.id, silent.data) == ("pong", None, None)


async def test_info_tells_all_of_the_own_connection(gateway: Gateway, codec: Codec) -> None:
    token = gateway.auth.issue(org="acme", user="alice", roles=["member"])
    async with trio_websocket.open_websocket_url(
        url(gateway, token.token, client="phone%207"),
        subprotocols=[codec.subprotocol],
        extra_headers=[(b"User-Agent", b"tests/1.0 \xe9\t" + b"x" * 300)],
    ) as socket:
        alice = await greeted(Raw(socket, codec))
        await alice.ask("join", room="chat:42", data={"events": ["b*", "a"]})
        await alice.ask("subscribe", data={"events": ["message:*"]})
        await alice.ask("unsubscribe", data={"events": ["message:x"]})
        info = (await alice.ask("info")).data
        assert info.pop("connected_at") <= info.pop("last_activity")
        assert info.pop("messages_out") >= 4
        assert info.pop("queue") == {"messages": 0, "bytes": 0}
        agent = info.pop("user_agent")
        assert agent.startswith("tests/1.0 ") and agent.endswith("x") and len(agent) <= 200
        assert "\t" not in agent
        assert info.pop("resume") == alice.greeting.data["resume"]
        assert info == {
            "connection": alice.greeting.data["connection"],
            "org": "acme",
            "user": "alice",
            "roles": ["member"],
            "node": "test",
            "ip": "127.0.0.1",
            "client_id": "phone 7",
            "transport": "websocket",
            "subprotocol": codec.subprotocol,
            "rooms": [{"room": "chat:42", "seq": 0, "events": ["a", "b*"], "acked": None}],
            "events": ["message:*"],
            "except": ["message:x"],
            "messages_in": 4,
            "expires": token.expires * 1000,
        }


async def test_messages_out_counts_messages(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        for _ in range(3):
            await alice.ask("ping")
        # The greeting and three pongs; neither the answer to the upgrade nor this reply.
        assert (await alice.ask("info")).data["messages_out"] == 4


async def test_stats_are_those_of_the_own_organisation(gateway: Gateway, codec: Codec) -> None:
    async with (
        connected(gateway, codec=codec) as alice,
        connected(gateway) as alice2,
        connected(gateway, user="bob") as bob,
        connected(gateway, org="other", user="eve") as eve,
    ):
        for client in (alice, alice2, bob, eve):
            await client.ask("join", room="chat:42")
        async with connected(gateway, user="carol") as carol:
            await carol.ask("join", room="gone")
        stats = (await alice.ask("stats")).data
        assert stats.pop("uptime") >= 0
        for direction in ("in", "out"):
            assert stats.pop(f"messages_{direction}") >= 5
            assert stats.pop(f"bytes_{direction}") >= 100
        assert stats["connections"] in (3, 4), "carol's connection may end a little later"
        stats.pop("connections")
        stats.pop("disconnections_total")
        stats["rooms"].pop("gone", None)
        stats.pop("users")
        whole = stats.pop("cluster")
        assert (whole["nodes"][0]["node"], whole["missing"], whole["rooms"]["chat:42"]) == ("test", [], 3)
        assert stats == {"node": "test", "org": "acme", "connections_total": 4, "rooms": {"chat:42": 3}}
        assert (await eve.ask("stats")).data["connections_total"] == 1


async def test_stats_show_only_rooms_whose_presence_may_be_seen(gateway: Gateway) -> None:
    rooms = {"*": ["join"], "open:*": ["presence"]}
    async with connected(gateway) as alice, connected(gateway, user="bob", rooms=rooms) as bob:
        for room in ("secret:plan", "open:hall"):
            await alice.ask("join", room=room)
        assert (await bob.ask("stats")).data["rooms"] == {"open:hall": 1}
        assert set((await alice.ask("stats")).data["rooms"]) == {"open:hall", "secret:plan"}


async def test_auth_again_is_refused(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        token = gateway.auth.issue(org="acme", user="bob").token
        assert (await alice.ask("auth", data={"token": token})).code == ErrorCode.BAD_FIELD
        assert (await alice.ask("info")).data["user"] == "alice"


# --- send -------------------------------------------------------------------------------------------


_SENDS = {"user:*": ["publish"], "connection:*": ["publish"]}


async def test_send_reaches_all_connections_of_a_user(gateway: Gateway, codec: Codec) -> None:
    other = JSON if codec is CBOR else CBOR
    async with (
        connected(gateway, codec=codec, rooms=_SENDS) as alice,
        connected(gateway, user="bob", codec=codec) as bob,
        connected(gateway, user="bob", codec=other) as bob2,
        connected(gateway, org="other", user="bob") as stranger,
        connected(gateway, user="carol") as carol,
    ):
        reply = await alice.ask(
            "send", event="task:created", mid="m1", data={"user": "bob", "data": {"n": 1}}
        )
        assert (reply.mid, reply.data, reply.seq) == ("m1", {"connections": 2}, 1)
        for client in (bob, bob2):
            event = await client.event()
            assert (event.event, event.data, event.mid) == ("task:created", {"n": 1}, "m1")
            assert (event.sender, event.room, event.seq) == ("alice", None, 1)
            assert (event.to, event.epoch) == ("user", client.greeting.data["positions"]["user"]["epoch"])
            assert event.ts is not None
        for client in (alice, stranger, carol):
            assert await client.settled() == []


async def test_send_to_a_connection(gateway: Gateway, codec: Codec) -> None:
    async with (
        connected(gateway, codec=codec, rooms=_SENDS) as alice,
        connected(gateway, user="bob", codec=codec) as bob,
        connected(gateway, user="bob") as bob2,
    ):
        target = bob.greeting.data["connection"]
        reply = await alice.ask("send", event="e", data={"connection": target, "data": [1]})
        assert reply.mid and reply.data == {"connections": 1}
        event = await bob.event()
        assert (event.event, event.data, event.mid, event.sender) == ("e", [1], reply.mid, "alice")
        assert (event.to, event.seq, event.epoch, reply.seq) == ("connection", None, None, None)
        assert await bob2.settled() == []
        own = alice.greeting.data["connection"]
        await alice.send("send", event="to:self", data={"connection": own})
        assert (await alice.event()).event == "to:self"


async def test_send_to_a_connection_of_another_organisation_is_not_found(gateway: Gateway) -> None:
    async with connected(gateway, rooms=_SENDS) as alice, connected(gateway, org="other") as stranger:
        target = stranger.greeting.data["connection"]
        assert (await alice.ask("send", event="e", data={"connection": target})).code == ErrorCode.NOT_FOUND
        assert await stranger.settled() == []


async def test_send_counts_those_it_was_queued_for(gateway: Gateway) -> None:
    async with connected(gateway, rooms=_SENDS) as alice, connected(gateway, user="bob") as bob:
        assert (await alice.ask("send", event="e", data={"user": "nobody"})).data == {"connections": 0}
        await bob.ask("subscribe", data={"events": ["other"]})
        target = bob.greeting.data["connection"]
        for to in ({"user": "bob"}, {"connection": target}):
            assert (await alice.ask("send", event="e", data=to)).data == {"connections": 0}
            assert (await alice.ask("send", event="other", data=to)).data == {"connections": 1}
        assert [event.event for event in await bob.settled()] == ["other", "other"]


# --- call -------------------------------------------------------------------------------------------


async def echo(caller: Caller, data: Any) -> Any:
    return {"user": caller.user, "data": data}


async def refuse(caller: Caller, data: Any) -> Any:
    raise ProtocolError(ErrorCode.CALL_REJECTED, "data.amount: is more than there is")


async def fail(caller: Caller, data: Any) -> Any:
    raise RuntimeError("a secret detail of the handler")


async def give_a_wrong_thing(caller: Caller, data: Any) -> Any:
    return {"when": b"bytes are no value"}


async def never(caller: Caller, data: Any) -> Any:
    await trio.sleep_forever()


async def test_a_call_is_answered_by_its_handler(gateway: Gateway, codec: Codec) -> None:
    gateway.handle_call("pause_councilor", echo)
    async with connected(gateway, codec=codec) as alice:
        reply = await alice.ask("call", event="pause_councilor", data={"id": 7})
        assert (reply.t, reply.data) == ("reply", {"user": "alice", "data": {"id": 7}})
        assert (await alice.ask("call", event="resume_councilor")).code == ErrorCode.UNKNOWN_CALL


async def test_a_handler_is_registered_once(gateway: Gateway) -> None:
    gateway.handle_call("x", echo)
    with pytest.raises(ValueError, match="already registered"):
        gateway.handle_call("x", echo)


async def test_handlers_may_refuse_and_fail(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    gateway.handle_call("refuse", refuse)
    gateway.handle_call("fail", fail)
    gateway.handle_call("wrong", give_a_wrong_thing)
    async with connected(gateway) as alice:
        refused = await alice.ask("call", event="refuse")
        assert (refused.code, refused.message) == (
            ErrorCode.CALL_REJECTED,
            "data.amount: is more than there is",
        )
        for name in ("fail", "wrong"):
            failed = await alice.ask("call", event=name)
            assert failed.code == ErrorCode.INTERNAL
            assert "secret" not in (failed.message or "")
        assert (await alice.ask("ping")).t == "pong"


async def test_a_handler_that_takes_too_long_is_given_up(clock: MockClock) -> None:
    async with run_node(connection={"command_timeout": 7.0}) as node:
        node.gateway.handle_call("never", never)
        async with node.raw() as alice:
            begun = trio.current_time()
            late = await alice.ask("call", event="never")
            assert (late.code, late.data) == (ErrorCode.TIMEOUT, {"retry_after": 1.0})
            assert trio.current_time() - begun == pytest.approx(7.0)
            assert (await alice.ask("ping")).t == "pong"


async def test_a_waiting_call_holds_up_nothing_behind_it(gateway: Gateway) -> None:
    go_on = trio.Event()

    async def wait(caller: Caller, data: Any) -> Any:
        await go_on.wait()

    gateway.handle_call("wait", wait)
    async with connected(gateway) as alice:
        await alice.send("call", id=1, event="wait")
        await alice.send("join", id=2, room="r")
        await alice.send("publish", id=3, room="r", event="e")
        answers = [await alice.receive() for _ in range(3)]
        assert [(each.t, each.id) for each in answers] == [("reply", 2), ("event", None), ("reply", 3)]
        go_on.set()
        answer = await alice.receive()
        assert (answer.t, answer.id) == ("reply", 1)


async def test_a_page_of_history_is_no_larger_than_clients_expect() -> None:
    """Also where JSON takes six times what was sent; page by page all of it comes."""
    limits, history = {"message_bytes": 16_384}, {"bytes": 2**24, "page": 100}
    async with running_gateway(limits=limits, history=history) as gateway, connected(gateway) as alice:
        for number in range(40):
            for text in ("x" * 700, "\x01" * 1500, "y" * 6_000, "z"):
                assert (await alice.ask("publish", room="r", event=f"e{number}", data=text)).t == "reply"
        sizes: list[int] = []
        seen: list[int] = []
        position: dict[str, Any] = {"epoch": "", "seq": 0}
        more = True
        while more:
            page = await alice.ask("history", room="r", data={"since": position})
            sizes.append(len(JSON.encode(page)))
            seen += [each["seq"] for each in page.data["events"]]
            position, more = {"epoch": page.epoch, "seq": seen[-1]}, page.data["more"]
        assert seen == list(range(1, 161)) and max(sizes) <= 16_384 and len(sizes) > 20
        newest = await alice.ask("history", room="r")
        assert len(JSON.encode(newest)) <= 16_384 and not newest.data["more"]
        assert [each["seq"] for each in newest.data["events"]][-1] == 160
