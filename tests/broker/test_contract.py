"""What every broker promises, asked of each of them; Redis is a real server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest
import trio
import trio.lowlevel

from gateway.broker.base import Effect, Position, Since, organisation_channel, room_channel, user_channel
from gateway.broker.state import STATE_BYTES
from protocol.errors import ErrorCode, ProtocolError
from tests.broker.nodes import Node, make, numbers, running
from tests.redis_server import RedisServer
from tests.support import DEADLINE, until

ROOM = room_channel("acme", "c")


class Start(Protocol):
    """Starts a node with the broker of the test's turn; ``history`` are settings."""

    def __call__(self, **history: Any) -> contextlib.AbstractAsyncContextManager[Node]: ...


@pytest.fixture(params=["memory", "redis", "cluster"])
def start(request: pytest.FixtureRequest) -> Start:
    address = "memory"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("shared_redis")
        address = server.url
    elif request.param == "cluster":
        address = request.getfixturevalue("shared_cluster")

    @contextlib.asynccontextmanager
    async def node(**history: Any) -> AsyncIterator[Node]:
        started = make(address, history=history, batch_bytes=1024)
        async with running(started):
            yield started

    return node


async def test_places_are_numbered_without_holes_in_each_channel(start: Start) -> None:
    channels = [room_channel("acme", "a"), room_channel("acme", "b"), room_channel("other", "a")]
    async with start() as node:
        for channel in channels:
            await node.broker.subscribe(channel)
        places = await node.publish_many([(channels[number % 3], {}) for number in range(300)])
        for number, channel in enumerate(channels):
            own = places[number::3]
            assert [place.seq for place in own] == list(range(1, 101))
            assert len({place.epoch for place in own}) == 1
            await until(lambda: len(node.got(channel)) == 100)  # noqa: B023
            assert node.got(channel) == list(range(1, 101))
            delivered = [event for event in node.delivered if event.channel == channel]
            assert [event.mid for event in delivered] == [place.mid for place in own]
            assert {event.epoch for event in delivered} == {own[0].epoch}
        assert len({place.epoch for place in places}) == 3


async def test_an_event_comes_as_it_was_published(start: Start) -> None:
    data = {"text": "grüß dich\n\0", "list": [1, -2.5, None, True, 2**63], "deep": {"": {}}}
    fields: dict[str, Any] = {
        "event": "message:new",
        "room": "c",
        "data": data,
        "sender": "alice",
        "ts": 1_760_000_000_123,
        "exclude": frozenset({"bob", "carol"}),
        "critical": True,
    }
    async with start(age=10**9) as node:
        await node.broker.subscribe(ROOM)
        place = await node.publish(ROOM, mid="m-1", **fields)
        await until(lambda: node.delivered)
        (kept,) = (await node.broker.history(ROOM, since=None, limit=5)).events
        for event in (node.delivered[0], kept):
            assert {name: getattr(event, name) for name in fields} == fields
            assert (event.mid, event.seq, event.epoch) == ("m-1", place.seq, place.epoch)
            assert event.ordered and event.channel == ROOM


async def test_unordered_events_get_no_place(start: Start) -> None:
    async with start() as node:
        await node.broker.subscribe(ROOM)
        await node.publish(ROOM)
        fields = {"ordered": False, "exclude_connection": "n-1", "room": "c"}
        assert (await node.publish(ROOM, **fields)).seq == 0
        assert (await node.publish(ROOM)).seq == 2
        await until(lambda: len(node.delivered) == 3)
        assert node.got(ROOM) == [1, None, 2]
        assert node.delivered[1].exclude_connection == "n-1"
        assert await node.kept(ROOM) == [1, 2]


async def test_users_have_no_order(start: Start) -> None:
    channel = user_channel("acme", "alice")
    async with start() as node:
        await node.broker.subscribe(channel)
        await node.publish(channel, ordered=False, data={"n": 1})
        await until(lambda: node.delivered)
        assert node.delivered[0].data == {"n": 1}


async def test_the_same_mid_is_one_event(start: Start) -> None:
    async with start() as node:
        await node.broker.subscribe(ROOM)
        first = await node.publish(ROOM, mid="x")
        await node.publish(ROOM, mid="y")
        assert await node.publish(ROOM, mid="x") == first
        together = await node.publish_many([(ROOM, {"mid": mid}) for mid in ("y", "z", "z", "x", "w")])
        assert [place.seq for place in together] == [2, 3, 3, 1, 4]
        other = await node.publish(organisation_channel("acme"), mid="x")
        assert (other.seq, other.epoch != first.epoch) == (1, True)
        await until(lambda: 4 in node.got(ROOM))
        assert [event.mid for event in node.delivered if event.channel == ROOM] == ["x", "y", "z", "w"]
        assert await node.kept(ROOM) == [1, 2, 3, 4]


async def test_history_is_bounded_in_messages(start: Start) -> None:
    async with start(messages=3) as node:
        await node.publish_many([(ROOM, {})] * 10)
        assert await node.kept(ROOM) == [8, 9, 10]
        await node.publish(ROOM)
        assert await node.kept(ROOM) == [9, 10, 11]


async def test_nothing_is_kept_when_so_configured(start: Start) -> None:
    async with start(messages=0) as node:
        places = [await node.publish(ROOM) for _ in range(3)]
        assert [place.seq for place in places] == [1, 2, 3]
        page = await node.broker.history(ROOM, since=Since(places[0].epoch, 2), limit=10)
        assert (numbers(page), page.seq, page.complete) == ([], 3, False)


async def test_history_is_bounded_in_bytes(start: Start) -> None:
    async with start(bytes=20_000, messages=1000) as node:
        for _ in range(50):
            await node.publish(ROOM, data="x" * 1000, size=1000)
        kept = await node.kept(ROOM)
        assert 10 <= len(kept) <= 20
        assert kept == list(range(51 - len(kept), 51)), "the newest, without holes"


async def test_what_is_too_old_is_not_shown(start: Start) -> None:
    now = int(time.time() * 1000)
    async with start(age=0.2) as node:
        await node.publish_many([(ROOM, {"ts": now - 3_600_000})] * 2)
        if node.broker.__class__.__name__ == "RedisBroker":  # the other one sweeps every 5 s: test_memory.py
            with trio.fail_after(DEADLINE):
                while await node.kept(ROOM):  # noqa: ASYNC110 - time tells nobody
                    await trio.sleep(0.02)
        last = await node.publish(ROOM, ts=now + 3_600_000)
        assert last.seq == 3, "the order outlives the events"


@pytest.mark.parametrize("kept", [0, 1, 7, 100])
async def test_pages(start: Start, kept: int) -> None:
    """Against the definition: what is kept, behind ``after``, cut at ``limit``."""
    published = 20
    held = list(range(max(1, published - kept + 1), published + 1))
    async with start(messages=kept) as node:
        half = [(ROOM, {})] * (published // 2)
        epoch = (await node.publish_many(half))[0].epoch
        await node.publish_many(half)
        for after in (0, 5, 12, 13, 14, 19, 20, 21, 400):
            for limit in (1, 3, 20, 1000):
                for known in (True, False):
                    since = Since(epoch if known else "other", after)
                    page = await node.broker.history(ROOM, since=since, limit=limit)
                    case = (after, limit, known)
                    assert (page.epoch, page.seq) == (epoch, published), case
                    if known and after <= published:
                        wanted = [seq for seq in held if seq > after]
                        complete = all(seq in held for seq in range(after + 1, published + 1))
                    else:
                        wanted, complete = held, False
                    assert numbers(page) == wanted[:limit], case
                    assert page.more == (len(wanted) > limit), case
                    assert page.complete == complete, case
        for limit in (1, 3, 20, 1000):
            newest = await node.broker.history(ROOM, since=None, limit=limit)
            assert (numbers(newest), newest.more, newest.complete) == (held[-limit:], False, True)
        position = await node.broker.history(ROOM, since=None, limit=0)
        assert (position.events, position.epoch, position.seq) == ([], epoch, published)


async def test_a_channel_where_nothing_was_published(start: Start) -> None:
    async with start() as node:
        page = await node.broker.history(ROOM, since=Since("other", 5), limit=5)
        assert (page.events, page.seq, page.more, page.complete) == ([], 0, False, False)
        await node.broker.subscribe(ROOM)
        place = await node.publish(ROOM)
        assert place.seq == 1
        assert (await node.broker.history(ROOM, since=None, limit=1)).epoch == place.epoch
        page = await node.broker.history(ROOM, since=Since(page.epoch, 0), limit=5)
        assert (numbers(page), page.epoch, page.complete) == ([1], place.epoch, True), "it has missed nothing"


async def test_effects_change_the_state(start: Start) -> None:
    async with start() as node:
        await node.publish(ROOM, effect=Effect("pin", {"text": "grüß"}), mid="a")
        await node.publish(ROOM, effect=Effect("other", [1, 2]))
        await node.publish(ROOM, effect=Effect("pin", "again"), mid="a")  # which is no further event
        page = await node.broker.history(ROOM, since=None, limit=0)
        assert (page.seq, dict(page.state)) == (2, {"pin": {"text": "grüß"}, "other": [1, 2]})
        await node.publish_many([(ROOM, {"effect": Effect("pin")}), (ROOM, {"effect": Effect("pin", 1)})])
        await node.publish(ROOM, effect=Effect("other"))
        assert dict((await node.broker.history(ROOM, since=None, limit=5)).state) == {"pin": 1}
        other = room_channel("acme", "other")
        assert not (await node.broker.history(other, since=None, limit=5)).state


async def test_a_state_is_bounded(start: Start) -> None:
    async with start() as node:
        half = "x" * (STATE_BYTES // 2)
        await node.publish(ROOM, effect=Effect("a", half))
        outcomes = [node.submit(ROOM, effect=Effect("b", half)), node.submit(ROOM, data="plain")]
        await until(lambda: all(outcomes))
        (refused,), (placed,) = outcomes
        assert isinstance(refused, ProtocolError) and refused.code == ErrorCode.TOO_LARGE
        assert isinstance(placed, Position) and placed.seq == 2, "what is refused has no place"
        await node.publish(ROOM, effect=Effect("a"))
        await node.publish(ROOM, effect=Effect("b", half))
        assert list((await node.broker.history(ROOM, since=None, limit=5)).state) == ["b"]


async def test_a_page_and_its_state_agree_while_effects_come(start: Start) -> None:
    async with start() as node:
        await node.broker.subscribe(ROOM)
        first = await node.publish(ROOM, effect=Effect("last", 1))
        outcomes: list[list[Position | ProtocolError]] = []
        for number in range(2, 800):
            outcomes.append(node.submit(ROOM, effect=Effect("last", number), data=number))
            if number % 7 == 0:
                for since in (None, Since(first.epoch, max(1, number - 40))):
                    page = await node.broker.history(ROOM, since=since, limit=[0, 3, 1000][number % 3])
                    assert page.state["last"] == page.seq
                    if page.events and not page.more:
                        assert page.events[-1].seq == page.seq
        await until(lambda: all(outcomes))


async def test_a_room_may_be_called_anything(start: Start) -> None:
    rooms = [room_channel("acme", name) for name in ("p", "o", "u", "r", "c", "")]
    async with start() as node:
        for room in rooms:
            await node.broker.subscribe(room)
        await node.publish_many([(room, {}) for _ in range(3) for room in rooms])
        for room in rooms:
            await until(lambda: node.got(room) == [1, 2, 3])  # noqa: B023


async def test_what_is_published_before_subscribe_returns_is_in_history(start: Start) -> None:
    async with start() as node:
        await node.publish_many([(ROOM, {})] * 5)
        outcomes = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.broker.subscribe, ROOM)
            for _ in range(20):
                outcomes.append(node.submit(ROOM))
                await trio.lowlevel.checkpoint()
        page = await node.broker.history(ROOM, since=None, limit=1000)
        await until(lambda: all(outcomes))
        await node.publish(ROOM)
        await until(lambda: 26 in node.got(ROOM))
        delivered = [seq for seq in node.got(ROOM) if seq is not None]
        assert set(delivered) | set(numbers(page)) == set(range(1, 27))
        assert delivered == list(range(delivered[0], 27))


async def test_one_who_comes_back_hears_what_comes_then(start: Start) -> None:
    async with start() as node:
        for number in range(1, 4):
            await node.broker.subscribe(ROOM)
            await node.publish(ROOM)
            await until(lambda: number in node.got(ROOM))  # noqa: B023
            node.broker.unsubscribe(ROOM)
        node.broker.unsubscribe("never")


async def test_everything_is_answered_once(start: Start) -> None:
    async with start() as node:
        outcomes = []
        for number in range(2000):
            outcomes.append(node.submit(room_channel("acme", f"r{number % 50}"), ordered=number % 7 != 0))
            if number % 300 == 0:
                await trio.lowlevel.checkpoint()
        await until(lambda: all(outcomes))
        await trio.testing.wait_all_tasks_blocked()
        assert {len(outcome) for outcome in outcomes} == {1}


async def test_what_is_remembered_is_recalled(start: Start) -> None:
    async with start() as node:
        node.broker.remember("acme", "k", b"\0one\xff", 100)
        assert await node.broker.recall("acme", "k") == b"\0one\xff"
        node.broker.remember("acme", "k", b"two", 100)
        node.broker.remember("acme", "short", b"x", 0.05)
        assert await node.broker.recall("acme", "k") == b"two"
        assert await node.broker.recall("acme", "other") is None
        with trio.fail_after(60):
            while await node.broker.recall("acme", "short") is not None:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_what_was_delivered_is_flushed(start: Start) -> None:
    """Whoever queues frames in ``deliver`` learns when to send them, unless a call of its own caused it."""
    async with start() as node:
        await node.broker.subscribe(ROOM)
        before = node.settled
        await node.publish(ROOM)
        await until(lambda: node.delivered)
        if not isinstance(node.broker, type(make("memory").broker)):
            await until(lambda: node.settled > before)


async def test_it_is_ready(start: Start) -> None:
    async with start() as node:
        assert node.broker.ready() is None
