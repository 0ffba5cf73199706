"""Another server takes over: a replica that Sentinels promote, and a cluster of which a part is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from gateway.broker.base import Channel, Position, room_channel
from protocol.errors import ErrorCode
from tests.broker.nodes import Node, cluster_of, make, redis_of
from tests.broker.traffic import traffic
from tests.redis_server import PATIENCE, RedisServer, redis_cluster, redis_sentinels, redis_server
from tests.support import until

QUICK: dict[str, Any] = {"timeout": 1.0, "patience": 0.2, "heartbeat": 0.1, "max_backoff": 0.1, "sweep": 0.5}


async def test_sentinels_name_another_primary(tmp_path: Path) -> None:
    """The replica had everything: the same order goes on; the old primary, back again, misleads nobody."""
    async with redis_sentinels(tmp_path) as watched, cluster_of(2, watched.url, **QUICK) as nodes:
        async with traffic(*nodes) as flowing:
            # Replication is asynchronous: what the replica does not have would rightly be another epoch.
            flowing.paused = True
            await flowing.idle()
            await watched.in_sync()
            watched.primary.stop()
            with trio.fail_after(PATIENCE):
                while await watched.named() != watched.replica.port:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            for node in nodes:
                await node.ready()
            flowing.paused = False
            await flowing.flow()
            await watched.primary.start()
            await flowing.flow()
        await flowing.check()
        assert not any(node.resets for node in nodes)
        assert {
            str(shard.commands.location) for node in nodes for shard in redis_of(node)._servers.shards
        } == {f"127.0.0.1:{watched.replica.port}"}


async def test_sentinels_turn_away_from_a_primary_that_is_still_there(tmp_path: Path) -> None:
    """They cannot reach it any more and promoted another; its clients follow, although still connected."""
    async with redis_sentinels(tmp_path) as watched, cluster_of(1, watched.url, **QUICK) as (node,):
        await node.publish()
        await watched.in_sync()
        await watched.replica.ask("REPLICAOF", "NO", "ONE")
        for sentinel in watched.sentinels:
            await sentinel.ask("SENTINEL REMOVE", "main")
            await sentinel.ask("SENTINEL MONITOR", "main", "127.0.0.1", str(watched.replica.port), "2")
        (shard,) = redis_of(node)._servers.shards
        await until(
            lambda: all(str(link.location) == f"127.0.0.1:{watched.replica.port}" for link in shard.links)
        )
        await node.ready()
        assert (await node.publish()).seq == 2


async def test_sentinels_that_disagree(tmp_path: Path) -> None:
    """One is cut off together with a primary that it believes in; it is asked first, and not followed."""
    async with redis_server(tmp_path / "stale") as stale, redis_sentinels(tmp_path) as watched:
        configuration = tmp_path / "alone.conf"
        configuration.write_text(f"sentinel monitor main 127.0.0.1 {stale.port} 1\n")
        alone = await RedisServer(tmp_path / "alone", sentinel=configuration).start()
        try:
            address = watched.url.replace("//", f"//127.0.0.1:{alone.port},")
            async with cluster_of(1, address, **QUICK) as (node,):
                (shard,) = redis_of(node)._servers.shards

                async def at(server: RedisServer, seq: int) -> None:
                    wanted = f"127.0.0.1:{server.port}"
                    await until(lambda: all(str(link.location) == wanted for link in shard.links), wanted)
                    await node.ready()
                    assert (await node.publish()).seq == seq

                await at(watched.primary, 1)  # more of them name it
                await watched.in_sync()
                await watched.sentinels[0].ask("SENTINEL FAILOVER", "main")
                await at(watched.replica, 2)  # one is enough, when its epoch is newer
                for sentinel in watched.sentinels:
                    sentinel.pause()
                for kind in ("normal", "pubsub"):
                    await watched.replica.ask("CLIENT KILL", "TYPE", kind)
                await until(lambda: "older than epoch 1" in (node.broker.ready() or ""))
                for sentinel in watched.sentinels:
                    sentinel.resume()
                await at(watched.replica, 3)
            assert await stale.ask("DBSIZE") == 0, "nothing was written where nobody would find it"
        finally:
            alone.stop()


async def test_a_replica_is_not_taken_for_a_primary(tmp_path: Path) -> None:
    async with redis_server(tmp_path / "primary") as primary:
        async with redis_server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {primary.port}") as replica:
            node = make(replica.url, **QUICK)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.broker.run)
                await until(lambda: "is a replica" in (node.broker.ready() or ""))
                await replica.ask("REPLICAOF", "NO", "ONE")
                await node.ready()
                nursery.cancel_scope.cancel()


async def delivered(node: Node, room: str, place: Position) -> bool:
    """Wait until ``node`` has delivered the event of that place."""
    wanted = (room, place.seq, place.epoch)
    await until(lambda: wanted in [(event.channel, event.seq, event.epoch) for event in node.delivered])
    return True


async def published(node: Node, room: Channel) -> Position:
    """Publish, again and again while the cluster is in transition."""
    with trio.fail_after(60):
        while True:
            outcome = node.submit(room)
            await until(lambda: outcome)  # noqa: B023
            if isinstance(outcome[0], Position):
                return outcome[0]


async def test_a_part_of_a_cluster_is_away(tmp_path: Path) -> None:
    """Rooms of the other servers go on; those of the one that is gone are refused, and go on after it."""
    async with redis_cluster(tmp_path) as servers:
        address = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        async with cluster_of(2, address, **QUICK) as nodes:
            one, two = nodes
            rooms = [room_channel("acme", f"room{number}") for number in range(12)]
            for room in rooms:
                await two.broker.subscribe(room)
                await one.publish(room)
            lost = servers[1]
            lost.stop()
            await until(lambda: all(node.broker.ready() is not None for node in nodes))
            outcomes = {room: one.submit(room) for room in rooms}
            await until(lambda: all(outcomes.values()))
            refused = {room for room, (result,) in outcomes.items() if isinstance(result, Exception)}
            assert refused and len(refused) < len(rooms)
            assert {result.code for (result,) in outcomes.values() if isinstance(result, Exception)} <= {
                ErrorCode.BROKER_UNAVAILABLE,
                ErrorCode.TIMEOUT,
            }
            for room in set(rooms) - refused:
                await until(lambda: two.got(room) == [1, 2])  # noqa: B023
            await lost.start()
            for node in nodes:
                await node.ready()
            for room in refused:
                place = await published(one, room)
                assert await delivered(two, room, place)


async def test_slots_move_to_another_server(tmp_path: Path) -> None:
    """While there is traffic, a slot with rooms in it moves; nothing is lost and nobody notices."""
    async with redis_cluster(tmp_path, 2) as servers:
        address = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        async with cluster_of(2, address, **QUICK) as nodes, traffic(*nodes, rooms=4) as flowing:
            room = flowing.rooms[0]
            prefix = redis_of(nodes[0])._settings.prefix
            stream = f"{prefix}:{{{room.replace(chr(0), '%00')}}}"
            slot = str(await servers[0].ask("CLUSTER KEYSLOT", stream))
            names = [(await server.ask("CLUSTER MYID")).decode() for server in servers]
            first = 0 if int(slot) < 8192 else 1
            source, target = servers[first], servers[1 - first]
            await target.ask("CLUSTER SETSLOT", slot, "IMPORTING", names[first])
            await source.ask("CLUSTER SETSLOT", slot, "MIGRATING", names[1 - first])
            await flowing.flow()
            with trio.fail_after(PATIENCE):
                while keys := await source.ask("CLUSTER GETKEYSINSLOT", slot, "100"):
                    await source.ask(
                        "MIGRATE",
                        *("127.0.0.1", str(target.port), "", "0", "5000", "KEYS"),
                        *(key.decode() for key in keys),
                    )
            # The keys are there and the slot is not: every command about them has to ask for it.
            before = len(flowing.placed[room])
            await until(lambda: len(flowing.placed[room]) > before + 10, "traffic in the room that moves")
            for server in (target, source):
                await server.ask("CLUSTER SETSLOT", slot, "NODE", names[1 - first])
            await flowing.flow()
            await flowing.flow()
        await flowing.check()
        assert not any(node.resets for node in nodes)
