"""The heartbeat, on a virtual clock: pings on time, and an end for those that are not there any more."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing

from gateway.wire.connection import WireConnection, WireLimits
from tests.framing import CLOSE, PING, PONG, TEXT, Frame, client_frame, take_frame
from tests.wire.support import Peer, Recorder, WireServer, fragments, recording, serving

INTERVAL = 4.0
LANES = pytest.mark.parametrize("slow", [False, True], ids=["fast", "slow"])


@pytest.fixture
async def server(nursery: trio.Nursery) -> AsyncIterator[WireServer]:
    server = WireServer(lambda wire: Recorder(wire), limits=WireLimits(heartbeat=INTERVAL))
    await nursery.start(server.run)
    yield server


async def opened(server: WireServer, slow: bool) -> tuple[Peer, WireConnection, float]:
    """A connection in one of the lanes, and when it began."""
    began = trio.current_time()
    peer = server.in_memory()
    if slow:
        await peer.send(fragments(TEXT, b"a", b"b"))
    await trio.testing.wait_all_tasks_blocked()
    return peer, server.connections[0], began


@LANES
@pytest.mark.parametrize(
    "sign",
    [client_frame(PONG), client_frame(TEXT, b"busy"), client_frame(PING), b"\x81"],
    ids=["pong", "text", "ping", "a byte"],
)
async def test_whoever_gives_a_sign_of_life_stays(
    sign: bytes, slow: bool, server: WireServer, autojump_clock: trio.testing.MockClock
) -> None:
    peer, wire, began = await opened(server, slow)
    for beat in range(1, 6):
        assert await peer.frame() == Frame(PING, b"")
        assert trio.current_time() - began == pytest.approx(beat * INTERVAL)
        if sign != b"\x81" or beat < 3:  # two bytes of that would be a frame nobody may send
            await peer.send(sign)
        else:
            break
        if sign == client_frame(PING):
            assert await peer.frame() == Frame(PONG, b"")
    assert server.connections == [wire]


@LANES
async def test_whoever_misses_two_is_dead(
    slow: bool, server: WireServer, autojump_clock: trio.testing.MockClock
) -> None:
    peer, wire, began = await opened(server, slow)
    assert await peer.frame() == Frame(PING, b"")
    await peer.send(client_frame(PONG))
    assert await peer.frame() == Frame(PING, b"")
    # No answer. There is nobody to say a Close to, nor to wait for.
    assert await peer.at_end()
    assert trio.current_time() - began == pytest.approx(3 * INTERVAL)
    assert wire.close_code == 4000
    await server.all_ended()


async def test_whoever_reads_nothing_is_dead_too(
    server: WireServer, autojump_clock: trio.testing.MockClock
) -> None:
    """A ping that cannot go out is not answered either."""
    peer, wire, began = await opened(server, slow=False)
    await server.all_ended()
    assert trio.current_time() - began == pytest.approx(2 * INTERVAL)
    assert wire.close_code == 4000
    assert take_frame(bytes(await peer.stream.receive_some())) == (Frame(PING, b""), b"")


@LANES
async def test_while_a_command_is_awaited_silence_proves_nothing(
    slow: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async def work() -> None:
        await trio.sleep(4 * INTERVAL)

    async with serving(recording(lambda _, __: work()), limits=WireLimits(heartbeat=INTERVAL)) as server:
        peer = server.in_memory()
        await peer.send(fragments(TEXT, b"wait", b"") if slow else client_frame(TEXT, b"wait"))
        await trio.sleep(4.5 * INTERVAL)
        assert len(server.connections) == 1
        # Then it is due again.
        await server.all_ended()
        assert trio.current_time() <= 7 * INTERVAL
        assert server.ended[0].close_code == 4000


async def test_no_ping_after_a_close(server: WireServer, autojump_clock: trio.testing.MockClock) -> None:
    limits = WireLimits(heartbeat=INTERVAL, close_timeout=10 * INTERVAL)
    server.limits = limits
    peer, wire, _ = await opened(server, slow=False)
    wire.close(1001)
    wire.flush()
    assert (await peer.frame()).code == 1001
    await trio.sleep(5 * INTERVAL)
    await peer.send(client_frame(CLOSE))
    assert await peer.at_end()


class Timed:
    """A handler with something to do at certain times."""

    def __init__(self, wire: WireConnection, action: Callable[[Timed], None]) -> None:
        self.wire = wire
        self.deadline = math.inf
        self.rang: list[float] = []
        self._action = action

    def on_message(self, payload: bytes, text: bool) -> None:
        self.deadline = trio.current_time() + float(payload)
        self.wire.reschedule()

    def on_deadline(self) -> None:
        self.rang.append(trio.current_time())
        self.deadline = math.inf
        self._action(self)


async def test_the_handler_is_called_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    handlers: list[Timed] = []

    def make(wire: WireConnection) -> Timed:
        handlers.append(Timed(wire, lambda timed: None))
        return handlers[0]

    async with serving(make, limits=WireLimits(heartbeat=1e6)) as server:
        peer = server.in_memory()
        for delay, due in ((b"50", 50.0), (b"7", 58.0)):
            await peer.send(client_frame(TEXT, delay))
            await trio.sleep(51)  # a second more: who wakes first at the same time is chance
            assert handlers[0].rang[-1] == pytest.approx(due, abs=0.1)
        # A nearer one takes the place of a farther one.
        await peer.send(client_frame(TEXT, b"500"), client_frame(TEXT, b"3"))
        await trio.sleep(4)
        assert handlers[0].rang[-1] == pytest.approx(105.0, abs=0.1)
        assert len(handlers[0].rang) == 3


async def test_an_error_at_the_deadline_closes_with_1011(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(timed: Timed) -> None:
        timed.deadline = trio.current_time()
        raise ValueError("at the deadline")

    async with serving(lambda wire: Timed(wire, fail)) as server:
        peer = server.in_memory()
        await peer.send(client_frame(TEXT, b"5"))
        assert (await peer.frame()).code == 1011
        await peer.send(client_frame(CLOSE))
        await server.all_ended()
    assert len(caplog.records) == 1
