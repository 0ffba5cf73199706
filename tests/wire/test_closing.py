"""Closing in both directions, its deadlines, and the TCP close behind it (RFC 6455, section 7)."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from gateway.wire.connection import WireLimits
from tests.framing import CLOSE, CLOSE_CODES, CONTINUATION, PING, TEXT, Frame, client_frame, close_payload
from tests.support import DEADLINE
from tests.wire.conversations import LIMIT
from tests.wire.support import Peer, WireServer, fragments, peer_of, serving

FRAGMENTS = fragments(TEXT, b"", b"slow")
LANES = pytest.mark.parametrize("hello", [client_frame(TEXT, b"slow"), FRAGMENTS], ids=["fast", "slow"])


async def in_lane(peer: Peer, hello: bytes) -> None:
    """Bring the connection into the lane that ``hello`` leads to."""
    await peer.send(hello)
    assert await peer.frame() == Frame(TEXT, b"slow")


# --- the client begins -----------------------------------------------------------------------------


@LANES
@pytest.mark.parametrize("code", [None, *CLOSE_CODES])
async def test_the_clients_close_is_answered_and_recorded(
    code: int | None, hello: bytes, echo: WireServer
) -> None:
    async with peer_of(echo.port) as peer:
        await in_lane(peer, hello)
        await peer.send(client_frame(CLOSE, b"" if code is None else close_payload(code, b"reason")))
        assert (await peer.hear()).code == code
    await echo.all_ended()
    assert [wire.close_code for wire in echo.ended] == [1005 if code is None else code]


@LANES
async def test_what_was_asked_before_the_close_is_answered_before_it(hello: bytes, echo: WireServer) -> None:
    async with peer_of(echo.port) as peer:
        await in_lane(peer, hello)
        texts = [b"%d" % number for number in range(500)]
        await peer.send(*(client_frame(TEXT, text) for text in texts), client_frame(CLOSE))
        heard = await peer.hear()
        assert [payload for _, payload in heard.messages] == texts
        assert heard.code is None


@LANES
async def test_much_behind_the_close_does_not_reset_the_connection(hello: bytes, echo: WireServer) -> None:
    """More than the server reads at once, and more of it after the answer."""
    async with peer_of(echo.port) as peer:
        await in_lane(peer, hello)
        close = client_frame(CLOSE, close_payload(1000))
        await peer.send(close, bytes(300_000))
        heard = await peer.hear()
        assert heard.code == 1000
        await peer.send(bytes(300_000))
    await echo.all_ended()


async def test_a_peer_that_does_not_end_its_side_is_left_at_the_deadline() -> None:
    async with serving(limits=WireLimits(close_timeout=0.05)) as server, peer_of(server.port) as peer:
        await peer.send(client_frame(CLOSE))
        assert (await peer.hear()).code is None
        await server.all_ended()


# --- the server begins -----------------------------------------------------------------------------


@LANES
async def test_the_server_closes_and_the_client_answers(hello: bytes, echo: WireServer) -> None:
    async with peer_of(echo.port) as peer:
        await in_lane(peer, hello)
        (wire,) = echo.connections
        wire.outbox.put(b"\x81\x04last")
        wire.close(4500, "enough")
        wire.flush()
        assert wire.closing
        assert await peer.frame() == Frame(TEXT, b"last")
        close = await peer.frame()
        assert (close.code, close.reason) == (4500, "enough")
        # The connection is open for the answer; what comes before it is not answered any more.
        await peer.send(
            client_frame(TEXT, b"late"), client_frame(PING, b"late"), fragments(TEXT, b"l", b"ate")
        )
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert echo.connections == [wire]
        await peer.send(client_frame(CLOSE, close_payload(4500)))
        assert await peer.at_end()
    await echo.all_ended()
    assert wire.close_code == 4500


@LANES
@pytest.mark.parametrize("meanwhile", [b"", client_frame(TEXT, b"x") * 100], ids=["silent", "talking"])
async def test_a_peer_that_does_not_answer_is_left_at_the_deadline(hello: bytes, meanwhile: bytes) -> None:
    async with serving(limits=WireLimits(close_timeout=0.2)) as server, peer_of(server.port) as peer:
        await in_lane(peer, hello)
        (wire,) = server.connections
        wire.close(1001, "bye")
        wire.flush()
        started = time.monotonic()
        async with trio.open_nursery() as nursery:

            async def talk() -> None:
                while True:
                    try:
                        await peer.stream.send_all(meanwhile)
                    except trio.BrokenResourceError:
                        return
                    await trio.sleep(0.01)

            if meanwhile:
                nursery.start_soon(talk)
            await server.all_ended()
            nursery.cancel_scope.cancel()
        assert time.monotonic() - started > 0.19
        assert wire.close_code == 1001


async def test_the_deadline_is_exact(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(limits=WireLimits(close_timeout=3.0)) as server:
        peer = server.in_memory()
        await trio.testing.wait_all_tasks_blocked()
        server.connections[0].close(1001)
        server.connections[0].flush()
        started = trio.current_time()
        await server.all_ended()
        assert trio.current_time() - started == pytest.approx(3.0, abs=0.01)
        assert (await peer.frame()).code == 1001


async def test_closing_twice_says_it_once(echo: WireServer) -> None:
    async with peer_of(echo.port) as peer:
        await in_lane(peer, FRAGMENTS)
        (wire,) = echo.connections
        wire.close(1012, "restart")
        wire.close(1000, "not this")
        wire.flush()
        assert (await peer.frame()).code == 1012
        await peer.send(client_frame(CLOSE, close_payload(1012)))
        assert await peer.at_end()
    await echo.all_ended()
    assert wire.close_code == 1012


async def test_both_close_at_once(echo: WireServer) -> None:
    async with peer_of(echo.port) as peer:
        await in_lane(peer, FRAGMENTS)
        (wire,) = echo.connections
        await peer.send(client_frame(CLOSE, close_payload(1001)))
        wire.close(1012, "restart")
        wire.flush()
        assert (await peer.hear()).code == 1012
    await echo.all_ended()


async def test_an_abort_ends_at_once_without_a_word(echo: WireServer) -> None:
    async with peer_of(echo.port) as peer:
        await in_lane(peer, FRAGMENTS)
        (wire,) = echo.connections
        wire.abort(4000)
        wire.abort(4001)
        await echo.all_ended()
        assert await peer.at_end()
        assert wire.close_code == 4000


# --- the end without a Close -------------------------------------------------------------------------

UNFINISHED = {
    "after a message": b"",
    "inside a head": b"\x81",
    "inside a mask": b"\x81\x85\x00\x00",
    "inside a payload": client_frame(TEXT, b"hello")[:-1],
    "inside a 64-bit length": b"\x82\xff\x00\x00",
    "inside a large frame": client_frame(TEXT, b"x" * 70_000)[:-5],
    "between fragments": client_frame(TEXT, b"x", fin=False),
    "inside a fragment": client_frame(TEXT, b"x", fin=False) + client_frame(CONTINUATION, b"y" * 9)[:-1],
}


@LANES
@pytest.mark.parametrize("rest", UNFINISHED.values(), ids=UNFINISHED)
async def test_the_end_of_the_clients_side_is_the_end(rest: bytes, hello: bytes, echo: WireServer) -> None:
    """Half-open is not open: what was asked is answered, then the connection ends, without a Close."""
    async with peer_of(echo.port) as peer:
        await in_lane(peer, hello)
        await peer.send(client_frame(TEXT, b"answered"), rest)
        await peer.send_eof()
        heard = await peer.hear()
        assert (heard.messages, heard.code) == ([(TEXT, b"answered")], -1)
    await echo.all_ended()
    assert echo.ended[0].close_code == 1006


@LANES
@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (client_frame(3), 1002),
        (client_frame(TEXT, b"\xff"), 1007),
        (client_frame(TEXT, bytes(LIMIT + 1)), 1009),
    ],
    ids=["protocol", "utf8", "size"],
)
async def test_an_error_is_told_to_a_client_that_ended_its_side(
    bad: bytes, code: int, hello: bytes, echo: WireServer
) -> None:
    async with peer_of(echo.port) as peer:
        await in_lane(peer, hello)
        await peer.send(bad)
        await peer.send_eof()
        assert (await peer.hear()).code == code
    await echo.all_ended()
    assert echo.ended[0].close_code == code


@LANES
async def test_an_error_ends_the_connection_for_a_client_that_goes_on_sending(
    hello: bytes, echo: WireServer
) -> None:
    async with peer_of(echo.port) as peer:
        await in_lane(peer, hello)
        await peer.send(client_frame(3), client_frame(TEXT, b"x" * 1000) * 500)
        assert (await peer.hear()).code == 1002
        await peer.send(client_frame(TEXT, b"x" * 1000) * 500)
    await echo.all_ended()


@LANES
async def test_a_reset(hello: bytes, echo: WireServer) -> None:
    async with peer_of(echo.port) as peer:
        await in_lane(peer, hello)
        assert isinstance(peer.stream, trio.SocketStream)
        peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await peer.close()
        await echo.all_ended()
    assert echo.ended[0].close_code == 1006


# --- slow readers --------------------------------------------------------------------------------------


@pytest.fixture
async def narrow(nursery: trio.Nursery) -> AsyncIterator[WireServer]:
    """An echo with small bounds."""
    limits = WireLimits(queue_messages=100, queue_bytes=500_000, close_timeout=0.3)
    server = WireServer(limits=limits)
    await nursery.start(server.run)
    yield server


async def test_who_never_reads_is_closed_and_nobody_else_notices(narrow: WireServer) -> None:
    async with peer_of(narrow.port) as slow, peer_of(narrow.port) as other:
        await in_lane(slow, FRAGMENTS)
        await in_lane(other, client_frame(TEXT, b"slow"))
        wire = narrow.connections[0]
        most = 0
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                try:
                    while True:
                        await slow.stream.send_all(client_frame(TEXT, b"x" * 60_000))
                except trio.BrokenResourceError:
                    pass

            nursery.start_soon(ask)
            with trio.fail_after(DEADLINE):
                while wire in narrow.connections:
                    most = max(most, wire.outbox.size)
                    await other.send(client_frame(PING, b"there?"))
                    assert (await other.frame()).payload == b"there?"
        assert wire.close_code == 4001
        assert 300_000 < most < 600_000


async def test_a_slow_reader_that_wakes_up_is_told_why(narrow: WireServer) -> None:
    async with peer_of(narrow.port) as slow:
        await in_lane(slow, FRAGMENTS)
        (wire,) = narrow.connections
        whole = 0
        while wire.outbox.put(b"\x82\x7e\xea\x60" + bytes(60_000)):
            wire.outbox.flush()
            whole += 1
        assert wire.close_code == 4001
        heard = await slow.hear()
        assert heard.code == 4001
        # Nothing is torn: what the kernel had begun to take is whole, the rest was dropped.
        assert 0 < len(heard.messages) < whole
        assert {len(payload) for _, payload in heard.messages} == {60_000}
        await slow.send(client_frame(CLOSE, close_payload(4001)))
    await narrow.all_ended()


async def test_a_client_that_closes_before_it_reads_gets_everything(narrow: WireServer) -> None:
    """The Close waits behind what is queued, for as long as the deadline allows."""
    async with peer_of(narrow.port) as peer:
        await in_lane(peer, FRAGMENTS)
        (wire,) = narrow.connections
        frame = b"\x82\x7e\xea\x60" + bytes(60_000)
        count = 0
        while not wire.outbox.blocked or wire.outbox.size < 300_000:
            assert wire.outbox.put(frame)
            wire.outbox.flush()
            count += 1
        await peer.send(client_frame(CLOSE, close_payload(1000)))
        await trio.testing.wait_all_tasks_blocked(0.01)
        heard = await peer.hear()
        assert (len(heard.messages), heard.code) == (count, 1000)
    await narrow.all_ended()
