"""When the client comes back, after how long, and when it gives up: exactly, on a virtual clock."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.client import Backoff, Client, ClientError, ConnectionClosed, ConnectionFailed, ReconnectFailed
from tests.client.loops import on_trio, settle
from tests.client.scripted import ScriptedGateway, beside, stuck_pair, take

EXACT = Backoff(jitter=lambda: 1.0)


async def failure(client: Client) -> ClientError:
    """What the iteration raises in the end."""
    with pytest.raises(ClientError) as caught:
        await anext(client)
    return caught.value


async def test_the_delays_of_a_gateway_that_is_away(scripted: ScriptedGateway, clock: MockClock) -> None:
    scripted.plan.extend([None, *[OSError("away")] * 7, None])
    async with scripted.connect(reconnect=EXACT) as client:
        peer = await scripted.peer()
        await anyio.sleep(20)
        await peer.drop()
        await scripted.peer()
        await settle()
        assert client.state == "connected"
    assert scripted.dials == [0, 20.5, 21.5, 22.5, 24.5, 28.5, 36.5, 52.5, 82.5]


async def test_the_jitter_is_asked_for_every_delay(scripted: ScriptedGateway, clock: MockClock) -> None:
    shares = iter([0.5, 0.0, 1.0])
    scripted.plan.extend([None, OSError("away"), OSError("away"), None])
    async with scripted.connect(reconnect=Backoff(jitter=lambda: next(shares))):
        await (await scripted.peer()).drop()
        await scripted.peer()
    assert scripted.dials == [0, 0.25, 0.25, 1.25]


async def test_states(scripted: ScriptedGateway, clock: MockClock) -> None:
    scripted.plan.extend([None, OSError("away"), None])
    async with scripted.connect(reconnect=EXACT) as client:
        states = [client.state]
        peer = await scripted.peer()
        await peer.drop()
        await anyio.sleep(0.1)
        states.append(client.state)
        await anyio.sleep(10)
        states.append(client.state)
    assert [*states, client.state] == ["connected", "reconnecting", "connected", "closed"]


async def test_giving_up(scripted: ScriptedGateway, clock: MockClock) -> None:
    scripted.plan.extend([None, *[OSError("away")] * 11])
    async with scripted.connect(reconnect=Backoff(give_up=True)) as client:
        peer = await scripted.peer()
        await peer.event(1)
        await peer.drop()
        assert [event.seq for event in await take(client, 1)] == [1], "what had been received comes first"
        gave_up = await failure(client)
        assert isinstance(gave_up, ReconnectFailed)
        assert gave_up.tries == 10
        assert isinstance(gave_up.__cause__, ConnectionFailed)
        with pytest.raises(ReconnectFailed):
            await client.info()
        assert client.state == "closed"
    assert len(scripted.dials) == 11


async def test_commands_that_wait_learn_of_the_giving_up(scripted: ScriptedGateway, clock: MockClock) -> None:
    scripted.plan.extend([None, OSError("away")])
    async with scripted.connect(reconnect=Backoff(tries=1, give_up=True), command_timeout=100.0) as client:
        peer = await scripted.peer()

        async def drop() -> None:
            await peer.receive()
            await peer.drop()

        async with beside(drop):
            with pytest.raises(ReconnectFailed):
                await client.info()


@pytest.mark.parametrize("code", [1002, 1003, 1008, 1009, 4500, 4501, 4999])
async def test_codes_that_are_final(scripted: ScriptedGateway, clock: MockClock, code: int) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await peer.close(code, "that is all")
        closed = await failure(client)
        assert isinstance(closed, ConnectionClosed)
        assert (closed.code, closed.reason) == (code, "that is all")
    assert len(scripted.dials) == 1


@pytest.mark.parametrize("code", [1000, 1001, 1005, 1011, 1012, 1013, 4000, 4001, 4002, 4499])
async def test_codes_that_ask_to_come_back(scripted: ScriptedGateway, clock: MockClock, code: int) -> None:
    async with scripted.connect(reconnect=EXACT):
        peer = await scripted.peer()
        if code == 1005:
            await peer.stream.send_all(b"\x88\x00")  # a Close frame without a code
        else:
            await peer.close(code)
        await scripted.peer()
    assert scripted.dials == [0, 0.5]


async def test_closing_says_when(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect(reconnect=EXACT):
        peer = await scripted.peer()
        await peer.send("closing", code=1012, message="restart", data={"reconnect": True, "retry_after": 3.0})
        await peer.close(1012)
        await scripted.peer()
    assert scripted.dials == [0, 3.5]


@pytest.mark.parametrize("retry_after", ["soon", -1, None, {}])
async def test_a_senseless_retry_after_is_none(
    scripted: ScriptedGateway, clock: MockClock, retry_after: object
) -> None:
    async with scripted.connect(reconnect=EXACT):
        peer = await scripted.peer()
        await peer.send("closing", code=1012, message="restart", data={"retry_after": retry_after})
        await peer.close(1012)
        await scripted.peer()
    assert scripted.dials == [0, 0.5]


async def test_closing_that_was_cut_off_counts(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await peer.send("closing", code=4500, message="by an administrator", data={"reconnect": False})
        await peer.drop()
        closed = await failure(client)
        assert isinstance(closed, ConnectionClosed)
        assert (closed.code, closed.reason) == (4500, "by an administrator")


async def test_closing_that_forbids_to_come_back_wins_over_the_code(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await peer.send("closing", code=1012, message="for good", data={"reconnect": False})
        await peer.close(1012)
        assert str(await failure(client)) == "closed with code 1012: for good"


async def test_without_reconnect_the_first_end_is_the_last(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(reconnect=False) as client:
        await (await scripted.peer()).drop()
        closed = await failure(client)
        assert isinstance(closed, ConnectionClosed)
        assert closed.code == 1006
    assert len(scripted.dials) == 1


async def test_a_gateway_that_always_drops_is_given_up(scripted: ScriptedGateway, clock: MockClock) -> None:
    async def flap() -> None:
        for _ in range(4):
            peer = await scripted.peer()
            await anyio.sleep(1)
            await peer.drop()

    policy = Backoff(tries=3, give_up=True, jitter=lambda: 1.0)
    async with scripted.connect(reconnect=policy) as client, beside(flap):
        assert isinstance(await failure(client), ReconnectFailed)
    assert scripted.dials == [0, 1.5, 3.5, 5.5]


async def test_a_connection_that_lasted_starts_the_count_anew(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(reconnect=Backoff(tries=1, give_up=True, jitter=lambda: 1.0)):
        for _ in range(4):
            peer = await scripted.peer()
            await anyio.sleep(5)
            await peer.drop()
        await scripted.peer()
    assert scripted.dials == [0, 5.5, 11, 16.5, 22]


async def test_leaving_while_reconnecting(scripted: ScriptedGateway, clock: MockClock) -> None:
    scripted.plan.extend([None, OSError("away")])
    async with scripted.connect(reconnect=EXACT):
        await (await scripted.peer()).drop()
        await anyio.sleep(0.6)
    await anyio.sleep(100)
    assert scripted.dials == [0, 0.5], "no try after the block"


async def test_a_gateway_that_breaks_the_protocol_is_left(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(codec="json") as client:
        peer = await scripted.peer()
        await peer.raw("{not json")
        assert await peer.closed_with() == 1007
        assert isinstance(await failure(client), ConnectionClosed)
    async with scripted.connect(codec="json") as client:
        peer = await scripted.peer()
        await peer.raw(b"binary")
        assert await peer.closed_with() == 1003
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await peer.send("lost", room="r", epoch="e", data={"from": "somewhere"})
        assert await peer.closed_with() == 1002
        assert "from" in str(await failure(client))
    async with scripted.connect(max_message_bytes=100) as client:
        peer = await scripted.peer()
        await peer.event(data="a" * 100)
        assert await peer.closed_with() == 1009
        assert "1009" in str(await failure(client))
    assert len(scripted.dials) == 4


async def test_after_closing_commands_wait_for_the_next_connection(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect() as client:
        peer = await scripted.peer()
        await peer.send("closing", code=1012, message="restart", data={})
        await settle()

        async def restart() -> None:
            await settle()
            await peer.close(1012)
            await (await scripted.peer()).answer(data="new")

        async with beside(restart):
            assert await client.call("x") == "new", "not sent before, or it would have been interrupted"
        assert peer.commands == []


async def test_a_command_refused_because_of_the_shutdown_is_repeated(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    """Also a ``call``: the refusal says that it was not carried out."""
    async with scripted.connect() as client:
        peer = await scripted.peer()

        async def restart() -> None:
            await peer.answer("error", code=304, message="shutting down")
            await anyio.sleep(1)
            await peer.close(1012)
            await (await scripted.peer()).answer(data="done")

        async with beside(restart):
            assert await client.call("x") == "done"
        assert len(peer.commands) == 1


async def test_waiting_for_a_connection_is_within_the_commands_time(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    scripted.plan.extend([None, *["silent"] * 20])
    async with scripted.connect(command_timeout=3.0) as client:
        await (await scripted.peer()).drop()
        began = anyio.current_time()
        with pytest.raises(ClientError, match="there is no connection"):
            await client.info()
        assert anyio.current_time() - began == 3.0


async def test_commands_while_reconnecting_are_carried_out_afterwards(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect(reconnect=EXACT) as client:
        await (await scripted.peer()).drop()
        await anyio.sleep(0.1)
        assert client.state == "reconnecting"

        async def serve() -> None:
            await (await scripted.peer()).answer(data=1)

        async with beside(serve):
            assert await client.info() == 1


async def test_commands_that_wait_for_a_connection_are_bounded(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    scripted.plan.extend([None, *["silent"] * 20])
    async with scripted.connect(max_pending=2, command_timeout=5.0) as client:
        await (await scripted.peer()).drop()
        await anyio.sleep(0.1)

        async def times_out() -> None:
            with pytest.raises(ClientError, match="no reply within 5 s"):
                await client.info()

        async with anyio.create_task_group() as nursery:
            nursery.start_soon(times_out)
            nursery.start_soon(times_out)
            await settle()
            with pytest.raises(ClientError, match="2 commands are waiting already"):
                await client.info()


async def test_a_call_in_flight_is_not_repeated(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        for command in (partial(client.call, "x"), partial(client.send, "x", user="u")):
            peer = await scripted.peer()

            async def drop() -> None:
                await peer.receive()  # noqa: B023 - runs within the iteration
                await peer.drop()  # noqa: B023

            async with beside(drop):
                with pytest.raises(ClientError, match="lost before the reply"):
                    await command()


@on_trio
async def test_a_call_that_was_not_sent_yet_is_carried_out_on_the_next_connection(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    stuck, pair = stuck_pair()
    pairs = iter([pair])
    scripted.pair = lambda: next(pairs, None) or trio.testing.memory_stream_pair()
    async with scripted.connect() as client, anyio.create_task_group() as nursery:
        peer = await scripted.peer()
        stuck.stuck = True
        nursery.start_soon(client.info)
        await settle()

        async def cut_and_serve() -> None:
            await settle()
            await peer.drop()
            next_peer = await scripted.peer()
            for _ in range(2):
                command = await next_peer.receive()
                await next_peer.reply(command, data=command.t)

        async with beside(cut_and_serve):
            assert await client.call("x") == "call"
        assert peer.commands == []


async def test_a_publish_in_flight_is_repeated_with_its_message_id(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    async with scripted.connect() as client:
        first = await scripted.peer()

        async def drop_and_serve() -> None:
            await first.receive()
            await first.drop()
            second = await scripted.peer()
            await second.answer(room="r", seq=7, epoch="e")
            first.commands += second.commands

        async with beside(drop_and_serve):
            published = await client.publish("r", "x", "hi")
        assert published.seq == 7
        one, two = first.commands
        assert one.mid == two.mid == published.mid
        assert (one.room, one.event, one.data) == (two.room, two.event, two.data) == ("r", "x", "hi")
