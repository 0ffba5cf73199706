"""Bringing a connection's lagging rooms up to date, at the pace of its socket.

One task per connection, in its nursery, and only while something lags. It waits for the
socket to drain, sends what is next, and so on until every room is live again. See
``gateway/hub/lag.py`` for what a lag keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.broker.base import Event, HistoryPage, Since
from gateway.hub.lag import PAGE, Lag, Lost
from gateway.hub.room import Membership
from protocol.envelope import Envelope
from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from gateway.session.session import Session

__all__ = ["CatchUp"]


class CatchUp:
    """The catch-up of one connection."""

    __slots__ = ("_running", "_session")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._running = False

    def start(self) -> None:
        """Some room lags: see to it, if that is not being done already."""
        if not self._running:
            self._running = True
            self._session.wire.spawn(self._run)

    def replay(self, place: Membership, missed: Sequence[Event], page: HistoryPage, since: Since) -> None:
        """Send what was missed before a join; what does not fit now follows as the socket drains."""
        session = self._session
        if not page.complete and since.epoch == page.epoch:
            first = page.events[0].seq if page.events else page.seq + 1
            assert first is not None
            if since.seq < page.seq:
                self._announce(place, page.epoch, Lost(since.seq + 1, first - 1, "history"))
        for number, event in enumerate(missed):
            session.replay(event)
            if number % PAGE == PAGE - 1:
                session.outbox.flush()
                if session.outbox.congested:
                    assert event.seq is not None
                    place.fall_behind(event.seq, by_replay=True)
                    self.start()
                    return

    async def _run(self) -> None:
        connection = self._session.connection
        assert connection is not None
        try:
            while True:
                await self._session.outbox.room()
                lagging = [
                    place for place in connection.memberships.values() if place.lag and not place.lag.aligned
                ]
                if not lagging:
                    break
                for place in lagging:
                    if self._session.outbox.congested:
                        break
                    await self._advance(place)
                self._session.outbox.flush()
        finally:
            self._running = False

    async def _advance(self, place: Membership) -> None:
        """Send one room's next events."""
        lag = place.lag
        assert lag is not None
        if lag.replays:
            await self._advance_from_history(place, lag)
            return
        for _ in range(PAGE):
            waiting = lag.next()
            if waiting is None:
                place.caught_up()
                return
            lost, event = waiting
            self._announce(place, place.room.epoch, lost)
            self._session.replay(event)

    async def _advance_from_history(self, place: Membership, lag: Lag) -> None:
        session = self._session
        connection = session.connection
        assert connection is not None and place.room.name is not None
        epoch = place.room.epoch
        try:
            page = await session.services.hub.history(
                connection.org, place.room.name, since=Since(epoch, lag.position), limit=PAGE
            )
        except ProtocolError as error:
            # Without history the client has to come back for it.
            session.close(1013, error.message, retry_after=error.retry_after)
            return
        if place.lag is not lag:  # joined again, or left, meanwhile
            return
        lost, events = lag.read(page)
        self._announce(place, page.epoch, lost)
        for event in events:
            if place.wants(event):
                self._session.replay(event)
        # Nothing was awaited since the page was read, so nothing can have come in between.
        if lag.position == place.room.seq:
            place.caught_up()
        elif lag.position > place.room.seq:
            lag.aligned = True

    def _announce(self, place: Membership, epoch: str, lost: Lost | None) -> None:
        if lost is not None:
            self._session.send(
                Envelope(
                    "lost",
                    room=place.room.name,
                    epoch=epoch,
                    data={"from": lost.first, "to": lost.last, "reason": lost.reason},
                )
            )
