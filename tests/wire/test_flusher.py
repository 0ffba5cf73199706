"""The flusher: in slices, in order, and in turn for every organisation."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.wire.flusher import Flusher
from gateway.wire.outbox import Outbox
from gateway.wire.shares import FairQueue, Share

TURN = 16
"""Outboxes that a share empties in one turn."""
ALONE = 48
"""The same when no other share has anything."""


class Wire:
    """What all outboxes of a test send, in the order in which they do."""

    def __init__(self, flusher: Flusher | None = None) -> None:
        """A flusher of its own has a clock on which every send takes a second."""
        self.sent: list[tuple[str, bytes]] = []
        self.flusher = flusher or Flusher(slice_seconds=1e6, clock=lambda: float(len(self.sent)))

    def outboxes(self, name: str, count: int, share: Share | None = None) -> list[Outbox]:
        return [self._outbox(f"{name}{number}", share) for number in range(count)]

    def _outbox(self, name: str, share: Share | None) -> Outbox:
        class Socket:
            def send(_, data: bytes) -> int:
                self.sent.append((name, bytes(data)))
                return len(data)

        outbox = Outbox(self.flusher, Socket(), max_messages=100, max_bytes=10_000)  # type: ignore[arg-type]
        if share is not None:
            outbox.move(share)
        return outbox

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.sent]


def test_a_slice_ends_and_the_next_goes_on_where_it_ended() -> None:
    wire = Wire(Flusher(slice_seconds=0))
    outboxes = wire.outboxes("", 3 * ALONE)
    for outbox in outboxes:
        outbox.put(b"first")
    for turn in range(1, 4):
        for outbox in outboxes:
            outbox.put(b"%d" % turn)
        wire.flusher.flush()
        assert wire.names[-ALONE:] == [str(number) for number in range((turn - 1) * ALONE, turn * ALONE)]
    while wire.flusher.active:
        wire.flusher.flush()
    sent = b"".join(data for name, data in wire.sent if name == "0")
    last = b"".join(data for name, data in wire.sent if name == str(3 * ALONE - 1))
    assert (sent, last) == (b"first123", b"first123")


@pytest.mark.parametrize("start", ["wake", "flush"])
async def test_what_a_slice_leaves_is_flushed_by_itself_while_others_have_their_turns(start: str) -> None:
    wire = Wire(Flusher(slice_seconds=0))
    outboxes = wire.outboxes("", 10 * ALONE)
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
        assert len(wire.sent) == (ALONE if start == "flush" else 0)
        with trio.fail_after(60):
            await watch()
        nursery.cancel_scope.cancel()
    assert len(set(seen)) >= 5, "it held the loop for more than a slice"


def names(outboxes: list[Outbox], wire: Wire) -> list[str]:
    """Put something into each, flush, and return the order in which they sent."""
    for outbox in outboxes:
        outbox.put(b"x")
    before = len(wire.sent)
    wire.flusher.flush()
    return wire.names[before:]


def test_a_share_with_much_to_write_delays_another_by_one_turn() -> None:
    wire = Wire()
    loud, quiet = Share(wire.flusher), Share(wire.flusher)
    sent = names(wire.outboxes("loud", 1000, loud) + wire.outboxes("quiet", 1, quiet), wire)
    assert sent.index("quiet0") == TURN
    assert len(sent) == 1001


def test_a_turn_ends_by_the_bytes_it_sends() -> None:
    """Sixteen large ones would be milliseconds, over TLS above all."""
    wire = Wire()
    loud, quiet = Share(wire.flusher), Share(wire.flusher)
    large = wire.outboxes("loud", 40, loud)
    for outbox in large:
        outbox.put(bytes(1_000_000))
    sent = names(wire.outboxes("quiet", 1, quiet), wire)
    assert sent.index("quiet0") == 4
    assert max(len(data) for _, data in wire.sent) == 65536
    for name in {f"loud{number}" for number in range(40)}:
        assert sum(len(data) for sender, data in wire.sent if sender == name) == 1_000_000
    assert {outbox.sent_messages for outbox in large} == {1} and not any(outbox.size for outbox in large)


def test_a_share_that_has_used_less_than_its_share_goes_first() -> None:
    wire = Wire()
    loud, quiet = Share(wire.flusher), Share(wire.flusher)
    # Reading counts as well: the time that it took is the loud share's.
    loud.used += 100
    sent = names(wire.outboxes("loud", 200, loud) + wire.outboxes("quiet", 80, quiet), wire)
    assert all(name.startswith("quiet") for name in sent[:80])


def test_an_idle_share_does_not_save_up_time() -> None:
    wire = Wire()
    first, second = Share(wire.flusher), Share(wire.flusher)
    names(wire.outboxes("early", 1000, first), wire)
    sent = names(wire.outboxes("first", 500, first) + wire.outboxes("second", 500, second), wire)
    half = sum(name.startswith("second") for name in sent[: 20 * TURN])
    # The last turn of the other one, which was alone then, counts as not yet had.
    assert 10 * TURN <= half <= 10 * TURN + ALONE


def test_a_share_served_elsewhere_meanwhile_waits_for_its_turn() -> None:
    wire = Wire()
    reading = FairQueue(wire.flusher)
    loud, quiet = Share(wire.flusher), Share(wire.flusher)
    for share in (loud, quiet):
        reading.join(share)
    names(wire.outboxes("loud", 3, loud), wire)
    assert reading.next() is quiet
    assert (reading.least(), reading.next()) == (3.0, loud)


def test_writing_stops_for_a_share_that_has_used_less() -> None:
    wire = Wire()
    share = Share(wire.flusher)
    for outbox in wire.outboxes("", 100, share):
        outbox.put(b"x")
    wire.flusher.serve(limit=2 * TURN)
    assert len(wire.sent) == 3 * TURN
    wire.flusher.serve(limit=2 * TURN)
    assert len(wire.sent) == 3 * TURN


def test_weights_are_shares_of_the_time() -> None:
    wire = Wire()
    heavy, light = Share(wire.flusher, 3), Share(wire.flusher)
    sent = names(wire.outboxes("heavy", 500, heavy) + wire.outboxes("light", 500, light), wire)
    first = sent[: 8 * TURN]
    assert sum(name.startswith("heavy") for name in first) == 6 * TURN
    assert len(sent) == 1000
