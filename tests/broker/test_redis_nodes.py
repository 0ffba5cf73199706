"""Several nodes on one Redis: one order for all, and each reads what its own rooms need."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.broker.base import Channel, Event, Since, room_channel, user_channel
from gateway.broker.redis.packets import Keys
from gateway.broker.redis.scripts import Script
from gateway.config.settings import UserHistory
from protocol.errors import ErrorCode, ProtocolError
from tests.broker.nodes import cluster_of, fresh_prefix, measure, numbers, redis_of
from tests.broker.traffic import traffic
from tests.redis_server import RedisServer, redis_server
from tests.support import until

ROOM = room_channel("acme", "c")


@pytest.fixture(params=["redis", "cluster"])
def address(request: pytest.FixtureRequest) -> str:
    if request.param == "cluster":
        found: str = request.getfixturevalue("shared_cluster")
        return found
    server: RedisServer = request.getfixturevalue("shared_redis")
    return server.url


async def test_all_publish_and_all_see_one_order(address: str) -> None:
    async with cluster_of(3, address) as nodes:
        async with traffic(*nodes, rooms=5) as flowing:
            await flowing.flow(600)
        await flowing.check()
        assert not flowing.refusals


async def test_history_and_notes_are_the_same_everywhere(address: str) -> None:
    async with cluster_of(2, address) as (one, two):
        places = await one.publish_many([(ROOM, {"data": number}) for number in range(10)])
        page = await two.broker.history(ROOM, since=Since(places[0].epoch, 4), limit=3)
        assert [(event.seq, event.data) for event in page.events] == [(5, 4), (6, 5), (7, 6)]
        assert (page.epoch, page.seq, page.more, page.complete) == (places[0].epoch, 10, True, True)
        one.broker.remember("acme", "resume:x", b"state", 60)
        with trio.fail_after(60):
            while await two.broker.recall("acme", "resume:x") is None:  # noqa: ASYNC110
                await trio.sleep(0.005)
        assert await two.broker.recall("acme", "resume:x") == b"state"


async def test_a_mid_is_known_on_every_node(address: str) -> None:
    async with cluster_of(2, address) as (one, two):
        await two.broker.subscribe(ROOM)
        place = await one.publish(ROOM, mid="x")
        assert await two.publish(ROOM, mid="x") == place
        both = [node.submit(ROOM, mid=f"y{number}") for number in range(50) for node in (one, two)]
        await until(lambda: all(both))
        assert [both[number] == both[number + 1] for number in range(0, 100, 2)] == [True] * 50
        await until(lambda: len(two.delivered) == 51)
        assert two.got(ROOM) == list(range(1, 52))


async def test_a_node_is_sent_only_what_its_rooms_need(address: str) -> None:
    other = room_channel("acme", "other")
    async with cluster_of(2, address) as (one, two):
        await two.broker.subscribe(other)
        await one.publish_many([(ROOM, {})] * 100)
        await one.publish(other)
        await until(lambda: two.got(other) == [1])
        assert measure(two, "broker_entries_received_total") == 1
        assert measure(two, "broker_channels") == 1


async def test_many_events_travel_in_one_entry(address: str) -> None:
    async with cluster_of(2, address) as (one, two):
        await two.broker.subscribe(ROOM)
        await one.publish_many([(ROOM, {})] * 1000)
        await until(lambda: len(two.delivered) == 1000)
        assert measure(two, "broker_entries_received_total") < 20
        assert measure(one, "broker_batches_total") < 20
        assert measure(one, "broker_batched_events_total") == 1000


async def test_a_batch_is_bounded(address: str) -> None:
    async with cluster_of(1, address, batch=10, batch_bytes=10_000) as (node,):
        await node.publish_many([(ROOM, {})] * 100)
        assert measure(node, "broker_batches_total") >= 10
        await node.publish_many([(ROOM, {"data": "x" * 5000})] * 10)
        assert measure(node, "broker_batches_total") >= 15


async def test_users_are_reached_on_every_node(address: str) -> None:
    channel = user_channel("acme", "alice")
    async with cluster_of(3, address) as nodes:
        for node in nodes[:2]:
            await node.broker.subscribe(channel)
        await nodes[2].publish(channel, ordered=False, data="hello")
        await until(lambda: nodes[0].delivered and nodes[1].delivered)
        assert [event.data for event in nodes[0].delivered + nodes[1].delivered] == ["hello"] * 2
        assert not nodes[2].delivered


async def test_a_room_left_and_entered_again(address: str) -> None:
    async with cluster_of(2, address, linger=0.05) as (one, two):
        for number in range(1, 4):
            await two.broker.subscribe(ROOM)
            await one.publish(ROOM)
            await until(lambda: number * 2 - 1 in two.got(ROOM))  # noqa: B023
            two.broker.unsubscribe(ROOM)
            await until(lambda: measure(two, "broker_channels") == 0, "that the room is forgotten")
            await one.publish(ROOM)
        assert two.got(ROOM) == [1, 3, 5]
        assert not two.lost and not two.resets


async def test_what_comes_while_a_room_lingers_is_not_delivered(address: str) -> None:
    async with cluster_of(1, address) as (node,):
        await node.broker.subscribe(ROOM)
        node.broker.unsubscribe(ROOM)
        await node.publish(ROOM)
        await node.broker.subscribe(ROOM)
        await node.publish(ROOM)
        await until(lambda: 2 in node.got(ROOM))
        assert node.got(ROOM) in ([2], [1, 2]), "the first may have been under way"


async def test_a_publish_is_answered_when_it_is_in_redis(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server, cluster_of(1, server.url, heartbeat=60) as (node,):
        await node.publish(ROOM)
        server.pause()
        outcome = node.submit(ROOM)
        await trio.sleep(0.1)
        assert not outcome and not node.delivered
        server.resume()
        await until(lambda: outcome)
        assert (await server.ask("XLEN", f"{redis_of(node)._settings.prefix}:{{acme%00r%00c}}")) == 2


async def test_organisations_take_turns(shared_redis: RedisServer) -> None:
    """One event of another organisation does not wait for five hundred of the first."""
    slow = 0.0005
    loud, quiet = room_channel("loud", "r"), room_channel("quiet", "r")
    async with cluster_of(2, shared_redis.url) as (one, two):
        order: list[Event] = []

        def deliver(event: Event) -> None:
            order.append(event)
            deadline = trio.current_time() + slow
            while trio.current_time() < deadline:
                pass

        two.broker.sink.deliver = deliver
        for channel in (loud, quiet):
            await two.broker.subscribe(channel)
        outcomes = [one.submit(loud) for _ in range(500)]
        await until(lambda: all(outcomes))
        outcomes.append(one.submit(quiet))
        await until(lambda: len(order) == 501)
        assert [event.channel for event in order].index(quiet) < 450
        assert [event.seq for event in order if event.channel == loud] == list(range(1, 501))


# --- for other parts of the gateway ------------------------------------------------------------------------

COUNT = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


async def test_commands_and_scripts(address: str) -> None:
    async with cluster_of(2, address) as nodes:
        one, two = (redis_of(node).client for node in nodes)
        key = one.key("presence", "acme\0r\0{odd}")
        assert await one.call(key, b"ZADD", key, 5, b"alice") == 1
        assert await two.call(key, b"ZRANGE", key, 0, -1) == [b"alice"]
        counter = one.key("count", "x")
        assert [await client.run_script(COUNT, [counter], [3]) for client in (one, two)] == [3, 6]
        with pytest.raises(ProtocolError) as refused:
            await one.call(counter, b"ZADD", counter, 1, b"x")
        assert refused.value.code == ErrorCode.BROKER_UNAVAILABLE


async def test_nodes_tell_each_other(address: str) -> None:
    async with cluster_of(3, address) as nodes:
        heard: list[tuple[int, bytes]] = []
        joined = [0, 0]
        clients = [redis_of(node).client for node in nodes]
        assert await clients[2].tell("all", b"too early") == 0
        for number in range(2):

            def hear(payload: bytes, number: int = number) -> None:
                heard.append((number, payload))

            def join(number: int = number) -> None:
                joined[number] += 1

            clients[number].listen("all", hear, join)
        await until(lambda: joined == [1, 1])
        assert await clients[2].tell("all", b"\0\xff") == 2
        await until(lambda: len(heard) == 2)
        assert sorted(heard) == [(0, b"\0\xff"), (1, b"\0\xff")]


async def test_a_page_survives_trimming_meanwhile(address: str) -> None:
    """Pages are read while others publish so much that the oldest are trimmed away."""
    async with cluster_of(2, address, history={"messages": 300}) as (one, two):
        async with traffic(one, rooms=1) as flowing:
            room = flowing.rooms[0]
            for _ in range(40):
                page = await two.broker.history(room, since=None, limit=200)
                seqs = [seq or 0 for seq in numbers(page)]
                assert seqs == list(range(page.seq - len(seqs) + 1, page.seq + 1))


async def test_a_node_with_a_wrong_clock_hides_no_history(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster_of(2, address, history={"age": 60.0}) as (one, two):
        hour = 3600
        place = await one.publish(ROOM, ts=int(time.time() - hour) * 1000)  # its clock was set back
        await one.publish(ROOM)
        assert await two.kept() == [1, 2]
        now = time.time
        for ahead in (-hour, hour):
            monkeypatch.setattr(time, "time", lambda ahead=ahead: now() + ahead)
            assert await two.kept() == [1, 2]
            page = await two.broker.history(ROOM, since=Since(place.epoch, 0), limit=10)
            assert (numbers(page), page.complete) == ([1, 2], True)


async def test_history_of_a_release_without_the_time_of_writing_goes_by_its_events(
    shared_redis: RedisServer,
) -> None:
    prefix = fresh_prefix()
    async with cluster_of(1, shared_redis.url, prefix=prefix, history={"age": 60.0}) as (node,):
        await node.publish(ROOM, ts=int(time.time() - 3600) * 1000)
        await node.publish(ROOM)
        assert await node.kept() == [1, 2]
        stream = Keys.of(prefix, ROOM).stream
        entries = await shared_redis.ask("XRANGE", stream, "-", "+")
        await shared_redis.ask("DEL", stream)
        for id, (name, packet, *_) in entries:
            await shared_redis.ask("XADD", stream, id, name, packet)
        assert await node.kept() == [2]


# --- small orders: their message ids are in the hash -----------------------------------------------------

ALICE = user_channel("acme", "alice")


async def fields_of(server: RedisServer, prefix: str, channel: Channel) -> dict[str, str]:
    """The hash beside a channel's stream."""
    found: dict[bytes, bytes] = await server.ask("HGETALL", Keys.of(prefix, channel).meta)
    return {name.decode(): value.decode() for name, value in found.items()}


@pytest.mark.parametrize("together", [1, 3])
async def test_a_mid_is_known_when_a_small_order_has_grown(shared_redis: RedisServer, together: int) -> None:
    """Up to 32 events there is no key for the ids, which costs a user's order half of its commands."""
    prefix = fresh_prefix()
    async with cluster_of(2, shared_redis.url, prefix=prefix) as (one, two):
        places = []
        for first in range(0, 30, together):
            batch: list[tuple[Channel, dict[str, Any]]] = [
                (ALICE, {"mid": f"m{number}"}) for number in range(first, first + together)
            ]
            places += await one.publish_many(batch)
        assert [place.seq for place in places] == list(range(1, 31))
        assert await shared_redis.ask("EXISTS", Keys.of(prefix, ALICE).seen) == 0
        assert [await two.publish(ALICE, mid=f"m{number}") for number in (0, 29)] == [places[0], places[29]]
        again: list[tuple[Channel, dict[str, Any]]] = [
            (ALICE, {"mid": mid}) for mid in ("m0", "new", "new", "m29")
        ]
        assert [place.seq for place in await two.publish_many(again)] == [1, 31, 31, 30]
        for number in range(32, 36):
            assert (await one.publish(ALICE, mid=f"m{number}")).seq == number
        ids = await shared_redis.ask("ZRANGE", Keys.of(prefix, ALICE).seen, "0", "-1")
        assert len(ids) == 35
        assert not [name for name in await fields_of(shared_redis, prefix, ALICE) if name.startswith("i:")]
        for mid, seq in {"m0": 1, "new": 31, "m29": 30, "m35": 35}.items():
            assert (await two.publish(ALICE, mid=mid)).seq == seq
        assert await one.kept(ALICE) == list(range(1, 36))


async def test_a_small_order_knows_no_more_mids_than_its_window(shared_redis: RedisServer) -> None:
    history = {"user": UserHistory(messages=3)}
    async with cluster_of(1, shared_redis.url, history=history, window=3, tail=3) as (node,):
        for number in range(5):
            await node.publish(ALICE, mid=f"m{number}")
        assert (await node.publish(ALICE, mid="m4")).seq == 5
        assert (await node.publish(ALICE, mid="m0")).seq == 6


async def test_a_release_without_small_orders_writes_in_between(shared_redis: RedisServer) -> None:
    """During a roll: what it placed is known to the new one, and the numbers go on."""
    prefix = fresh_prefix()
    keys = Keys.of(prefix, ALICE)
    async with cluster_of(1, shared_redis.url, prefix=prefix) as (node,):
        epoch = (await node.publish(ALICE, mid="m1")).epoch
        assert (await fields_of(shared_redis, prefix, ALICE))["few"] == "1"
        packet = f'{epoch} 2 1 old.1 - 100\n[["e","m2",{int(time.time() * 1000)},null,null,null,false]]'
        await shared_redis.ask("XADD", keys.stream, "2-0", "p", packet, "at", str(int(time.time() * 1000)))
        await shared_redis.ask("ZADD", keys.seen, "2", "m2")
        await shared_redis.ask("HSET", keys.meta, "seq", "2", "tag", "old.1", "total", "100")
        assert [(await node.publish(ALICE, mid=mid)).seq for mid in ("m1", "m2", "m3", "m1")] == [1, 2, 3, 1]
        assert await node.kept(ALICE) == [1, 2, 3]
        assert "few" not in await fields_of(shared_redis, prefix, ALICE)
