"""Bringing a connection's lagging places up to date, at the pace of its socket.

One task per connection, in its nursery, and only while something lags. It waits for the
socket to drain, sends what is next, and so on until every room is live again. See
``gateway/hub/lag.py`` for what a lag keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from gateway.broker.base import Event, HistoryPage, Since
from gateway.hub.lag import PAGE, Lag, Lost, State, Step
from gateway.hub.room import Membership
from gateway.session.context import Context
from protocol.envelope import Envelope
from protocol.errors import ProtocolError

__all__ = ["CatchUp"]

_RETRY: Final = 1.0
"""Seconds until the history is asked for again, where the broker does not say."""


class CatchUp:
    """The catch-up of one connection."""

    __slots__ = ("_running", "_session", "_turn")

    def __init__(self, session: Context) -> None:
        self._session = session
        self._running = False
        self._turn = 0

    def start(self) -> None:
        """Some room lags: see to it, if that is not being done already."""
        if not self._running:
            self._running = True
            self._session.transport.spawn(self._run)

    def replay(self, place: Membership, missed: Sequence[Event], page: HistoryPage, since: Since) -> None:
        """Send what was missed before a join; what does not fit now follows as the socket drains."""
        session = self._session
        position = page.seq
        if not page.complete and since.epoch == page.epoch:
            first = page.events[0].seq if page.events else page.seq + 1
            assert first is not None
            if since.seq < page.seq:
                self._announce(place, page.epoch, Lost(since.seq + 1, first - 1, "history"))
        for event in missed:
            assert event.seq is not None
            if not session.replay(event):
                position = event.seq - 1
                break
        lag = place.lag
        if position < page.seq:
            lag = lag or place.fall_behind(position, epoch=page.epoch, by_replay=True)
        elif lag is None or lag.state is not State.HELD:
            return
        lag.go_on_from(page.epoch, position)
        self.start()

    async def _run(self) -> None:
        session = self._session
        connection = session.connection
        assert connection is not None
        try:
            while not session.transport.closing:
                await session.transport.outbox.room()
                lags = [place for place in connection.places if place.lag and place.lag.due]
                if not lags:
                    return
                await self._advance(min(lags, key=_turn))
                session.transport.outbox.flush()
                await trio.lowlevel.checkpoint()
        finally:
            self._running = False

    async def _advance(self, place: Membership) -> None:
        """Send one room's next events."""
        lag = place.lag
        assert lag is not None
        self._turn += 1
        lag.turn = self._turn
        if lag.replays:
            await self._advance_from_history(place, lag)
            return
        for _ in range(PAGE):
            event = lag.head
            self._announce(place, lag.epoch, lag.gap())
            if event is None:
                place.caught_up()
                return
            if not self._session.replay(event):
                return
            lag.take()

    async def _advance_from_history(self, place: Membership, lag: Lag) -> None:
        session = self._session
        connection = session.connection
        room = place.room
        assert connection is not None
        try:
            page = await session.services.hub.history_of(
                room.channel, since=Since(lag.epoch, lag.position), limit=PAGE
            )
        except ProtocolError as error:
            # The broker is away or slow: the client stays, and its position waits.
            await trio.sleep(error.retry_after or _RETRY)
            return
        if place.lag is not lag or lag.state is State.HELD:  # joined again, or left, meanwhile
            return
        self._announce(place, page.epoch, lag.read(page))
        for event in page.events:
            assert event.seq is not None
            if event.seq not in lag.overtaken and place.wants(event) and not session.replay(event):
                return
            lag.overtaken.discard(event.seq)
            lag.position = event.seq
        # Nothing was awaited since the page was read, so nothing can have come in between.
        if lag.epoch == room.epoch and lag.position == room.seq:
            place.caught_up()
        elif not page.more and (lag.epoch != room.epoch or lag.position > room.seq):
            lag.step(Step.READ_UP)

    def _announce(self, place: Membership, epoch: str, lost: Lost | None) -> None:
        if lost is not None:
            self._session.send(
                Envelope(
                    "lost",
                    room=place.room.name,
                    epoch=epoch,
                    to=place.room.channel.to,
                    data={"from": lost.first, "to": lost.last, "reason": lost.reason},
                )
            )


def _turn(place: Membership) -> int:
    assert place.lag is not None
    return place.lag.turn
