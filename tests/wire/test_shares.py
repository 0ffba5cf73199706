"""The fast lane hands over to the slow one without losing, doubling or reordering anything."""

from __future__ import annotations

import contextlib
import logging
import time
import tracemalloc
from collections.abc import Awaitable

import pytest
import trio
import trio.testing

from gateway.wire.connection import WireConnection, WireLimits
from tests.framing import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, client_frame, close_payload
from tests.support import DEADLINE
from tests.wire.conversations import CASES, Case
from tests.wire.support import WireServer, fragments, peer_of, recording, serving
from tests.wire.test_rfc6455 import AFTER, BEFORE, check

REASONS = [
    *("two fragments of text", "pings between all", "ping inside a character", "empty fragments"),
    *("16-bit length for 0", "64-bit length for 126", "64-bit length with its sign bit"),
    *("reserved bits 100", "opcode 3 with data", "unmasked text", "unmasked ping"),
    *("bad c328 and more", "bad e28228 over fragments", "bad in a message without an end"),
    *("fragmented 9", "9 of 126", "nothing to continue", "text inside a message", "two beginnings"),
    *("close 1005", "close of one byte", "reason that is not UTF-8", "close inside a message", "close 1000"),
]
CHOSEN = [case for case in CASES if case.name in REASONS]
assert len(CHOSEN) == len(REASONS)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
async def test_cut_in_two_at_every_byte(case: Case, echo: WireServer) -> None:
    """Over streams in memory, where a chunk is exactly what was sent."""
    data = BEFORE + case.data + AFTER
    peers = [echo.in_memory() for _ in data]
    for cut, peer in enumerate(peers):
        await peer.send(data[:cut])
    await trio.testing.wait_all_tasks_blocked()
    for cut, peer in enumerate(peers):
        # A stream in memory closes at once where a socket would linger.
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.send(data[cut:])
    for peer in peers:
        check(case, await peer.hear(), before=True)
    await echo.all_ended()


@pytest.mark.parametrize("pump", [True, False], ids=["pump", "no pump"])
async def test_order_over_the_handover(pump: bool) -> None:
    """Numbered messages, the foreign one anywhere among them, in chunks of any size."""
    numbers = [b"%d" % number for number in range(60)]
    async with serving(pump=pump) as server:
        for foreign in (0, 1, 29, 59):
            for size in (7, 100, 10_000):
                frames = [client_frame(TEXT, number) for number in numbers]
                frames[foreign] = fragments(TEXT, *(numbers[foreign][:1], numbers[foreign][1:]))
                async with peer_of(server.port) as peer:
                    await peer.send_apart(b"".join(frames), size)
                    await peer.send(client_frame(CLOSE))
                    assert [payload for _, payload in (await peer.hear()).messages] == numbers


async def test_awaited_work_keeps_the_order_in_both_lanes() -> None:
    """The next message is not handled before the last one's work is done; a handover waits for it too."""
    gates = [trio.Event() for _ in range(6)]
    done: list[int] = []

    async def work(number: int) -> None:
        await gates[number].wait()
        done.append(number)

    def answer(_wire: WireConnection, payload: bytes) -> Awaitable[None] | None:
        if int(payload) % 2:
            done.append(int(payload))
            return None
        return work(int(payload))

    async with serving(recording(answer)) as server, peer_of(server.port) as peer:
        numbers = [b"%d" % number for number in range(6)]
        fast, slow = numbers[:3], numbers[3:]
        frames = [client_frame(TEXT, number) for number in fast]
        frames += [fragments(TEXT, number, b"") for number in slow]
        await peer.send(*frames, client_frame(PING, b"at last"))
        for number, expected in ((0, [0, 1]), (2, [0, 1, 2, 3]), (4, [0, 1, 2, 3, 4, 5])):
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert done == expected[: expected.index(number)]
            gates[number].set()
        assert await peer.frame() == Frame(PONG, b"at last")
        assert done == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("share", ["fast", "slow"])
async def test_a_close_behind_awaited_work_waits_for_its_answer(share: str) -> None:
    async def work(wire: WireConnection) -> None:
        await trio.testing.wait_all_tasks_blocked(0.01)
        wire.outbox.put(b"\x82\x04done")

    async with serving(recording(lambda wire, _: work(wire))) as server, peer_of(server.port) as peer:
        message = client_frame(TEXT, b"work") if share == "fast" else fragments(TEXT, b"wo", b"rk")
        await peer.send(message, client_frame(CLOSE, close_payload(1000)))
        heard = await peer.hear()
        assert (heard.messages, heard.code) == ([(BINARY, b"done")], 1000)


@pytest.mark.parametrize("pump", [True, False], ids=["pump", "no pump"])
async def test_what_is_left_of_a_chunk_behind_awaited_work_is_handled(pump: bool) -> None:
    """Also when handling it takes longer than one turn and the socket brings nothing new."""

    async def work() -> None:
        await trio.lowlevel.checkpoint()

    def answer(wire: WireConnection, payload: bytes) -> Awaitable[None] | None:
        wire.outbox.put(b"\x82\x01" + payload)
        if payload == b"\x00":
            return work()
        started = time.perf_counter()
        while time.perf_counter() - started < 0.0002:
            pass
        return None

    async with serving(recording(answer), pump=pump) as server, peer_of(server.port) as peer:
        numbers = [bytes([number]) for number in range(100)]
        await peer.send(*(client_frame(BINARY, number) for number in numbers))
        assert [(await peer.frame()).payload for _ in numbers] == numbers


@pytest.mark.parametrize("share", ["fast", "slow"])
@pytest.mark.parametrize("awaited", [False, True], ids=["at once", "awaited"])
async def test_an_error_in_a_handler_closes_only_its_connection(
    share: str, awaited: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(wire: WireConnection, payload: bytes) -> Awaitable[None] | None:
        async def fail_later() -> None:
            await trio.lowlevel.checkpoint()
            raise ValueError("secret detail")

        if payload == b"bad":
            if awaited:
                return fail_later()
            raise ValueError("secret detail")
        wire.outbox.put(b"\x81\x04good")
        return None

    async with (
        serving(recording(answer)) as server,
        peer_of(server.port) as peer,
        peer_of(server.port) as other,
    ):
        bad = client_frame(TEXT, b"bad") if share == "fast" else fragments(TEXT, b"b", b"ad")
        await peer.send(client_frame(TEXT, b"x"), bad, client_frame(TEXT, b"x"))
        assert await peer.frame() == Frame(TEXT, b"good")
        close = await peer.frame()
        assert close.code == 1011
        assert "secret" not in close.reason
        await peer.send(client_frame(CLOSE, close_payload(1011)))
        assert await peer.at_end()
        await other.send(client_frame(TEXT, b"x"))
        assert await other.frame() == Frame(TEXT, b"good")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None and str(record.exc_info[1]) == "secret detail"


async def test_a_close_in_the_chunk_of_a_failing_message_ends_it_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_wire: WireConnection, _payload: bytes) -> None:
        raise ValueError

    limits = WireLimits(close_timeout=DEADLINE * 2)
    async with serving(recording(fail), limits=limits) as server:
        async with peer_of(server.port) as peer:
            await peer.send(client_frame(TEXT, b"bad"), client_frame(CLOSE))
            assert (await peer.hear()).code == 1011
        await server.all_ended()
    assert len(caplog.records) == 1


async def test_many_small_commands_in_one_chunk_are_not_slowness() -> None:
    """The queue may be shorter than what one chunk asks for, as long as the socket takes it."""
    limits = WireLimits(queue_messages=16, queue_bytes=65536)
    async with serving(limits=limits) as server, peer_of(server.port) as peer:
        texts = [client_frame(TEXT, b"%d" % number) for number in range(3000)]
        await peer.send(*texts, *(client_frame(PING, b"%d" % number) for number in range(3000)))
        await peer.send(client_frame(CLOSE))
        heard = await peer.hear()
    assert [payload for _, payload in heard.messages] == [b"%d" % number for number in range(3000)]
    assert heard.pongs == [b"%d" % number for number in range(3000)]


FLOODS = {"empty fragments": client_frame(CONTINUATION, b"", fin=False), "pongs": client_frame(PONG)}


@pytest.mark.parametrize("tiny", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_tiny_frames_does_not_hold_the_loop(tiny: bytes, echo: WireServer) -> None:
    """Of the processor time that the flood takes, no turn has more than a small part."""
    held = 0.0
    began = time.thread_time()  # of this thread only: others may be using the processor
    async with peer_of(echo.port) as peer, trio.open_nursery() as nursery:
        await peer.send(client_frame(TEXT, b"", fin=False))

        async def flood() -> None:
            for _ in range(4):
                await peer.send(tiny * 10_000)  # one chunk of 64 kB holds a quarter of them
            await peer.send(client_frame(PING))
            assert await peer.frame() == Frame(PONG, b"")
            nursery.cancel_scope.cancel()

        nursery.start_soon(flood)
        while True:
            started = time.thread_time()
            await trio.lowlevel.checkpoint()
            held = max(held, time.thread_time() - started)
    assert held < (time.thread_time() - began) / 6


async def test_empty_fragments_are_not_collected(echo: WireServer) -> None:
    """They take no room in the message, so its limit would never end them."""
    async with peer_of(echo.port) as peer:
        await peer.send(fragments(TEXT, b"warm", b"up"), client_frame(TEXT, b"", fin=False))
        assert await peer.frame() == Frame(TEXT, b"warmup")
        tracemalloc.start()
        try:
            await peer.send(FLOODS["empty fragments"] * 20_000, client_frame(PING))
            assert await peer.frame() == Frame(PONG, b"")
            grown = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert grown < 100_000
