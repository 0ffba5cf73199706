"""What happens to publishes, deliveries and order when Redis or the way to it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from gateway.broker.base import Position, Since, organisation_channel, room_channel
from gateway.broker.redis import client
from gateway.broker.redis.connection import LinkLost
from protocol.errors import ErrorCode, ProtocolError
from tests.broker.nodes import Node, cluster_of, make, measure, numbers, redis_of, running
from tests.broker.traffic import traffic
from tests.redis_server import RedisServer, redis_server
from tests.support import until

ROOM = room_channel("acme", "c")
STREAM = "{acme%00r%00c}"
# Impatient, so that the tests are short.
QUICK: dict[str, Any] = {"timeout": 1.0, "patience": 0.2, "heartbeat": 0.1, "max_backoff": 0.1, "sweep": 60.0}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as started:
        yield started


@pytest.fixture
async def lasting(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A server that has on disk what it acknowledged."""
    async with redis_server(tmp_path, persistent=True) as started:
        yield started


async def away(*nodes: Node) -> None:
    """Wait until the nodes have noticed."""
    await until(lambda: all(node.broker.ready() is not None for node in nodes), "the loss of the connection")


def prefix(node: Node) -> str:
    return redis_of(node)._settings.prefix


# --- the broker keeps its data -----------------------------------------------------------------------------


async def test_killed_and_started_again_with_its_data(lasting: RedisServer) -> None:
    async with cluster_of(3, lasting.url, **QUICK) as nodes:
        async with traffic(*nodes) as flowing:
            for _ in range(2):
                lasting.stop()
                await away(*nodes)
                await lasting.start()
                await flowing.flow()
        await flowing.check()
        assert not any(node.resets for node in nodes)


async def test_connections_are_cut(server: RedisServer) -> None:
    # With so few remembered, message ids do not help: batches are recognised by their numbers.
    few = {"window": 1, "history": {"messages": 1}}
    async with cluster_of(2, server.url, **QUICK | few) as nodes:
        async with traffic(*nodes) as flowing:
            for kind in ("normal", "pubsub", "normal", "normal", "pubsub"):
                await server.ask("CLIENT KILL", "TYPE", kind, "SKIPME", "yes")
                await flowing.flow(50)
        await flowing.check()
        assert not flowing.refusals, "each was sent again, and carried out once"
        assert measure(nodes[0], "broker_disconnects_total") >= 5


async def test_paused_while_publishing(server: RedisServer) -> None:
    async with cluster_of(2, server.url, **QUICK) as nodes:
        async with traffic(*nodes) as flowing:
            server.pause()
            await until(lambda: len(flowing.refusals) >= 6, "refusals")
            server.resume()
            await flowing.flow()
        await flowing.check()
        codes = {error.code for error in flowing.refusals}
        assert codes <= {ErrorCode.BROKER_UNAVAILABLE, ErrorCode.TIMEOUT}


async def test_what_was_sent_and_never_answered_is_published_once(server: RedisServer) -> None:
    """The answer was lost, the publisher was told so, and publishes again with the same message id."""
    async with cluster_of(1, server.url, **QUICK) as (node,):
        await node.broker.subscribe(ROOM)
        await node.publish(ROOM)
        server.pause()
        error = await node.refused(channel=ROOM, mid="x")
        assert (error.code, error.retry_after) == (ErrorCode.TIMEOUT, 1.0)
        server.resume()
        await node.ready()
        assert (await node.publish(ROOM, mid="x")).seq == 2
        assert (await node.publish(ROOM, mid="y")).seq == 3
        await until(lambda: 3 in node.got(ROOM))
        assert [event.mid for event in node.delivered][1:] == ["x", "y"]


async def test_a_pause_is_noticed_although_nothing_is_asked(server: RedisServer) -> None:
    async with cluster_of(1, server.url, **QUICK) as (node,):
        server.pause()
        await away(node)
        assert "no answer" in (node.broker.ready() or "")
        server.resume()
        await node.ready()


async def test_an_error_is_a_sign_of_life(server: RedisServer) -> None:
    """As is that of a server which loads its data: commands wait, and the connection stays."""
    await server.ask("ACL SETUSER", "default", "-ping")
    async with cluster_of(1, server.url, **QUICK) as (node,):
        await node.publish(ROOM)
        trips = measure(node, "broker_round_trips_total")
        await trio.sleep(0.3)
        assert (await node.publish(ROOM)).seq == 2
        assert measure(node, "broker_disconnects_total") == 0
        assert measure(node, "broker_round_trips_total") == trips + 1, "the pings were refused"


async def test_away_and_back(server: RedisServer) -> None:
    """Refused at once, with a number and a hint; clients may go on listening, and all goes on by itself."""
    async with cluster_of(2, server.url, **QUICK) as nodes:
        one, two = nodes
        for node in nodes:
            await node.broker.subscribe(ROOM)
        await one.publish(ROOM)
        server.stop()
        await away(*nodes)
        error = await one.refused(channel=ROOM)
        assert (error.code, error.retry_after) == (ErrorCode.BROKER_UNAVAILABLE, 1.0)
        (error,) = one.submit(channel=ROOM)  # long known by now, so nothing is waited for
        assert isinstance(error, ProtocolError) and error.code == ErrorCode.BROKER_UNAVAILABLE
        assert measure(one, "broker_up") == 0 and measure(one, "broker_refused_total") == 2
        for ask in (
            lambda: one.broker.history(ROOM, since=None, limit=1),
            lambda: one.broker.subscribe(room_channel("acme", "new")),
            lambda: one.broker.recall("acme", "x"),
            lambda: redis_of(one).client.tell("x", b""),
        ):
            with pytest.raises(ProtocolError) as refused:
                await ask()
            assert refused.value.code == ErrorCode.BROKER_UNAVAILABLE and refused.value.retry_after
        one.broker.remember("acme", "kept", b"meanwhile", 60)
        assert await one.broker.recall("acme", "kept") == b"meanwhile", "still known here"
        await server.start()
        for node in nodes:
            await node.ready()
        place = await two.publish(ROOM)
        for node in nodes:
            await until(lambda: any(event.epoch == place.epoch for event in node.delivered))  # noqa: B023
        assert [event.mid for event in one.delivered] == [event.mid for event in two.delivered]
        with trio.fail_after(60):
            while await two.broker.recall("acme", "kept") is None:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def used(server: RedisServer) -> int:
    """Bytes that a server uses, as ``maxmemory`` counts them."""
    answer = await server.ask("INFO", "memory")
    return next(int(line[12:]) for line in answer.decode().splitlines() if line.startswith("used_memory:"))


async def test_full(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without memory refuses every batch; that is said once, and it is not taken for away."""
    logged: list[str] = []
    monkeypatch.setattr(client, "log", SimpleNamespace(error=lambda event, **_: logged.append(event)))
    async with cluster_of(1, server.url, **QUICK) as (node,):
        await node.publish()
        await server.ask("CONFIG SET", "maxmemory", "1")
        for _ in range(3):
            error = await node.refused()
            assert (error.code, error.retry_after) == (ErrorCode.BROKER_UNAVAILABLE, 1.0)
            assert error.message == "the broker is full"
        assert logged == ["broker refused a command"]
        await until(lambda: node.broker.ready() is not None, "it says that it is full")
        new = await node.refused(channel=room_channel("acme", "new"))
        assert new.code == ErrorCode.BROKER_UNAVAILABLE, "rooms that begin are refused as well"
        before = await used(server)
        for room in ("r", "newer"):
            error = await node.refused(channel=room_channel("acme", room), data="a" * 1_000_000)
            assert error.message == "the broker is full"
        assert await used(server) < before + 500_000, "not even what is refused is taken into memory"
        await server.ask("CONFIG SET", "maxmemory", "0")
        await node.ready()
        await node.publish()


async def test_a_node_starts_before_its_broker(server: RedisServer) -> None:
    server.stop()
    node = make(server.url, **QUICK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.broker.run)
        assert node.broker.ready() is not None
        await until(lambda: "not connected yet" not in (node.broker.ready() or ""))
        assert (await node.refused()).code == ErrorCode.BROKER_UNAVAILABLE
        await server.start()
        await node.ready()
        assert (await node.publish()).seq == 1
        nursery.cancel_scope.cancel()


async def test_what_waits_for_a_sender_is_refused_as_well(server: RedisServer) -> None:
    """More rooms than calls on their way: some of what is given up was never tried."""
    async with cluster_of(1, server.url, **QUICK) as (node,):
        await node.publish(ROOM)
        server.pause()
        outcomes = []
        for number in range(8):
            outcomes.append(node.submit(room_channel("acme", f"room{number}")))
            await trio.testing.wait_all_tasks_blocked()
        await until(lambda: all(outcomes), "refusals")
        assert all(isinstance(outcome[0], ProtocolError) for outcome in outcomes)
        server.resume()
        await node.ready()
        assert (await node.publish(ROOM)).seq == 2
        assert measure(node, "broker_pending") == 0


async def test_what_waits_is_bounded(server: RedisServer) -> None:
    async with cluster_of(1, server.url, pending=10, timeout=60.0, patience=60.0, heartbeat=60.0) as (node,):
        await node.publish(ROOM)
        server.pause()
        waiting = [node.submit(ROOM) for _ in range(10)]
        error = await node.refused(channel=ROOM)
        assert (error.code, error.retry_after) == (ErrorCode.OVERLOADED, 1.0)
        server.resume()
        await until(lambda: all(waiting))
        assert all(isinstance(outcome[0], Position) for outcome in waiting)
        assert (await node.publish(ROOM)).seq == 12


async def test_what_waits_is_bounded_in_bytes(server: RedisServer) -> None:
    async with cluster_of(1, server.url, pending_bytes=5000, timeout=60.0, heartbeat=60.0) as (node,):
        server.pause()
        waiting = [node.submit(ROOM, data="x" * 3000) for _ in range(2)]
        assert (await node.refused(channel=ROOM)).code == ErrorCode.OVERLOADED
        server.resume()
        await until(lambda: all(waiting))


async def test_scripts_are_loaded_again(server: RedisServer) -> None:
    async with cluster_of(1, server.url) as (node,):
        await node.publish(ROOM)
        await server.ask("SCRIPT FLUSH")
        assert (await node.publish(ROOM)).seq == 2


async def test_what_others_write_there_does_no_harm(server: RedisServer) -> None:
    async with cluster_of(2, server.url, **QUICK) as (one, two):
        await two.broker.subscribe(ROOM)
        await one.publish(ROOM)
        await until(lambda: two.got(ROOM) == [1])
        name = f"{prefix(one)}:{STREAM}"
        await server.ask("PUBLISH", name, "garbage")
        barred = cut_off(two)
        await one.publish(ROOM)
        await server.ask("XADD", name, "2-5", "p", "garbage")
        await one.publish(ROOM)
        barred.clear()
        await until(lambda: two.got(ROOM) == [1, 2, 3])
        assert not two.lost and not two.resets


async def test_a_subscriber_that_redis_cuts_off_for_its_backlog(server: RedisServer) -> None:
    """Pub/sub is no more than a doorbell: what did not fit into its buffer is read from the stream."""
    await server.ask("CONFIG SET", "client-output-buffer-limit", "pubsub 1024 1024 1")
    history = {"messages": 1000, "bytes": 2**24}
    async with cluster_of(2, server.url, history=history, batch_bytes=2**20, **QUICK) as (one, two):
        await two.broker.subscribe(ROOM)
        places = await one.publish_many([(ROOM, {"data": "x" * 1000})] * 1000)
        await until(lambda: 1000 in two.got(ROOM))
        assert two.got(ROOM) == list(range(1, 1001))
        assert {event.epoch for event in two.delivered} == {places[0].epoch}
        assert measure(two, "broker_repairs_total") >= 1 and not two.lost


async def test_a_slow_node_reads_no_more_than_it_can_hold(server: RedisServer) -> None:
    """Its memory is bounded, the others do not wait for it, and it misses nothing."""
    async with cluster_of(2, server.url, inbox_bytes=50_000, batch=32) as (one, two):
        most = 0.0

        def deliver_slowly(event: object) -> None:
            nonlocal most
            most = max(most, measure(two, "broker_inbox_bytes"))
            deadline = trio.current_time() + 0.001
            while trio.current_time() < deadline:
                pass
            take(event)

        take, two.broker.sink.deliver = two.broker.sink.deliver, deliver_slowly
        await two.broker.subscribe(ROOM)
        await one.publish_many([(ROOM, {"data": "x" * 1000})] * 600)
        await until(lambda: 600 in two.got(ROOM))
        assert two.got(ROOM) == list(range(1, 601))
        # What a few chunks of the socket hold may come on top.
        assert most < 50_000 + 200_000


async def test_a_message_that_is_lost_unseen(server: RedisServer) -> None:
    """The subscription is gone and nobody said so: the next comparison finds out."""
    async with cluster_of(2, server.url, **QUICK | {"sweep": 0.2}) as (one, two):
        await two.broker.subscribe(ROOM)
        await one.publish(ROOM)
        await until(lambda: two.got(ROOM) == [1])
        (shard,) = redis_of(two)._servers.shards
        shard.feed.tell(b"UNSUBSCRIBE", f"{prefix(two)}:{STREAM}")
        await trio.sleep(0.1)
        await one.publish(ROOM)
        await until(lambda: two.got(ROOM) == [1, 2])
        await one.publish(ROOM)
        await until(lambda: two.got(ROOM) == [1, 2, 3])


# --- what cannot be had any more is announced --------------------------------------------------------------


def cut_off(node: Node) -> list[bool]:
    """Keep a node away from Redis until the list is emptied."""
    barred = [True]
    (shard,) = redis_of(node)._servers.shards
    locate = shard.feed._locate

    async def not_now() -> object:
        if barred:
            raise LinkLost("cut off by the test")
        return await locate()

    for link in (shard.commands, shard.feed):
        link._locate = not_now  # type: ignore[assignment]
        link.drop("cut off by the test")
    return barred


async def test_more_is_missed_than_the_stream_holds(server: RedisServer) -> None:
    history = {"messages": 10}
    async with cluster_of(2, server.url, history=history, batch=10, tail=100, **QUICK) as (one, two):
        await two.broker.subscribe(ROOM)
        await one.publish(ROOM)
        await until(lambda: two.got(ROOM) == [1])
        barred = cut_off(two)
        for _ in range(60):
            await one.publish_many([(ROOM, {})] * 50)
        barred.clear()
        await until(lambda: 3001 in two.got(ROOM))
        ((channel, first, last),) = two.lost
        assert (channel, first) == (ROOM, 2)
        assert two.got(ROOM) == [1, *range(last + 1, 3002)]
        assert measure(two, "broker_lost_events_total") == last - 1 > 1000


async def test_data_is_gone_after_a_restart(server: RedisServer) -> None:
    channels = [ROOM, organisation_channel("acme")]
    async with cluster_of(2, server.url, **QUICK) as nodes:
        for node in nodes:
            for channel in channels:
                await node.broker.subscribe(channel)
        old = {channel: (await nodes[0].publish_many([(channel, {})] * 5))[0].epoch for channel in channels}
        await until(lambda: all(5 in node.got(channel) for node in nodes for channel in channels))
        server.stop()
        await away(*nodes)
        await server.start()
        for node in nodes:
            await until(lambda: len(node.resets) == 2, "that everybody is told")  # noqa: B023
        for channel in channels:
            new = {(epoch, seq) for node in nodes for name, epoch, seq in node.resets if name == channel}
            ((epoch, seq),) = new
            assert epoch != old[channel] and seq == 0
            place = await nodes[1].publish(channel)
            assert (place.seq, place.epoch) == (1, epoch)
            for node in nodes:
                await until(lambda: node.got(channel)[5:] == [1])  # noqa: B023
            page = await nodes[0].broker.history(channel, since=Since(old[channel], 3), limit=10)
            assert (numbers(page), page.epoch, page.complete) == ([1], epoch, False)


async def test_data_is_gone_while_the_connection_stays(server: RedisServer) -> None:
    async with cluster_of(2, server.url, **QUICK) as (one, two):
        await two.broker.subscribe(ROOM)
        first = await one.publish(ROOM)
        await until(lambda: two.got(ROOM) == [1])
        await server.ask("FLUSHALL")
        place = await one.publish(ROOM)
        assert place.seq == 1 and place.epoch != first.epoch
        await until(lambda: two.got(ROOM) == [1, 1])
        assert two.resets == [(ROOM, place.epoch, 0)]


async def test_data_is_gone_and_nobody_publishes(server: RedisServer) -> None:
    async with cluster_of(1, server.url, **QUICK | {"sweep": 0.2}) as (node,):
        await node.broker.subscribe(ROOM)
        await node.publish(ROOM)
        await until(lambda: node.got(ROOM) == [1])
        await server.ask("FLUSHALL")
        await until(lambda: node.resets)


async def test_data_is_gone_of_a_room_where_nothing_was_said(server: RedisServer) -> None:
    async with cluster_of(2, server.url, **QUICK) as (one, two):
        await two.broker.subscribe(ROOM)
        old = (await two.broker.history(ROOM, since=None, limit=0)).epoch
        await server.ask("FLUSHALL")
        place = await one.publish(ROOM)
        await until(lambda: two.got(ROOM) == [1])
        assert two.resets == [(ROOM, place.epoch, 0)] and place.epoch != old


async def go_back(server: RedisServer, *keep: tuple[str, bytes]) -> None:
    """Make Redis what it was when ``keep`` was dumped, as a fail-over to a replica that was behind would."""
    for key, value in keep:
        await server.ask("RESTORE", key, "0", value, "REPLACE")


async def test_some_data_is_gone(server: RedisServer) -> None:
    """A fail-over to a replica that was behind: the same order, without its last events."""
    async with cluster_of(2, server.url, **QUICK) as (one, two):
        await two.broker.subscribe(ROOM)
        old = (await one.publish_many([(ROOM, {})] * 3))[0].epoch
        keys = [f"{prefix(one)}:{STREAM}{suffix}" for suffix in ("", ":m", ":i")]
        kept = [(key, await server.ask("DUMP", key)) for key in keys]
        for _ in range(3):
            await one.publish(ROOM)
        await until(lambda: 6 in two.got(ROOM))
        await go_back(server, *kept)
        # Other events get the numbers that two's members have seen already.
        first = await one.publish(ROOM)
        await until(lambda: two.resets, "that everybody is told")
        ((_, epoch, base),) = two.resets
        assert epoch != old and first.seq == 4
        for _ in range(3):
            place = await one.publish(ROOM)
            assert place.epoch == epoch
            await until(lambda: place.seq in [e.seq for e in two.delivered if e.epoch == epoch])  # noqa: B023
        page = await two.broker.history(ROOM, since=Since(epoch, base), limit=10)
        assert page.complete and {event.epoch for event in page.events} == {epoch}
        delivered = [event.seq for event in two.delivered if event.epoch == epoch]
        assert delivered == list(range(base + 1, place.seq + 1))


async def test_some_data_is_gone_and_more_came_since(server: RedisServer) -> None:
    """The node was away while the numbers that it had seen were given away again, and further ones."""
    async with cluster_of(2, server.url, **QUICK) as (one, two):
        await two.broker.subscribe(ROOM)
        await one.publish_many([(ROOM, {})] * 3)
        keys = [f"{prefix(one)}:{STREAM}{suffix}" for suffix in ("", ":m", ":i")]
        kept = [(key, await server.ask("DUMP", key)) for key in keys]
        for _ in range(3):
            await one.publish(ROOM)
        await until(lambda: 6 in two.got(ROOM))
        barred = cut_off(two)
        await go_back(server, *kept)
        for _ in range(8):
            await one.publish(ROOM)
        barred.clear()
        await until(lambda: two.resets, "that everybody is told")
        place = await one.publish(ROOM)
        await until(lambda: any(e.epoch == place.epoch and e.seq == place.seq for e in two.delivered))
        assert place.epoch == two.resets[0][1]


async def test_data_that_does_not_fit_together(server: RedisServer) -> None:
    """A part of a room came back from a backup: it goes on, in another epoch."""
    async with cluster_of(2, server.url, **QUICK) as (one, two):
        await two.broker.subscribe(ROOM)
        name = f"{prefix(one)}:{STREAM}"
        old = (await one.publish(ROOM)).epoch
        kept = (f"{name}:m", await server.ask("DUMP", f"{name}:m"))
        await one.publish_many([(ROOM, {})] * 3)
        await until(lambda: 4 in two.got(ROOM))
        await go_back(server, kept)
        place = await one.publish(ROOM)
        assert place.epoch != old
        await until(lambda: two.resets, "that everybody is told")
        assert await delivered_last(one, two)
        assert await one.kept(ROOM) == await two.kept(ROOM)


async def delivered_last(one: Node, two: Node) -> bool:
    """Publish once more, and wait for it on the other node."""
    place = await one.publish(ROOM)
    await until(lambda: (place.seq, place.epoch) in [(e.seq, e.epoch) for e in two.delivered])
    return True


@pytest.mark.parametrize("noticed", ["by the next event", "by the reconnect"])
async def test_the_same_numbers_of_another_history(server: RedisServer, noticed: str) -> None:
    """Redis has as many events as the node has seen, but others."""
    async with cluster_of(2, server.url, **QUICK) as (one, two):
        await two.broker.subscribe(ROOM)
        old = (await one.publish(ROOM)).epoch
        keys = [f"{prefix(one)}:{STREAM}{suffix}" for suffix in ("", ":m", ":i")]
        kept = [(key, await server.ask("DUMP", key)) for key in keys]
        await one.publish(ROOM)
        await until(lambda: 2 in two.got(ROOM))
        feed = redis_of(two)._servers.shards[0].feed
        feed.tell(b"UNSUBSCRIBE", keys[0])
        await until_subscribed(server, keys[0], 0)
        await go_back(server, *kept)
        await one.publish(ROOM)
        feed.tell(b"SUBSCRIBE", keys[0])
        await until_subscribed(server, keys[0], 1)
        if noticed == "by the reconnect":
            await server.ask("CLIENT KILL", "TYPE", "pubsub")
        else:
            await one.publish(ROOM)
        await until(lambda: two.resets, "that everybody is told")
        ((_, epoch, _),) = two.resets
        place = await one.publish(ROOM)
        assert place.epoch == epoch != old
        await until(lambda: (place.seq, epoch) in [(e.seq, e.epoch) for e in two.delivered])


async def until_subscribed(server: RedisServer, name: str, number: int) -> None:
    with trio.fail_after(60):
        while (await server.ask("PUBSUB NUMSUB", name))[1] != number:  # noqa: ASYNC110
            await trio.sleep(0.01)


# --- the end -----------------------------------------------------------------------------------------------


async def test_what_was_submitted_goes_out_at_the_end(server: RedisServer) -> None:
    node = make(server.url, prefix="end")
    async with running(node):
        outcomes = [node.submit(ROOM) for _ in range(500)]
    assert all(outcome and isinstance(outcome[0], Position) for outcome in outcomes)
    async with cluster_of(1, server.url, prefix="end") as (other,):
        assert (await other.publish(ROOM)).seq == 501


async def test_what_is_to_be_remembered_is_written_at_the_end(server: RedisServer) -> None:
    node = make(server.url, prefix="end")
    async with running(node):
        for number in range(200):
            node.broker.remember("acme", f"k{number}", b"v", 60)
    async with cluster_of(1, server.url, prefix="end") as (other,):
        assert await other.broker.recall("acme", "k199") == b"v"


async def test_the_end_does_not_wait_for_a_broker_that_is_away(server: RedisServer) -> None:
    node = make(server.url, **QUICK)
    with trio.fail_after(60):
        async with running(node):
            server.pause()
            node.submit(ROOM)
