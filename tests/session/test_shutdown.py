"""The graceful end of a node: everybody is told, queues are flushed, and it is over in time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio_websocket

from gateway.app import Gateway
from protocol.cbor import CBOR
from protocol.errors import ErrorCode as E
from protocol.json import JSON
from tests.attacks.support import attacker
from tests.framing import CLOSE, TEXT, client_frame
from tests.support import DEADLINE, Raw, all_connected, connected, start_gateway, until, url
from tests.upgrade import knock, request_head

BIG = "x" * 20_000


@contextlib.asynccontextmanager
async def stopped_within(gateway: Gateway, seconds: float) -> AsyncIterator[None]:
    """Stop, and fail unless it is over long before ``shutdown_timeout``, ``seconds`` later or soon after."""
    gateway.stop()
    yield
    with trio.fail_after(seconds + DEADLINE):
        await gateway.finished.wait()
    assert not gateway.hub.connections and not gateway.hub.organisations and not gateway.sessions
    assert gateway.listener.open == 0


async def assert_told(client: Raw, retry_after: float = 1.0) -> None:
    close = await client.closed()
    assert close.code == 1012
    closing = client.events[-1]
    assert (closing.t, closing.code, closing.message) == ("closing", 1012, close.reason)
    assert closing.data["reconnect"] is True
    assert retry_after <= closing.data["retry_after"] <= 2 * retry_after
    await trio.aclose_forcefully(client.socket._stream)  # trio-websocket leaves that to its user


async def test_every_client_is_told_and_closed(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, retry_after=2.5, shutdown_timeout=5.0)
    async with all_connected(gateway, [f"user{n}" for n in range(10)], codecs=(CBOR, JSON)) as clients:
        for client in clients:
            await client.ask("join", room="r")
        async with stopped_within(gateway, 1):
            for client in clients:
                await assert_told(client, 2.5)
    assert gateway.hub.counters.closes == {1012: 10}
    with pytest.raises(OSError):
        await trio.open_tcp_stream("127.0.0.1", gateway.port)


async def test_who_has_not_said_who_it_is_is_told_too(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, auth={"in_band": True}, shutdown_timeout=5.0)
    async with trio_websocket.open_websocket_url(url(gateway)) as socket, stopped_within(gateway, 1):
        await assert_told(Raw(socket, JSON))


async def test_what_is_queued_is_flushed_first(nursery: trio.Nursery) -> None:
    """Also to a client that is slower than the closing handshake may be."""
    gateway = await start_gateway(nursery, connection={"close_timeout": 0.2}, shutdown_timeout=60.0)
    async with connected(gateway) as slow, connected(gateway, user="bob") as bob:
        await slow.ask("join", room="r")
        (session,) = [each for each in gateway.sessions if each.connection.user == "alice"]
        count = 0
        while session.outbox.size < 10 * len(BIG):  # until the socket's buffers are full, and then some
            await bob.ask("publish", room="r", event="e", data=BIG)
            count += 1
        async with stopped_within(gateway, 8):
            await bob.closed()
            await trio.sleep(1)
            assert (await slow.closed()).code == 1012
        events = [message for message in slow.events if message.t == "event"]
        assert [event.seq for event in events] == list(range(1, count + 1))
        (closing,) = [message for message in slow.events if message.t != "event"]
        assert closing.t == "closing"
        assert slow.events[-1] is not closing, "it overtook what waited"


async def test_a_client_that_never_reads_does_not_hold_it_up(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, connection={"close_timeout": 0.2}, shutdown_timeout=1.0)
    async with connected(gateway) as deaf, connected(gateway, user="bob") as bob:
        await deaf.ask("join", room="r")
        (session,) = [each for each in gateway.sessions if each.connection.user == "alice"]
        while session.outbox.size < 10 * len(BIG):
            await bob.ask("publish", room="r", event="e", data=BIG)
        async with stopped_within(gateway, 1):
            await bob.closed()


async def test_a_client_that_never_answers_the_close_does_not_hold_it_up(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, connection={"close_timeout": 0.2}, shutdown_timeout=60.0)
    token = gateway.auth.issue(org="acme").token
    async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
        await stream.send_all(request_head(f"/ws?token={token}"))
        await until(lambda: len(gateway.hub.connections) == 1)
        async with stopped_within(gateway, 0.2):
            received = b""
            with trio.fail_after(DEADLINE):
                while chunk := await stream.receive_some():
                    received += chunk
            assert b'"closing"' in received and b"\x88" in received


async def test_a_waiting_command_does_not_hold_it_up(nursery: trio.Nursery) -> None:
    started = trio.Event()

    async def never(*_: Any) -> None:
        started.set()
        await trio.sleep_forever()

    gateway = await start_gateway(nursery, connection={"close_timeout": 0.2}, shutdown_timeout=60.0)
    gateway.handle_call("never", never)
    async with connected(gateway) as alice:
        await alice.send("call", id=1, event="never")
        await started.wait()
        async with stopped_within(gateway, 0.2):
            await assert_told(alice)


async def test_peers_before_their_upgrade_do_not_hold_it_up(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, shutdown_timeout=0.5)
    async with (
        await trio.open_tcp_stream("127.0.0.1", gateway.port) as silent,
        await trio.open_tcp_stream("127.0.0.1", gateway.port) as halfway,
    ):
        await halfway.send_all(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
        await until(lambda: gateway.listener.open == 2)
        async with stopped_within(gateway, 0.5):
            pass
        assert await silent.receive_some() == b""


async def test_who_asks_after_the_stop_is_refused(nursery: trio.Nursery) -> None:
    """It had connected before, and clients are still leaving; later its connection is closed unasked."""
    gateway = await start_gateway(
        nursery, connection={"close_timeout": 1.0}, shutdown_timeout=60.0, drain={"delay": 1.0}
    )
    token = gateway.auth.issue(org="acme").token
    async with (
        await trio.open_tcp_stream("127.0.0.1", gateway.port) as lingering,
        await trio.open_tcp_stream("127.0.0.1", gateway.port) as late,
    ):
        await lingering.send_all(request_head(f"/ws?token={token}"))
        await until(lambda: len(gateway.hub.connections) == 1 and gateway.listener.open == 2)
        async with stopped_within(gateway, 1.0):
            await until(lambda: gateway.draining)
            answer = await knock(gateway, f"/ws?token={token}", stream=late)
            assert (answer.status, answer.problem["code"]) == (503, E.SHUTTING_DOWN)
            assert answer.headers["retry-after"] == "1"


async def test_commands_after_closing_are_not_handled(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, connection={"close_timeout": 0.2}, shutdown_timeout=60.0)
    async with attacker(gateway) as peer:  # trio-websocket would answer the Close by itself meanwhile
        async with stopped_within(gateway, 0.2):
            await until(lambda: gateway.hub.counters.drained == 1)
            await peer.send(client_frame(TEXT, b'{"v":1,"t":"publish","room":"r","event":"e"}'))
            while (await peer.frame()).opcode != CLOSE:
                pass
            await peer.send(client_frame(CLOSE, b"\x03\xe8"))
    assert gateway.hub.counters.publishes == 0


async def test_stopping_twice_is_stopping_once(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    async with connected(gateway) as alice:
        gateway.stop()
        async with stopped_within(gateway, 1):
            await assert_told(alice)
