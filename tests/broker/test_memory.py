"""The memory broker: its order, its window of message ids, and its bounds."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from gateway.broker import memory, notes
from gateway.broker.base import (
    Channel,
    Event,
    HistoryPage,
    Position,
    Since,
    Sink,
    organisation_channel,
    room_channel,
    user_channel,
)
from gateway.broker.bounds import Bounds, HistoryBounds
from gateway.broker.memory import MemoryBroker
from gateway.config.settings import HistorySettings, RoomHistory
from protocol.errors import ProtocolError

OVERHEAD = memory._EVENT_OVERHEAD
LATER = 10**13
"""Older than no bound, in ms since 1970."""


class ByName(MemoryBroker):
    """Takes names of rooms for channels."""

    async def subscribe(self, channel: str) -> None:
        await super().subscribe(named(channel))

    def unsubscribe(self, channel: str) -> None:
        super().unsubscribe(named(channel))

    async def history(self, channel: str, *, since: Since | None, limit: int) -> HistoryPage:
        return await super().history(named(channel), since=since, limit=limit)


def named(channel: str) -> Channel:
    return channel if isinstance(channel, Channel) else room_channel("acme", channel)


class Log:
    """A broker with a notebook: what it delivered, and the places that it gave."""

    def __init__(self, **settings: Any) -> None:
        self.broker = ByName(HistorySettings(**settings))
        self.delivered: list[Event] = []
        self.broker.attach(Sink(self.delivered.append))
        self._number = 0

    def publish(
        self,
        channel: str = "c",
        *,
        mid: str | None = None,
        size: int = 0,
        ts: int | None = None,
        ordered: bool = True,
    ) -> Position:
        self._number += 1
        places: list[Position | ProtocolError] = []
        self.broker.submit(
            Event(
                channel=named(channel),
                event="e",
                mid=mid or f"m{self._number}",
                ts=int(time.time() * 1000) if ts is None else ts,
                size=size,
                ordered=ordered,
            ),
            places.append,
        )
        (place,) = places
        assert isinstance(place, Position)
        return place

    async def kept(self, channel: str = "c") -> list[int | None]:
        return numbers(await self.broker.history(channel, since=None, limit=1000))


def numbers(page: HistoryPage) -> list[int | None]:
    return [event.seq for event in page.events]


def test_places_are_numbered_without_holes_in_each_channel() -> None:
    log = Log()
    places = [log.publish(channel) for channel in ("a", "b", "a", "a", "b")]
    assert [place.seq for place in places] == [1, 1, 2, 3, 2]
    assert places[0].epoch == places[2].epoch != places[1].epoch
    assert [(event.channel, event.seq, event.epoch) for event in log.delivered] == [
        (named(channel), place.seq, place.epoch) for channel, place in zip("abaab", places, strict=True)
    ]


def test_no_channel_is_another_ones() -> None:
    channels = {
        make(*names)
        for org in ("a", "a.b", "r", "o", "u")
        for make, names in (
            (organisation_channel, (org,)),
            (room_channel, (org, "o")),
            (room_channel, (org, "b")),
            (user_channel, (org, "o")),
            (user_channel, (org, "b")),
        )
    }
    assert len(channels) == 5 * 5


async def test_unordered_events_get_no_place() -> None:
    log = Log()
    log.publish()
    assert log.publish(ordered=False).seq == 0
    assert log.publish().seq == 2
    assert [event.seq for event in log.delivered] == [1, None, 2]
    assert await log.kept() == [1, 2]


async def test_the_same_mid_is_one_event() -> None:
    log = Log()
    first = log.publish(mid="x")
    log.publish(mid="y")
    assert log.publish(mid="x") == first
    assert log.publish("other", mid="x").epoch != first.epoch
    assert len(log.delivered) == 3
    assert await log.kept() == [1, 2]


def test_a_mid_is_known_as_long_as_its_event() -> None:
    log = Log(messages=2)
    for mid in ("x", "y", "z"):
        log.publish(mid=mid)
    assert [log.publish(mid=mid).seq for mid in ("y", "z")] == [2, 3]
    assert log.publish(mid="x").seq == 4


async def test_history_is_bounded_in_messages() -> None:
    log = Log(messages=3)
    for _ in range(10):
        log.publish()
    assert await log.kept() == [8, 9, 10]


async def test_history_is_bounded_in_bytes() -> None:
    log = Log(bytes=3 * (OVERHEAD + 100))
    for _ in range(10):
        log.publish(size=100)
    assert await log.kept() == [8, 9, 10]
    log.publish(size=2 * OVERHEAD)
    assert await log.kept() == [11]
    log.publish(size=10_000)
    assert await log.kept() == []
    log.publish()
    assert await log.kept() == [13]
    assert log.publish(mid="a").seq == 14, "what was dropped is dropped from the sum too"
    assert await log.kept() == [13, 14]


async def test_nothing_is_kept_when_so_configured() -> None:
    log = Log(messages=0)
    assert [log.publish(mid="x").seq for _ in range(3)] == [1, 2, 3]
    page = await log.broker.history("c", since=Since(log.publish().epoch, 3), limit=10)
    assert (numbers(page), page.seq, page.complete) == ([], 4, False)


async def test_history_is_bounded_in_age(clock: MockClock) -> None:
    log = Log(age=60)
    now = int(time.time() * 1000)
    for seconds in (3600, 61, 30, 0):
        log.publish(ts=now - seconds * 1000)
    log.publish("quiet", ts=now - 3600 * 1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.broker.run)
        await trio.sleep(6)
        assert await log.kept() == [3, 4]
        assert await log.kept("quiet") == []
        page = await log.broker.history("c", since=Since(log.delivered[0].epoch or "", 1), limit=10)
        assert (numbers(page), page.complete) == ([3, 4], False)
        assert log.publish("quiet").seq == 2, "the order outlives the events"
        nursery.cancel_scope.cancel()


async def test_rooms_without_a_member_are_bounded_the_longest_unused_first() -> None:
    log = Log(rooms=3)
    epochs = {channel: log.publish(channel).epoch for channel in ("a", "b", "c")}
    log.publish("a")
    await log.broker.history("b", since=None, limit=1)
    epochs["d"] = log.publish("d").epoch  # now c has to go
    for channel, seq in (("a", 3), ("b", 2), ("d", 2)):
        place = log.publish(channel)
        assert (place.epoch, place.seq) == (epochs[channel], seq)
    fresh = log.publish("c")
    assert fresh.seq == 1 and fresh.epoch != epochs["c"], "numbering that begins anew has another epoch"


async def test_rooms_with_a_member_are_not_forgotten() -> None:
    log = Log(rooms=2)
    for channel in ("one", "two", "three"):
        if channel == "three":
            log.publish(channel)  # known before its member came
        await log.broker.subscribe(channel)
        if channel != "three":
            log.publish(channel)
    for number in range(20):
        log.publish(f"other{number}")
    assert [log.publish(channel).seq for channel in ("one", "two", "three")] == [2, 2, 2]
    log.broker.unsubscribe("one")
    log.broker.unsubscribe("never")
    assert log.publish("one").seq == 3, "it is the last that was used"
    for number in range(2):
        log.publish(f"more{number}")
    assert log.publish("one").seq == 1
    assert [log.publish(channel).seq for channel in ("two", "three")] == [3, 3]
    assert len(log.broker._streams) == 4


async def test_asking_and_visiting_leave_nothing_behind() -> None:
    log = Log(rooms=10)
    first = log.publish("first")
    for number in range(1000):
        await log.broker.history(f"room{number}", since=None, limit=1)
        await log.broker.subscribe(f"visited{number}")
        log.broker.unsubscribe(f"visited{number}")
    assert list(log.broker._streams) == [named("first")] and not log.broker._subscribed
    assert log.publish("first") == first._replace(seq=2, mid="m2")


async def test_publishing_opens_no_more_rooms_than_allowed() -> None:
    log = Log(rooms=10)
    for number in range(1000):
        await log.broker.subscribe(f"visited{number}")
        log.publish(f"visited{number}", size=100)
        log.broker.unsubscribe(f"visited{number}")
    assert len(log.broker._streams) == 10 and not log.broker._subscribed
    assert log.broker.bytes == 10 * (OVERHEAD + 100)


async def test_an_empty_room_is_the_same_before_and_after_somebody_looked() -> None:
    log = Log()
    asked = await log.broker.history("c", since=None, limit=1)
    assert (asked.events, asked.seq, asked.more, asked.complete) == ([], 0, False, True)
    await log.broker.subscribe("c")
    joined = await log.broker.history("c", since=Since(asked.epoch, 0), limit=10)
    assert joined == asked
    log.broker.unsubscribe("c")
    assert log.publish("c") == Position(1, asked.epoch, "m1")
    page = await log.broker.history("c", since=Since(asked.epoch, 0), limit=10)
    assert (numbers(page), page.complete) == ([1], True)
    for since in (Since("other", 0), Since(asked.epoch, 1)):
        assert not (await log.broker.history("d", since=since, limit=1)).complete


async def test_what_is_too_old_is_not_shown_before_it_is_swept_either() -> None:
    log = Log(age=60)
    now = int(time.time() * 1000)
    for seconds in (61, 59, 0):
        log.publish(ts=now - seconds * 1000, mid=f"ago{seconds}")
    assert await log.kept() == [2, 3]
    assert log.publish(mid="ago59").seq == 2
    assert log.publish(mid="ago61").seq == 4


# --- bounds by pattern -----------------------------------------------------------------------------------


CHAT = room_channel("acme", "chat:1")
NEWS = room_channel("acme", "news")
TICKS = room_channel("acme", "chat:ticks")


def test_the_first_pattern_that_fits_counts_and_the_rest_is_the_default() -> None:
    settings = HistorySettings(
        messages=5,
        age=60,
        patterns={
            "chat:ticks": RoomHistory(messages=0),
            "chat:*": RoomHistory(messages=50, bytes=1000),
            "all": RoomHistory(age=3600),
        },
    )
    bounds = HistoryBounds(settings)
    for _ in range(2):  # found, then remembered
        assert bounds.of(TICKS) == Bounds(0, 2**20, 60)
        assert bounds.of(CHAT) == bounds.of(room_channel("globex", "chat:2")) == Bounds(50, 1000, 60)
        assert bounds.of(NEWS) == Bounds(5, 2**20, 3600)
        # Patterns are of rooms, and no organisation or user can be named like one.
        assert bounds.of(organisation_channel("chat:1")) == bounds.default == Bounds(5, 2**20, 60)
        assert bounds.of(user_channel("acme", "chat:1")) == Bounds(256, 2**20, 86400)


def test_the_remembered_bounds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.broker.bounds._FOUND.max_entries", 10)
    bounds = HistoryBounds(HistorySettings(patterns={"a*": RoomHistory(messages=1)}))
    for number in range(100):
        assert bounds.of(room_channel("acme", f"a{number}")).messages == 1
    assert len(bounds._cache) <= 10


async def test_each_room_is_kept_as_its_pattern_says() -> None:
    log = Log(
        messages=3,
        patterns={
            "chat:ticks": RoomHistory(messages=0),
            "chat:*": RoomHistory(messages=8, bytes=6 * (OVERHEAD + 10)),
            "news": RoomHistory(age=30),
        },
    )
    now = int(time.time() * 1000)
    for number in range(10):
        log.publish(CHAT, size=10)
        log.publish(TICKS)
        log.publish(NEWS, ts=now - (20 if number > 8 else 40) * 1000)
        log.publish("c")
    assert await log.kept(CHAT) == [5, 6, 7, 8, 9, 10]
    assert await log.kept(TICKS) == []
    assert await log.kept(NEWS) == [10]
    assert await log.kept() == [8, 9, 10]


async def test_all_rooms_together_are_bounded() -> None:
    each = OVERHEAD + 100
    log = Log(total_bytes=10 * each, messages=100)
    await log.broker.subscribe("live")
    for channel in ("old", "new"):
        for _ in range(3):
            log.publish(channel, size=100)
    for _ in range(5):
        log.publish("live", size=100)
    assert log.broker.bytes == 8 * each, "the room that nobody was in for longest is gone as a whole"
    assert await log.kept("old") == []
    assert await log.kept("new") == [1, 2, 3]
    for _ in range(20):
        log.publish("live", size=100)
        assert log.broker.bytes <= 10 * each
    assert await log.kept("new") == []
    assert await log.kept("live") == list(range(16, 26)), "then its own oldest go"
    await log.broker.subscribe("late")
    log.publish("late", size=100)
    assert await log.kept("late") == [], "there is nothing that could make room for it"
    log.broker.unsubscribe("live")
    log.publish("late", size=100)
    assert await log.kept("late") == [2]
    assert log.broker.bytes == each


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 500), st.booleans()), max_size=60))
async def test_the_sum_is_always_that_of_what_is_kept(steps: list[tuple[str, int, bool]]) -> None:
    log = Log(total_bytes=3000, bytes=2000, messages=4, rooms=2)
    for channel, size, member in steps:
        log.publish(channel, size=size)
        if member:
            await log.broker.subscribe(channel)
        else:
            log.broker.unsubscribe(channel)
        kept = [event.size + OVERHEAD for stream in log.broker._streams.values() for event in stream.events]
        assert log.broker.bytes == sum(kept) <= 3000


@given(
    kept=st.integers(0, 12),
    published=st.integers(0, 20),
    after=st.integers(0, 25),
    limit=st.integers(1, 10),
    known=st.booleans(),
)
async def test_pages(kept: int, published: int, after: int, limit: int, known: bool) -> None:
    """Against the definition: what is kept, behind ``after``, cut at ``limit``."""
    log = Log(messages=kept)
    for _ in range(published):
        log.publish()
    epoch = (await log.broker.history("c", since=None, limit=1)).epoch
    held = list(range(max(1, published - kept + 1), published + 1))
    page = await log.broker.history("c", since=Since(epoch if known else "other", after), limit=limit)
    assert (page.epoch, page.seq) == (epoch, published)
    if known and after <= published:
        wanted = [seq for seq in held if seq > after]
        complete = all(seq in held for seq in range(after + 1, published + 1))
    else:
        wanted, complete = held, False
    assert numbers(page) == wanted[:limit]
    assert page.more == (len(wanted) > limit)
    assert page.complete == complete
    newest = await log.broker.history("c", since=None, limit=limit)
    assert (numbers(newest), newest.more, newest.complete) == (held[-limit:], False, True)


# --- remember and recall ---------------------------------------------------------------------------------


async def test_what_is_remembered_is_recalled_for_its_time(clock: MockClock) -> None:
    broker = Log().broker
    broker.remember("acme", "k", b"one", 10)
    assert await broker.recall("acme", "k") == b"one"
    assert await broker.recall("acme", "other") is None
    broker.remember("acme", "k", b"two", 20)
    await trio.sleep(15)
    assert await broker.recall("acme", "k") == b"two"
    await trio.sleep(6)
    assert await broker.recall("acme", "k") is None


async def test_what_is_remembered_is_swept(clock: MockClock) -> None:
    broker = Log().broker
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        for number in range(100):
            broker.remember("acme", f"k{number}", b"x" * 100, 10)
        await trio.sleep(20)
        assert not len(broker._notes) and broker._notes.bytes == 0
        nursery.cancel_scope.cancel()


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    each = 3 + 100 + notes._OVERHEAD
    monkeypatch.setattr(memory, "_NOTES_BYTES", 10 * each)
    broker = Log().broker
    for number in range(10, 60):
        broker.remember("acme", f"k{number}", b"x" * 100, 10)
    found = [await broker.recall("acme", f"k{number}") is not None for number in range(10, 60)]
    assert found == [False] * 40 + [True] * 10
    broker.remember("acme", "k55", b"y" * 100, 10)  # which is no further one
    assert len(broker._notes) == 10 and broker._notes.bytes == 10 * each


async def test_nobody_drives_out_what_other_organisations_remember(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_NOTES_BYTES", 100_000)
    broker = Log().broker
    for number in range(10):
        broker.remember("victims", f"k{number}", b"mine", 10)
    for number in range(200):
        broker.remember("evil", f"k{number}", b"x" * 9000, 10)
    assert [await broker.recall("victims", f"k{number}") for number in range(10)] == [b"mine"] * 10
    assert await broker.recall("evil", "k199") is not None, "they have what is left"
    assert await broker.recall("evil", "k1") is None and await broker.recall("victims", "k199") is None


# --- organisations ---------------------------------------------------------------------------------------


async def test_nobody_drives_out_the_history_of_other_organisations() -> None:
    log = Log(total_bytes=100_000, rooms=50)
    for number in range(10):
        log.publish(room_channel("victims", f"r{number}"), size=100)
    member = room_channel("victims", "member")
    await log.broker.subscribe(member)
    log.publish(member, size=100)
    for number in range(500):
        log.publish(room_channel("evil", f"r{number}"), size=9000 if number % 2 else 0)
    for number in range(10):
        assert await log.kept(room_channel("victims", f"r{number}")) == [1]
    assert await log.kept(member) == [1]
    assert log.broker.bytes <= 100_000 and len(log.broker._streams) <= 51


async def test_who_keeps_most_gives_way_to_others_also_in_rooms_with_members() -> None:
    log = Log(total_bytes=50_000)
    big = room_channel("big", "r")
    await log.broker.subscribe(big)
    for _ in range(40):
        log.publish(big, size=1000)
    for number in range(10):
        log.publish(room_channel("small", f"r{number}"), size=1000)
    assert all([await log.kept(room_channel("small", f"r{number}")) == [1] for number in range(10)])
    assert (await log.kept(big))[-1] == 40 and log.broker.bytes <= 50_000


async def test_who_is_excluded_counts() -> None:
    log = Log(bytes=20_000)
    names = frozenset(f"user{number:05}" for number in range(100))
    places: list[Position | ProtocolError] = []
    for number in range(5):
        now = int(time.time() * 1000)
        event = Event(channel=named("c"), event="e", mid=f"m{number}", ts=now, exclude=names)
        log.broker.submit(event, places.append)
    assert await log.kept() == [5], "each takes more than ten thousand bytes"


def test_users_with_a_message_each_do_not_count_as_rooms() -> None:
    """A fifth of what the default must take: 100,000 users in 512 MiB."""
    settings = HistorySettings(rooms=1000, total_bytes=HistorySettings().total_bytes // 5)
    broker = MemoryBroker(settings)
    places: list[Any] = []
    for number in range(20_000):
        user = user_channel("acme", f"u{number}")
        broker.submit(Event(channel=user, event="e", mid=f"m{number}", ts=LATER, size=100), places.append)
    assert sum(isinstance(place, Position) for place in places) == 20_000
    assert len(broker._streams) == 20_000, "nobody was forgotten"
    assert 20_000 * 1000 < broker.bytes < settings.total_bytes


def test_users_give_way_when_they_take_too_much_and_behind_rooms() -> None:
    broker = MemoryBroker(HistorySettings(total_bytes=50_000, rooms=1))
    for number in range(10):
        broker.submit(Event(channel=user_channel("acme", f"u{number}"), event="e", mid="m", ts=LATER), ignore)
    broker.submit(Event(channel=room_channel("acme", "r"), event="e", mid="m", ts=LATER), ignore)
    assert {channel.kind.name for channel in broker._streams} == {"USER", "ROOM"}
    for number in range(10, 40):
        broker.submit(Event(channel=user_channel("acme", f"u{number}"), event="e", mid="m", ts=LATER), ignore)
    assert {channel.kind.name for channel in broker._streams} == {"USER"}
    assert broker.bytes <= 50_000
    assert [channel.name for channel in broker._streams] == [f"u{number}" for number in range(15, 40)]
    for channel in list(broker._streams):
        broker._remove(channel)
    assert (broker.bytes, broker._idle, broker._tenants) == (0, 0, {})


def ignore(_: object) -> None:
    """Whoever publishes does not ask for the place."""
