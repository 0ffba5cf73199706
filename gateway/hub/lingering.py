"""Users who poll are in their rooms between two polls as well: their place there outlives the poll.

A poll leaves nothing behind on its node but this: who is to be counted as present, in which room, until when.
It ends when the user polls again here, or when its time is over, for all by one timer; users and rooms are
bounded, and the organisation that has most of them loses its oldest first.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

import trio

from gateway.broker.channels import Channel, room_channel
from gateway.hub.presence import Presence
from gateway.wire.flusher import Flusher

__all__ = ["Lingering"]

_MOST: Final = 50_000
"""Users in rooms, of all organisations; each takes some 400 bytes."""
_PAUSE: Final = 0.1
"""Seconds between two looks, so that what ends together is told together."""

Place = tuple[Channel, str]


class Lingering:
    """The users of one node who are between two polls. Nothing here waits, but :meth:`run`."""

    def __init__(self, presence: Presence, flusher: Flusher, *, most: int = _MOST) -> None:
        self._presence = presence
        self._flusher = flusher
        self._most = most
        self._until: dict[str, OrderedDict[Place, float]] = {}
        """Organisation → places, and when they end; the one that was left first is first."""
        self._due: list[tuple[float, str, Place]] = []
        """A heap; a place that was taken again is in it until its time comes."""
        self._sooner = trio.Event()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def stay(self, org: str, user: str, rooms: Iterable[str], seconds: float) -> None:
        """Count ``user`` as present in ``rooms`` for ``seconds`` from now on, or until :meth:`back`."""
        until = trio.current_time() + seconds
        for room in rooms:
            place = (room_channel(org, room), user)
            places = self._until.setdefault(org, OrderedDict())
            if place not in places:
                self._count += 1
                self._presence.linger(*place)
            places[place] = max(until, places.get(place, 0.0))
            places.move_to_end(place)
            if not self._due or until < self._due[0][0]:
                self._sooner.set()
            heappush(self._due, (until, org, place))
        while self._count > self._most or len(self._due) > 4 * self._most:
            self._give_way()

    def back(self, org: str, user: str, rooms: Iterable[str]) -> None:
        """``user`` is in these rooms by a connection again."""
        for room in rooms:
            self._end(org, (room_channel(org, room), user))

    def _end(self, org: str, place: Place) -> None:
        places = self._until.get(org)
        if places is not None and places.pop(place, None) is not None:
            self._count -= 1
            self._presence.gone(*place)
            if not places:
                del self._until[org]

    def _give_way(self) -> None:
        if self._count > self._most:
            org = max(self._until, key=lambda each: len(self._until[each]))
            self._end(org, next(iter(self._until[org])))
        else:  # polls that come and go quickly leave old times behind
            self._due = sorted(
                (until, org, place) for org in self._until for place, until in self._until[org].items()
            )  # which is a heap

    async def run(self) -> None:
        """End what is due, until cancelled."""
        while True:
            with trio.move_on_at(self._due[0][0] if self._due else math.inf):
                await self._sooner.wait()
            if self._sooner.is_set():
                self._sooner = trio.Event()
                continue
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                _, org, place = heappop(self._due)
                places = self._until.get(org)
                if places is not None and places.get(place, math.inf) <= now:
                    self._end(org, place)
            self._flusher.wake()
            await trio.sleep(_PAUSE)
