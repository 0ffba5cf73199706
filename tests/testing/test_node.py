"""The node of the test kit: every way to talk to it, and every fault that it can have."""

from __future__ import annotations

import httpx
import pytest
import trio
from trio.testing import MockClock

from gateway.client import Backoff, Client, ConnectionFailed, Event
from gateway.config.settings import SettingsError
from gateway.hub.connection import Connection
from gateway.testing.node import Node, make_settings, run_node


async def following(client: Client) -> Event:
    with trio.fail_after(600):
        return await client.__anext__()


async def test_clients_of_every_sort_meet(clock: MockClock) -> None:
    async with run_node() as node, node.client(user="alice") as alice, node.raw(user="bob") as bob:
        await alice.join("chat:42")
        await bob.ask("join", room="chat:42")
        await alice.publish("chat:42", "message:new", {"text": "hi"})
        assert (await following(alice)).data == (await bob.event()).data == {"text": "hi"}
        async with node.http() as http:
            headers = {"Authorization": f"Bearer {node.token(user='svc', roles=['service'])}"}
            said = {"room": "chat:42", "event": "message:new", "data": {"text": "from outside"}}
            answer = await http.post("/api/v1/broadcast", json=said, headers=headers)
            assert answer.status_code == 200 and answer.json()["seq"] == 2
            assert (await http.get("/api/v1/stats")).status_code == 401
        assert (await bob.event()).data == {"text": "from outside"}
        await node.publish(None, "news", org="acme")
        assert (await bob.event()).event == "news"
        async with node.raw(org="other", codec="cbor") as stranger:
            assert await stranger.settled() == []


async def test_a_cut_link_is_repaired_by_the_client(clock: MockClock) -> None:
    async with run_node() as node, node.client(user="alice") as alice, node.raw(user="bob") as bob:
        await alice.join("r")
        node.cut("alice")
        for number in range(3):
            await bob.ask("publish", room="r", event="e", data=number)
        assert [(await following(alice)).data for _ in range(3)] == [0, 1, 2]


async def test_a_restart_is_survived(clock: MockClock) -> None:
    async with run_node() as node, node.client(user="alice") as alice:
        await alice.join("r")
        for end in (node.stop, node.kill):
            await end()
            await trio.sleep(5)
            await node.start()
            await node.publish("r", "again")
            assert (await following(alice)).event == "again"


async def test_a_node_that_is_down_refuses(clock: MockClock) -> None:
    async with run_node() as node:
        node.down = True
        with pytest.raises(ConnectionFailed, match="refused"):
            async with node.client(options={"reconnect": False}):
                pass
        async with node.http() as http:
            with pytest.raises(httpx.ConnectError):
                await http.get("/healthz")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def repair() -> None:
                await trio.sleep(30)
                node.down = False

            nursery.start_soon(repair)
            async with node.client(options={"reconnect": Backoff(tries=100)}):
                assert 30 <= trio.current_time() - began < 90


async def test_a_delay_is_paid_in_virtual_time(clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        alice.link.up.delay = alice.link.down.delay = 1.5
        began = trio.current_time()
        await alice.ask("ping")
        assert trio.current_time() - began == pytest.approx(3.0)


async def test_a_stalled_client_is_found_dead(clock: MockClock) -> None:
    async with run_node(connection={"heartbeat": 20.0}) as node, node.raw() as alice:
        alice.link.up.stall()
        began = trio.current_time()
        while node.gateway.hub.connections:  # noqa: ASYNC110
            await trio.sleep(1)
        assert 39 <= trio.current_time() - began <= 42
        alice.link.up.resume()
        assert (await alice.closed()).code in {1006, 4000}


async def test_a_slow_reader_gets_what_its_policy_says(clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice:
        await alice.ask("join", room="r", data={"overflow": "conflate"})
        alice.link.down.stall()
        for number in range(500):
            await node.publish("r", "tick", {"key": number % 2, "n": number, "pad": "x" * 1000})
            await trio.testing.wait_all_tasks_blocked()
        alice.link.down.resume()
        messages = [await alice.receive()]
        while messages[-1].seq != 500:
            messages.append(await alice.receive())
        (lost,) = [message for message in messages if message.t == "lost"]
        assert lost.data["reason"] == "conflated"
        assert [message.data["n"] for message in messages[-2:]] == [498, 499]


async def test_a_broker_out_of_reach(clock: MockClock) -> None:
    async with run_node() as node, node.raw() as alice, node.http() as http:
        node.broker.unreachable = True
        assert (await alice.ask("publish", room="r", event="e")).code == 302
        assert (await alice.ask("join", room="r")).code == 302
        assert (await http.get("/readyz")).status_code == 503
        node.broker.unreachable = False
        assert (await alice.ask("join", room="r")).t == "reply"
        assert (await http.get("/readyz")).status_code == 200


async def test_calls_are_answered_also_after_a_restart(clock: MockClock) -> None:
    async def double(caller: Connection, data: int) -> int:
        return 2 * data

    async with run_node() as node:
        node.handle_call("double", double)
        for _ in range(2):
            async with node.raw() as alice:
                assert (await alice.ask("call", event="double", data=21)).data == 42
            await node.stop()
            await node.start()


async def test_hours_pass_in_no_time(clock: MockClock) -> None:
    async with run_node(connection={"inactivity": 1800.0}) as node, node.raw() as alice:
        began = trio.current_time()
        assert (await alice.closed()).code == 4002
        assert trio.current_time() - began == pytest.approx(1800, abs=1)


def test_what_is_no_setting_is_refused() -> None:
    assert make_settings(limits={"message_bytes": 2048}).limits.message_bytes == 2048
    for changes in ({"no_such": 1}, {"limits": {"no_such": 1}}, {"limits": {"message_bytes": 1}}):
        with pytest.raises(SettingsError):
            make_settings(**changes)


async def test_an_error_in_the_block_comes_out_as_it_is(clock: MockClock) -> None:
    with pytest.raises(KeyError):
        async with run_node() as node, node.client(), node.raw():
            raise KeyError
    with pytest.raises(AssertionError, match="does not run"):
        _ = Node(make_settings()).gateway
