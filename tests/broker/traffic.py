"""Publishing without pause, and the check that nothing was lost, repeated or reordered on the way."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from gateway.broker.base import Position, room_channel
from protocol.errors import ProtocolError
from tests.broker.nodes import Node
from tests.support import until

__all__ = ["Traffic", "traffic"]


class Traffic:
    """Every node publishes to every room, one event after the other; what is refused is published again."""

    def __init__(self, nodes: Sequence[Node], rooms: int) -> None:
        self.nodes = nodes
        self.rooms = [room_channel("acme", f"room{number}") for number in range(rooms)]
        self.placed: dict[str, dict[str, Position]] = {room: {} for room in self.rooms}
        """Of each room: message id → its place, of all that were acknowledged."""
        self.refusals: list[ProtocolError] = []
        self.stopped = False
        self.paused = False
        self._under_way = 0
        self._numbers = itertools.count()

    @property
    def count(self) -> int:
        """How many were acknowledged."""
        return sum(len(places) for places in self.placed.values())

    async def flow(self, number: int = 100) -> None:
        """Wait until so many more are acknowledged."""
        wanted = self.count + number
        await until(lambda: self.count >= wanted, f"{number} more acknowledged events")

    async def idle(self) -> None:
        """Wait, once ``paused`` is set, for what is under way."""
        await until(lambda: not self._under_way, "the answers")

    async def publish(self, node: Node, room: str) -> None:
        """Publish to one room until stopped."""
        while not self.stopped:
            if self.paused:
                await trio.sleep(0.01)
                continue
            self._under_way += 1
            mid = f"t{next(self._numbers)}"
            while True:
                outcome = node.submit(room, mid=mid)
                while not outcome:  # noqa: ASYNC110 - quicker than an event for each
                    await trio.sleep(0.001)
                (result,) = outcome
                if isinstance(result, Position):
                    self.placed[room][mid] = result
                    self._under_way -= 1
                    break
                self.refusals.append(result)
                assert result.retry_after, result
                await trio.sleep(0.02)

    async def check(self, *, resets: int = 0) -> None:
        """Every node got every acknowledged event in order, once, with at most so many changes of epoch."""
        for room, node in itertools.product(self.rooms, self.nodes):
            places = self.placed[room]
            last = max(places.values(), key=lambda place: place.seq)
            await until(
                lambda: any(place == last[:2] for place in _places(node, room)),  # noqa: B023
                f"the last event of {room}",
            )
            delivered = [event for event in node.delivered if event.channel == room]
            mids = [event.mid for event in delivered]
            assert len(set(mids)) == len(mids), "delivered twice"
            orders = [list(group) for _, group in itertools.groupby(delivered, lambda event: event.epoch)]
            assert len(orders) <= resets + 1
            for order in orders:
                seqs = [event.seq for event in order]
                assert seqs == list(range(seqs[0] or 0, (seqs[0] or 0) + len(seqs))), "a hole"
            assert set(places) <= set(mids) or resets, "acknowledged and lost"
            for event in delivered:
                if event.mid in places and (event.epoch == last.epoch or not resets):
                    assert (event.seq, event.epoch) == places[event.mid][:2]
            assert not node.lost
            assert len([each for each in node.resets if each[0] == room]) <= resets
        for room in self.rooms:
            assert len({tuple(_places(node, room)[-100:]) for node in self.nodes}) == 1, (
                "not the same everywhere"
            )


def _places(node: Node, room: str) -> list[tuple[int | None, str | None]]:
    return [(event.seq, event.epoch) for event in node.delivered if event.channel == room]


@asynccontextmanager
async def traffic(*nodes: Node, rooms: int = 3) -> AsyncIterator[Traffic]:
    """Traffic for the length of the block; what was under way at its end is still answered."""
    flowing = Traffic(nodes, rooms)
    for room, node in itertools.product(flowing.rooms, nodes):
        await node.broker.subscribe(room)
    async with trio.open_nursery() as nursery:
        for room, node in itertools.product(flowing.rooms, nodes):
            nursery.start_soon(flowing.publish, node, room)
        await flowing.flow()
        yield flowing
        flowing.stopped = True
