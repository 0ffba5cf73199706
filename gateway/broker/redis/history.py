"""Pages of a channel's kept events, read from its stream."""

from __future__ import annotations

import time
from typing import Final

from gateway.broker.base import Channel, Event, HistoryPage, Since
from gateway.broker.bounds import Bounds
from gateway.broker.redis.connection import NotNow
from gateway.broker.redis.packets import Keys
from gateway.broker.redis.repair import UNUSED, Page, read
from gateway.broker.redis.servers import Servers, Shard

__all__ = ["read_history"]

_PAGE: Final = 64
"""Packets that are read at once."""
_TRIES: Final = 5


async def read_history(
    shard: Shard,
    servers: Servers,
    history: Bounds,
    channel: Channel,
    keys: Keys,
    *,
    since: Since | None,
    limit: int,
) -> HistoryPage:
    """As :meth:`~gateway.broker.base.Broker.history`; raises ``repair.UNREACHABLE``."""
    for _ in range(_TRIES):
        page = await _read(shard, servers, history, channel, keys, since, limit)
        if page is not None:
            return page
    raise NotNow("the history is trimmed faster than it can be read")


async def _read(
    shard: Shard,
    servers: Servers,
    history: Bounds,
    channel: Channel,
    keys: Keys,
    since: Since | None,
    limit: int,
) -> HistoryPage | None:
    """One attempt; None when the stream changed too much meanwhile."""
    kept = history.messages

    async def page_after(epoch: str, seq: int, back: int) -> Page:
        count = min(_PAGE, limit)
        return await read(shard, servers, keys, epoch=epoch, seq=seq, back=back, count=count)

    if since is None:
        page = await page_after("", 0, min(limit, kept))
    else:
        page = await page_after(since.epoch, since.seq, kept)
    place = page.place
    # Who saw that a channel was unused has missed nothing when all of its first order is there.
    saw_nothing = since == Since(UNUSED, 0) and place.base == 0
    known = since is not None and (since.epoch == place.epoch or saw_nothing) and since.seq <= place.seq
    # The stream is trimmed by whole packets, and not at once; what is older than the settings say is gone.
    floor = max(place.seq - kept, 0)
    if since is None:
        after = max(place.seq - min(limit, kept), 0)
    else:
        after = max(since.seq, floor) if known else floor
    oldest = (time.time() - history.age) * 1000
    events: list[Event] = []
    seq = after
    while limit:
        for packet, age in zip(page.packets, page.ages, strict=True):
            if events and packet.first > seq + 1:
                return None
            for event in packet.events(channel, seq):
                # An event says when it was by the clock of the node that published it, which may be wrong.
                if events or (event.ts >= oldest if age is None else age <= history.age):
                    events.append(event)
            seq = max(seq, packet.last)
        if since is None:
            del events[:-limit]
        # The state is that of the last page, so all events up to there must be read.
        if not page.packets or seq >= page.place.seq or (since is not None and len(events) > limit):
            break
        page = await page_after(place.epoch, seq, 0)
        if page.place.epoch != place.epoch:
            return None
    for event in events:
        # After a loss of data, older events keep their numbers in the epoch of today.
        event.epoch = place.epoch
    last = page.place.seq  # more may have come since the first page
    state = page.state
    if since is None:
        events = events[-limit:] if limit else []
        return HistoryPage(events, place.epoch, last, more=False, complete=True, state=state)
    more = len(events) > limit
    events = events[:limit]
    first = events[0].seq if events else last + 1
    complete = known and first == since.seq + 1
    return HistoryPage(events, place.epoch, last, more=more, complete=complete, state=state)
