"""What may fail around a node, with publishers that never pause, and every number checked at every client.

Promised: no acknowledged message is lost while the broker keeps its data; nothing is delivered twice to a
client that follows the protocol; when the broker lost data, the epoch changes and every client is told. While
the broker is away, clients stay connected, and publishing is refused with a number and ``retry_after``.

``seconds`` is how long the failure lasts, ``redis`` the settings of the broker's side; each publisher gets so
many ``messages`` through before it and after it. Short in ``test_failures.py``, and at full length in
``python -m tests.cluster.endurance``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from protocol.envelope import Envelope
from protocol.errors import ErrorCode
from tests.cluster.nodes import Cluster, cluster, nodes_on, processes
from tests.cluster.traffic import ROOM, Traffic, traffic
from tests.redis_server import redis_sentinels, redis_server
from tests.support import Raw, connected

_MARGIN = 20.0
"""Seconds, beyond the length of a failure, in which all must be well again."""
AWAY = {ErrorCode.BROKER_UNAVAILABLE, ErrorCode.TIMEOUT}
"""How a publish is refused while the broker is away: not carried out, or not known."""


def only_refused_as_away(running: Traffic) -> None:
    """Nobody was disconnected, and every refusal said that the broker is away."""
    assert running.reconnects == 0, "clients are to stay connected"
    assert set(running.codes()) <= AWAY, running.codes()


async def broker_restarted(
    folder: Path, redis: Mapping[str, Any], seconds: float, messages: int = 20
) -> Traffic:
    """It is killed, and started again with all that it had on disk."""
    async with (
        cluster(folder, redis) as system,
        traffic(system.nodes, messages=messages, patience=seconds + _MARGIN) as running,
    ):
        await running.flows()
        system.server.stop()
        await trio.sleep(seconds)
        await system.server.start()
        await running.flows()
        await running.settle()
        only_refused_as_away(running)
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def broker_paused(
    folder: Path, redis: Mapping[str, Any], seconds: float, messages: int = 20
) -> Traffic:
    """It answers nothing for a while; connections stay open."""
    async with (
        cluster(folder, redis) as system,
        traffic(system.nodes, messages=messages, patience=seconds + _MARGIN) as running,
    ):
        await running.flows()
        system.server.pause()
        await running.refused(len(running.publishers))
        await trio.sleep(seconds)
        system.server.resume()
        await running.flows()
        await running.settle()
        only_refused_as_away(running)
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def broker_unreachable(
    folder: Path, redis: Mapping[str, Any], seconds: float, messages: int = 20
) -> Traffic:
    """Every connection is reset, for one node after the other, then for both; later everything is silent."""
    async with (
        cluster(folder, redis) as system,
        traffic(system.nodes, messages=messages, patience=seconds + _MARGIN) as running,
    ):
        await running.flows()
        for proxy in system.proxies:
            proxy.refuse()
            await trio.sleep(seconds / 4)
        await running.refused(len(running.publishers))
        for proxy in system.proxies:
            proxy.stall()
            proxy.accept()
        await trio.sleep(seconds / 2)
        for proxy in system.proxies:
            proxy.mend()
        await running.flows()
        await running.settle()
        only_refused_as_away(running)
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def connections_cut(folder: Path, redis: Mapping[str, Any], cuts: int) -> Traffic:
    """Connections are reset while an answer is on its way: nobody can tell whether it was carried out."""
    async with cluster(folder, redis) as system, traffic(system.nodes, patience=2 * _MARGIN) as running:
        await running.flows()
        for _ in range(cuts):
            for proxy in system.proxies:
                proxy.cut_under_answers(2)
            with trio.fail_after(_MARGIN):
                while any(proxy.cutting for proxy in system.proxies):  # noqa: ASYNC110 - it has no event
                    await trio.sleep(0.01)
            await running.flows(5)
        await running.settle()
        only_refused_as_away(running)
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def broker_lost_data(
    folder: Path, redis: Mapping[str, Any], seconds: float, messages: int = 20
) -> Traffic:
    """It comes back empty: another epoch, and every member is told."""
    async with (
        cluster(folder, redis, persistent=False) as system,
        traffic(system.nodes, messages=messages, patience=seconds + _MARGIN) as running,
    ):
        await running.flows()
        before = {epoch for epoch, _ in running.books.acknowledged.values()}
        system.server.stop()
        await trio.sleep(seconds)
        await system.server.start()
        await running.flows()
        await running.settle()
        only_refused_as_away(running)
        for watcher in running.watchers:
            assert [lost.data["reason"] for lost in watcher.lost] == ["epoch"], (watcher.name, watcher.lost)
            assert watcher.position is not None and watcher.position[0] not in before
        return running


async def broker_replaced(folder: Path, redis: Mapping[str, Any], *, messages: int = 20) -> Traffic:
    """Sentinels put the replica in its place; what that did not have is lost, and every member is told."""
    async with (
        redis_sentinels(folder) as watched,
        nodes_on([watched.url] * 2, redis) as nodes,
        traffic(nodes, messages=messages, patience=2 * _MARGIN) as running,
    ):
        await running.flows()
        watched.primary.stop()
        await running.flows()
        await running.settle()
        only_refused_as_away(running)
        for watcher in running.watchers:
            assert all(lost.data["reason"] == "epoch" for lost in watcher.lost), (watcher.name, watcher.lost)
        return running


async def broker_full(folder: Path, redis: Mapping[str, Any], seconds: float, messages: int = 20) -> Traffic:
    """It takes no more data, but answers."""
    async with (
        cluster(folder, redis) as system,
        traffic(system.nodes, messages=messages, patience=seconds + _MARGIN) as running,
    ):
        await running.flows()
        await system.server.ask("CONFIG SET", "maxmemory", "1")
        await running.refused(len(running.publishers))
        await trio.sleep(seconds)
        await system.server.ask("CONFIG SET", "maxmemory", "0")
        await running.flows()
        await running.settle()
        only_refused_as_away(running)
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def _subscribed(system: Cluster) -> None:
    """Wait until each node has its subscription again; what it missed comes to its clients before that."""
    with trio.fail_after(_MARGIN):
        while True:
            clients = bytes(await system.server.ask("CLIENT LIST", "TYPE", "pubsub"))
            if clients.count(b"id=") >= len(system.nodes):
                return
            await trio.sleep(0.05)


async def subscribers_dropped(folder: Path, redis: Mapping[str, Any], times: int) -> Traffic:
    """It closes the nodes' subscriptions, as it does when they read too slowly; all else goes on."""
    async with cluster(folder, redis) as system, traffic(system.nodes, patience=2 * _MARGIN) as running:
        await running.flows()
        for _ in range(times):
            await _subscribed(system)
            dropped = await system.server.ask("CLIENT KILL", "TYPE", "pubsub")
            assert dropped == len(system.nodes)
            await running.flows(5)
        await running.settle()
        assert running.reconnects == 0 and not running.codes()
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def node_killed(folder: Path, seconds: float, messages: int = 20) -> Traffic:
    """One of two nodes ends without notice; its clients go on with the other one, from where they were."""
    async with (
        redis_server(folder, persistent=True) as server,
        processes(server.url, folder) as nodes,
        traffic(nodes, messages=messages, patience=seconds + _MARGIN) as running,
    ):
        await running.flows()
        nodes[0].kill()
        await trio.sleep(seconds)
        await running.flows()
        await running.settle()
        assert running.reconnects == len(running.publishers + running.watchers) // 2
        assert not running.codes()
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def node_slow(folder: Path, seconds: float, messages: int = 20) -> Traffic:
    """One of two nodes stops for a while: the other's clients do not notice, its own get everything."""
    async with (
        redis_server(folder, persistent=True) as server,
        processes(server.url, folder) as nodes,
        traffic(nodes, messages=messages, patience=seconds + _MARGIN) as running,
    ):
        await running.flows()
        nodes[0].pause()
        try:
            await running.of_node(1).flows()
            await trio.sleep(seconds)
            await running.of_node(1).flows()
        finally:
            nodes[0].resume()
        await running.flows()
        await running.settle()
        assert running.reconnects == 0
        assert not any(watcher.lost for watcher in running.watchers)
        return running


async def flood_while_away(folder: Path, redis: Mapping[str, Any], messages: int, pending: int) -> list[int]:
    """Publishes come while the broker is silent: so many wait at most, the others are refused at once.

    Returns the codes of the refusals, in the order in which they came.
    """
    async with cluster(folder, {**redis, "pending": pending}) as system, trio.open_nursery() as nursery:
        async with connected(system.nodes[0]) as client:
            await client.ask("join", room=ROOM)
            assert (await client.ask("publish", room=ROOM, event="tick")).t == "reply"
            system.proxies[0].stall()
            nursery.start_soon(_flood, client, messages)
            refusals: list[Envelope] = []
            while len(refusals) < messages:
                answer = await client.receive()
                assert answer.t in {"event", "error"}, answer
                if answer.t == "error":
                    refusals.append(answer)
            assert {answer.id for answer in refusals} == set(range(1000, 1000 + messages))
            assert all((answer.data or {}).get("retry_after", 0) > 0 for answer in refusals), refusals[0]
            system.proxies[0].mend()
            again = await client.ask("publish", room=ROOM, event="tick", mid="m-0")
            while again.t == "error":
                await trio.sleep(again.data["retry_after"])
                again = await client.ask("publish", room=ROOM, event="tick", mid="m-0")
            return [answer.code or 0 for answer in refusals]


async def _flood(client: Raw, messages: int) -> None:
    for number in range(messages):
        await client.send("publish", id=1000 + number, room=ROOM, event="tick", mid=f"m-{number}")
