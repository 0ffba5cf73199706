"""What else may fail around a node: clusters in motion, spoilt data, clocks, workers. See ``failures.py``."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from gateway.app import Gateway
from protocol.errors import ErrorCode, ProtocolError
from tests.cluster.clock import Clock
from tests.cluster.failures import AWAY, only_refused_as_away
from tests.cluster.nodes import cluster, nodes_on, workers
from tests.cluster.traffic import ROOM, Traffic, traffic
from tests.redis_server import (
    RedisServer,
    address_of,
    redis_cluster,
    redis_cluster_with_replica,
    redis_server,
)
from tests.secure import spoil_key

_MARGIN = 20.0
_EVIL = "evil"
"""An organisation of somebody else."""
_HOUR = 3600
EXTENSION = "extension_of_the_failures"


async def slots_moved(
    folder: Path, redis: Mapping[str, Any], times: int, messages: int = 20, most: float | None = None
) -> Traffic:
    """The slot of the room moves there and back under load: nothing is lost, nobody is disconnected.

    With ``most``, no publisher waits longer than so many seconds from a refusal to its next place; the
    ``retry_after`` that it keeps is in that.
    """
    async with redis_cluster(folder, 2) as servers, _loaded(servers, redis, messages, 2) as (running, slot):
        first = 0 if slot < 8192 else 1
        for turn in range(times):
            await _move(slot, servers[(first + turn) % 2], servers[(first + turn + 1) % 2], running)
    assert not any(watcher.lost for watcher in running.watchers)
    assert most is None or running.books.longest < most, f"refused for {running.books.longest:.1f} s"
    return running


@asynccontextmanager
async def _loaded(
    servers: Sequence[RedisServer], redis: Mapping[str, Any], messages: int, margins: int
) -> AsyncIterator[tuple[Traffic, int]]:
    """Two nodes on a cluster, under load before the block and after it, and the room's slot."""
    async with (
        nodes_on([address_of(servers)] * 2, redis) as nodes,
        traffic(nodes, messages=messages, patience=margins * _MARGIN) as running,
    ):
        await running.flows()
        key = f"{nodes[0].settings.redis.prefix}:{{acme%00r%00{ROOM}}}"
        yield running, int(await servers[0].ask("CLUSTER KEYSLOT", key))
        await running.flows()
        await running.settle()
        only_refused_as_away(running)


async def _move(slot: int, source: RedisServer, target: RedisServer, running: Traffic) -> None:
    names = [(await server.ask("CLUSTER MYID")).decode() for server in (source, target)]
    await target.ask("CLUSTER SETSLOT", str(slot), "IMPORTING", names[0])
    await source.ask("CLUSTER SETSLOT", str(slot), "MIGRATING", names[1])
    await running.flows(5)
    while keys := await source.ask("CLUSTER GETKEYSINSLOT", str(slot), "100"):
        words = (key.decode() for key in keys)
        await source.ask("MIGRATE", "127.0.0.1", str(target.port), "", "0", "5000", "KEYS", *words)
    await running.flows(5)  # the keys have gone, and the slot has not
    for server in (target, source):
        await server.ask("CLUSTER SETSLOT", str(slot), "NODE", names[1])
    await running.flows(5)


async def primary_outvoted(folder: Path, redis: Mapping[str, Any], messages: int = 20) -> Traffic:
    """A primary is cut off from its peers, not from the nodes, and its replica takes over.

    Both say that they are in charge until the old one notices; the newest epoch counts. What the replica
    did not have is lost, and every member is told.
    """
    async with (
        redis_cluster_with_replica(folder) as servers,
        _loaded(servers, redis, messages, 3) as (running, slot),
    ):
        place = 0
        while place != slot // 5461:  # its replica is that of the first: the room's slot goes there
            await _move(slot, servers[slot // 5461], servers[0], running)
            place = slot // 5461
        old, replica = servers[0], servers[3]
        await old.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", "-2")
        with trio.fail_after(2 * _MARGIN):
            while True:
                if (await replica.ask("ROLE"))[0] == b"master":
                    break
                await trio.sleep(0.05)
        await running.flows()
        await old.ask("DEBUG", "DROP-CLUSTER-PACKET-FILTER", "-1")
    for watcher in running.watchers:
        assert all(lost.data["reason"] == "epoch" for lost in watcher.lost), watcher.lost
    return running


async def keys_spoilt(folder: Path, redis: Mapping[str, Any], seconds: float, messages: int = 20) -> Traffic:
    """Keys of another tenant's rooms get a wrong type, and that tenant goes on: nobody else is refused."""
    async with (
        cluster(folder, redis) as system,
        traffic(system.nodes, messages=messages, patience=seconds + _MARGIN) as running,
    ):
        await running.flows()
        one, server = system.nodes[0], system.server
        prefix = one.settings.redis.prefix
        for number in range(64):
            await one.publish(_EVIL, f"room{number}", "tick", 1)
            stream = f"{prefix}:{{{_EVIL}%00r%00room{number}}}"
            spoilt = (("SET", stream, "x"), ("SET", f"{stream}:m", "x"), ("HSET", f"{stream}:m", "seq", "z"))
            await server.ask(*spoilt[number % 3])
        refused = 0

        async def insist(number: int) -> None:
            nonlocal refused
            while True:
                try:
                    await one.publish(_EVIL, f"room{number}", "tick", 1)
                except Exception as error:
                    assert prefix not in str(error) and "127.0.0.1" not in str(error)
                    refused += 1
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for number in range(64):
                nursery.start_soon(insist, number)
            await running.flows()
            await trio.sleep(seconds)
            await running.flows()
            nursery.cancel_scope.cancel()
        await running.settle()
        assert refused, "the spoilt rooms go on"
        assert running.reconnects == 0 and not running.codes(), running.codes()
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def clock_set_back(
    folder: Path, redis: Mapping[str, Any], seconds: float, messages: int = 20
) -> Traffic:
    """Redis' clock is set back by an hour, then by two; a node misses a revocation each time."""
    clock = Clock(folder)
    async with (
        cluster(folder, redis, environ=clock.environ) as system,
        traffic(system.nodes, messages=messages, patience=seconds + 2 * _MARGIN) as running,
    ):
        await running.flows()
        one, two = system.nodes
        for hours in (1, 2):
            clock.set_back(hours * _HOUR)
            await trio.sleep(seconds / 2)
            await running.flows()
            guest = f"guest{hours}"
            token = two.auth.issue(org="acme", user=guest).token
            await two.auth.verify(token)
            system.proxies[1].refuse()
            await running.refused()
            await one.cluster.revoke("acme", jti=None, user=guest)
            system.proxies[1].mend()
            await _refused(two, token)
            await running.flows()
        await running.settle()
        only_refused_as_away(running)
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def _refused(node: Gateway, token: str) -> None:
    with trio.fail_after(3 * _MARGIN):
        while True:
            try:
                await node.auth.verify(token)
            except ProtocolError as error:
                assert error.code == ErrorCode.TOKEN_REVOKED, error
                return
            await trio.sleep(0.05)


async def reload_that_cannot_start(folder: Path, seconds: float, messages: int = 20) -> Traffic:
    """New code does not compile, and over TLS the key does not fit: the old workers and all clients stay."""
    module = folder / f"{EXTENSION}.py"
    module.write_text("def setup(gateway): pass\n")
    environ = {"GATEWAY_EXTENSIONS": EXTENSION, "PYTHONPATH": str(folder)}
    async with (
        redis_server(folder, persistent=True) as server,
        workers(server.url, folder, **environ) as process,
        traffic([process, process], messages=messages, patience=seconds + _MARGIN) as running,
    ):
        await running.flows()
        module.write_text("def setup(gateway:\n")
        with spoil_key():
            process.reload()
            await process.until_logged("no new worker could start; keeping the old ones")
            await trio.sleep(seconds)
        await running.flows()
        await running.settle()
        assert running.reconnects == 0 and not running.codes()
        assert not process.logged("worker died") or process.logged("a worker listens")
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def worker_stands_still(folder: Path, silence: float, messages: int = 20) -> Traffic:
    """One of two workers does nothing any more: it is replaced, and its clients go on where they were."""
    async with (
        redis_server(folder, persistent=True) as server,
        workers(server.url, folder, GATEWAY_SUPERVISOR_SILENCE=str(silence)) as process,
        traffic([process, process], messages=messages, patience=silence + 2 * _MARGIN) as running,
    ):
        await running.flows()
        os.kill(process.logged("a worker listens")[0]["pid"], signal.SIGSTOP)
        await process.until_logged("worker stands still; replacing it")
        await process.until_logged("a worker listens", 3)
        await running.flows()
        await running.settle()
        assert running.reconnects <= len(running.publishers + running.watchers)
        assert set(running.codes()) <= AWAY, running.codes()
        assert not any(watcher.lost for watcher in running.watchers)
        return running
