"""What the slow lane adds to its library, and what it relies on there."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing
from trio_websocket import wrap_server_stream

from gateway.wire import slow_lane
from gateway.wire.closewatch import CloseWatch
from tests.framing import CLOSE, CLOSE_CODES, CONTINUATION, PING, TEXT, client_frame, close_payload
from tests.wire.support import UPGRADE, WireServer, fragments, peer_of, read_head

BEFORE = [
    client_frame(TEXT, b"\x88\x82" * 20),
    client_frame(TEXT, b"", fin=False),
    client_frame(PING, b"\x88" * 125),
    client_frame(CONTINUATION, b"x" * 300, fin=False),
    client_frame(CONTINUATION, b"y" * 70_000),
]


def found(data: bytes, cuts: list[int]) -> tuple[int, int] | None:
    """Where in ``data``, given in pieces, the Close is found, and its code."""
    watch = CloseWatch()
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        close = watch.find(data[start:stop])
        if close is not None:
            return start + close[0], close[1]
    return None


@pytest.mark.parametrize("code", [None, *CLOSE_CODES])
def test_a_close_is_found_wherever_it_is_cut(code: int | None) -> None:
    chance = random.Random(code or 0)
    close = client_frame(CLOSE, b"" if code is None else close_payload(code, b"why"))
    for before in range(len(BEFORE) + 1):
        head = b"".join(BEFORE[:before])
        data = head + close + b"\x88\x80\x00\x00\x00\x00 more"
        assert found(data, []) == (len(head), code or 1005)
        for cut in range(len(head), len(head) + len(close)):
            # A piece in front of it has been passed on by then; the rest of the Close is not.
            assert found(data, [cut]) == (len(head) if cut == len(head) else cut, code or 1005)
        for _ in range(20):
            cuts = sorted(chance.sample(range(1, len(head) + len(close)), min(5, len(close))))
            place = found(data, cuts)
            assert place is not None and place[1] == (code or 1005)
            assert place[0] == max(cut for cut in [len(head), *cuts] if cut < len(head) + len(close))


@pytest.mark.parametrize(
    "frame",
    [
        client_frame(CLOSE, close_payload(1005)),
        client_frame(CLOSE, close_payload(1016)),
        client_frame(CLOSE, b"\x03"),
        client_frame(CLOSE, close_payload(1000, b"\xff")),
        client_frame(CLOSE, close_payload(1000), fin=False),
        client_frame(CLOSE, close_payload(1000, b"x" * 200)),
        client_frame(CLOSE, close_payload(1000), rsv=4),
        b"\x88\x02\x03\xe8",
    ],
    ids=["1005", "1016", "one byte", "utf8", "fragment", "long", "reserved bit", "no mask"],
)
def test_an_ill_formed_close_is_left_to_the_library(frame: bytes) -> None:
    assert found(frame, []) is None
    assert all(found(frame, [cut]) is None for cut in range(1, len(frame)))


async def test_a_message_in_pieces_without_end_costs_no_more_than_its_bytes(
    echo: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes: list[slow_lane._LaneStream] = []

    class Lane(slow_lane._LaneStream):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            lanes.append(self)

    monkeypatch.setattr(slow_lane, "_LaneStream", Lane)
    async with peer_of(echo.port) as peer:
        await peer.send(
            client_frame(TEXT, b"a", fin=False), client_frame(CONTINUATION, b"", fin=False) * 60_000
        )
        await peer.send(client_frame(PING, b"there?"))
        assert (await peer.frame()).payload == b"there?"
        (lane,) = lanes
        assert lane.websocket is not None
        # Those of one slice may have come since they were last joined.
        assert len(lane.websocket._message_parts) < slow_lane._MAX_PARTS + slow_lane._MAX_SLICE / 6
        await peer.send(client_frame(CONTINUATION, b"z"))
        assert (await peer.frame()).payload == b"az"


async def test_the_library_keeps_a_message_in_a_list_that_may_be_shortened(nursery: trio.Nursery) -> None:
    """This is private to trio-websocket: when it fails, ``slow_lane.py`` needs another way to join."""
    ours, theirs = trio.testing.memory_stream_pair()
    await ours.send_all(UPGRADE)
    request = await wrap_server_stream(nursery, theirs)
    socket = await request.accept()
    await read_head(ours)
    for payloads, message in (((b"a", b"b", b"c"), "abc"), ((b"d", b"e"), "de")):
        frames = fragments(TEXT, *payloads)
        last = client_frame(CONTINUATION, payloads[-1])
        await ours.send_all(frames.removesuffix(last))
        await trio.testing.wait_all_tasks_blocked()
        parts = socket._message_parts
        assert parts == [payload.decode() for payload in payloads[:-1]]
        parts[:] = ["".join(parts)]
        await ours.send_all(last)
        assert await socket.get_message() == message
    assert socket._message_parts == []
    nursery.cancel_scope.cancel()
