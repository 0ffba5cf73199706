"""The flusher: in slices, in order, and in turn for every organisation."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.wire.flusher import Flusher, Lane
from gateway.wire.outbox import Outbox

TURN = 32
"""Outboxes that a lane of weight 1 empties in one turn."""


class Wire:
    """What all outboxes of a test send, in the order in which they do."""

    def __init__(self, flusher: Flusher) -> None:
        self.flusher = flusher
        self.sent: list[tuple[str, bytes]] = []

    def outboxes(self, name: str, count: int, lane: Lane | None = None) -> list[Outbox]:
        return [self._outbox(f"{name}{number}", lane) for number in range(count)]

    def _outbox(self, name: str, lane: Lane | None) -> Outbox:
        class Socket:
            def send(_, data: bytes) -> int:
                self.sent.append((name, bytes(data)))
                return len(data)

        outbox = Outbox(self.flusher, Socket(), max_messages=100, max_bytes=10_000)  # type: ignore[arg-type]
        if lane is not None:
            outbox.lane = lane
        return outbox

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.sent]


def test_a_slice_ends_and_the_next_goes_on_where_it_ended() -> None:
    wire = Wire(Flusher(slice_seconds=0))
    outboxes = wire.outboxes("", 3 * TURN)
    for outbox in outboxes:
        outbox.put(b"first")
    for turn in range(1, 4):
        for outbox in outboxes:
            outbox.put(b"%d" % turn)
        wire.flusher.flush()
        assert wire.names[-TURN:] == [str(number) for number in range((turn - 1) * TURN, turn * TURN)]
    while wire.flusher.active:
        wire.flusher.flush()
    sent = b"".join(data for name, data in wire.sent if name == "0")
    last = b"".join(data for name, data in wire.sent if name == str(3 * TURN - 1))
    assert (sent, last) == (b"first123", b"first123")


@pytest.mark.parametrize("start", ["wake", "flush"])
async def test_what_a_slice_leaves_is_flushed_by_itself_while_others_have_their_turns(start: str) -> None:
    wire = Wire(Flusher(slice_seconds=0))
    outboxes = wire.outboxes("", 10 * TURN)
    seen: list[int] = []

    async def watch() -> None:
        while len(wire.sent) < len(outboxes):
            seen.append(len(wire.sent))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.flusher.run)
        await trio.testing.wait_all_tasks_blocked()
        for outbox in outboxes:
            outbox.put(b"x")
        getattr(wire.flusher, start)()
        assert len(wire.sent) == (TURN if start == "flush" else 0)
        with trio.fail_after(5):
            await watch()
        nursery.cancel_scope.cancel()
    assert len(set(seen)) >= 5, "it held the loop for more than a slice"


def test_a_lane_with_much_to_write_delays_another_by_one_turn() -> None:
    wire = Wire(Flusher(slice_seconds=60))
    loud, quiet = Lane(wire.flusher), Lane(wire.flusher)
    for outbox in wire.outboxes("loud", 1000, loud):
        outbox.put(b"x")
    for outbox in wire.outboxes("quiet", 1, quiet):
        outbox.put(b"x")
    wire.flusher.flush()
    assert wire.names.index("quiet0") == TURN
    assert len(wire.sent) == 1001


def test_weights_are_turns() -> None:
    wire = Wire(Flusher(slice_seconds=60))
    heavy, light = Lane(wire.flusher, 3), Lane(wire.flusher)
    for name, lane in (("heavy", heavy), ("light", light)):
        for outbox in wire.outboxes(name, 500, lane):
            outbox.put(b"x")
    wire.flusher.flush()
    first = wire.names[: 8 * TURN]
    assert sum(name.startswith("heavy") for name in first) == 6 * TURN
    assert len(wire.sent) == 1000
