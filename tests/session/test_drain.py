"""The drain: ready no more, then clients leave one after the other, at the pace that was set."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from gateway.auth.tokens import Authenticator
from gateway.client import ConnectionClosed, connect
from gateway.config.settings import AuthSettings
from gateway.testing.node import Node, run_node
from gateway.testing.settings import SECRET
from tests.processes import DEADLINE, Folder, serving
from tests.support import until
from tests.upgrade import knock, request_head


async def leaving(node: Node, count: int, *, staying: int | None = None) -> list[float]:
    """Connect so many, stop the gateway, and tell after how long each one was asked to leave.

    All but ``staying`` of them close by themselves just after the stop.
    """
    asked: list[float] = []
    stopped = trio.Event()

    async def client(number: int) -> None:
        async with node.raw(user=f"user{number}") as raw:
            await stopped.wait()
            if staying is not None and number >= staying:
                return
            closing = await raw.receive()
            asked.append(trio.current_time())
            assert (closing.t, closing.code) == ("closing", 1012), closing
            assert (await raw.closed()).code == 1012

    gateway = node.gateway
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(client, number)
        await until(lambda: len(gateway.hub.connections) == count)
        gateway.stop()
        begun = trio.current_time()
        stopped.set()
    await gateway.finished.wait()
    return sorted(round(time - begun, 6) for time in asked)


async def test_clients_leave_at_the_pace(clock: MockClock) -> None:
    async with run_node(drain={"delay": 3.0, "pace": 10.0, "timeout": 60.0}) as node:
        counters = node.gateway.hub.counters
        assert await leaving(node, 20) == pytest.approx([3 + number / 10 for number in range(20)])
    assert counters.drained == 20


async def test_the_pace_is_raised_where_time_is_short(clock: MockClock) -> None:
    async with run_node(drain={"pace": 1.0, "timeout": 5.0}) as node:
        assert await leaving(node, 20) == pytest.approx([number / 4 for number in range(20)])


async def test_without_a_pace_all_leave_at_once(clock: MockClock) -> None:
    async with run_node(drain={"pace": 0.0}) as node:
        assert await leaving(node, 20) == pytest.approx([0] * 20)


async def test_nobody_waits_for_those_who_are_gone(clock: MockClock) -> None:
    async with run_node(drain={"delay": 1.0, "pace": 1.0, "timeout": 60.0}) as node:
        counters = node.gateway.hub.counters
        assert await leaving(node, 20, staying=3) == pytest.approx([1, 2, 3])
    assert counters.drained == 3


async def test_each_is_told_its_token_and_a_time_of_its_own(clock: MockClock) -> None:
    told: list[dict[str, Any]] = []

    async def client(node: Node, number: int) -> None:
        async with node.raw(user=f"user{number}") as raw:
            closing = await raw.receive()
            assert closing.data["resume"] == raw.greeting.data["resume"]
            told.append(closing.data)

    async with run_node(retry_after=2.0) as node, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(client, node, number)
        await until(lambda: len(node.gateway.hub.connections) == 20)
        node.gateway.stop()
    waits = [data["retry_after"] for data in told]
    assert all(2 <= wait <= 4 for wait in waits) and len(set(waits)) > 15
    assert all(data["reconnect"] is True for data in told)


async def test_who_has_not_left_yet_is_served_and_nobody_new_comes(clock: MockClock) -> None:
    async with (
        run_node(drain={"delay": 10.0}) as node,
        node.raw() as alice,
        node.raw(user="bob") as bob,
    ):
        await alice.ask("join", room="r")
        await bob.ask("join", room="r")
        node.gateway.stop()
        await trio.sleep(9)
        await bob.ask("publish", room="r", event="e")
        assert (await alice.event()).seq == 1
        stream = await node.dial()
        await stream.send_all(request_head("/ws"))
        answer = bytes(await stream.receive_some())
        assert answer.startswith(b"HTTP/1.1 503 ") and b'"code":304' in answer
        assert b"retry-after: 1\r\n" in answer.lower()


async def test_the_last_events_come_before_the_closing(clock: MockClock) -> None:
    """What is published while others leave still reaches those who are there."""
    async with run_node(drain={"pace": 1.0}) as node:
        async with trio.open_nursery() as nursery:
            seen: dict[int, list[int | None]] = {}

            async def client(number: int) -> None:
                async with node.raw(user=f"user{number}") as raw:
                    await raw.ask("join", room="r")
                    await raw.closed()
                    *events, closing = raw.events
                    assert closing.t == "closing"
                    seen[number] = [event.seq for event in events]

            for number in range(3):
                nursery.start_soon(client, number)
            rooms = node.gateway.hub.statistics.rooms
            await until(lambda: rooms("acme") and rooms("acme")[0]["members"] == 3)
            node.gateway.stop()
            await trio.sleep(0.5)
            await node.gateway.hub.publish("acme", "r", "one")
            await trio.sleep(1)
            await node.gateway.hub.publish("acme", "r", "two")
        assert sorted(seen.values()) == [[], [1], [1, 2]]


async def test_a_process_is_unready_first_and_then_lets_its_clients_go(tmp_path: Path) -> None:
    keyed = Folder(
        tmp_path,
        {"GATEWAY_AUTH_SECRET": SECRET, "GATEWAY_DRAIN_DELAY": "3", "GATEWAY_DRAIN_PACE": "20"},
    )
    token = Authenticator(AuthSettings(secret=SECRET)).issue(org="acme").token
    async with (
        serving(keyed) as served,
        httpx.AsyncClient(base_url=served.http) as http,
    ):
        assert (await http.get("/readyz")).status_code == 200
        async with connect(served.url, token=token, reconnect=False) as client:
            await client.join("r")
            served.process.send_signal(signal.SIGTERM)
            with trio.fail_after(DEADLINE):
                while (await http.get("/readyz")).status_code != 503:  # noqa: ASYNC110 - another process
                    await trio.sleep(0.01)
            refused = await knock(served, f"/ws?token={token}")
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert (await http.get("/healthz")).status_code == 200
            metrics = (await http.get("/metrics")).text
            assert "trireme_draining 1.0" in metrics and "trireme_drained_connections_total 0.0" in metrics
            assert (await client.publish("r", "e")).seq == 1
            assert (await anext(client)).seq == 1
            with trio.fail_after(DEADLINE), pytest.raises(ConnectionClosed) as ended:
                await anext(client)
            assert ended.value.code == 1012
        with trio.fail_after(DEADLINE):
            assert await served.process.wait() == 0
