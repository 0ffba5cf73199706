"""Failures around a node (``failures.py``), in short; ``python -m tests.cluster.endurance`` has them long."""

from __future__ import annotations

from pathlib import Path

from protocol.errors import ErrorCode
from tests.cluster import failures, further_failures
from tests.cluster.nodes import HASTY
from tests.cluster.secure import over_tls


async def test_broker_restarted(tmp_path: Path) -> None:
    await failures.broker_restarted(tmp_path, HASTY, 1)


async def test_broker_paused(tmp_path: Path) -> None:
    await failures.broker_paused(tmp_path, HASTY, 2)


async def test_broker_unreachable(tmp_path: Path) -> None:
    await failures.broker_unreachable(tmp_path, HASTY, 3)


async def test_connections_cut_during_publishes(tmp_path: Path) -> None:
    await failures.connections_cut(tmp_path, HASTY, 5)


async def test_broker_lost_data(tmp_path: Path) -> None:
    await failures.broker_lost_data(tmp_path, HASTY, 0.5)


async def test_broker_replaced(tmp_path: Path) -> None:
    await failures.broker_replaced(tmp_path, HASTY)


async def test_broker_full(tmp_path: Path) -> None:
    await failures.broker_full(tmp_path, HASTY, 0.5)


async def test_subscribers_dropped(tmp_path: Path) -> None:
    await failures.subscribers_dropped(tmp_path, HASTY, 3)


async def test_node_killed(tmp_path: Path) -> None:
    await failures.node_killed(tmp_path, 1)


async def test_node_slow(tmp_path: Path) -> None:
    await failures.node_slow(tmp_path, 1)


async def test_a_primary_that_was_outvoted(tmp_path: Path) -> None:
    await further_failures.primary_outvoted(tmp_path, HASTY)


async def test_connections_cut_during_publishes_over_tls(tmp_path: Path) -> None:
    with over_tls(tmp_path):
        await failures.connections_cut(tmp_path, HASTY, 2)


async def test_a_flood_of_publishes_while_the_broker_is_away_is_refused_at_a_bound(tmp_path: Path) -> None:
    codes = await failures.flood_while_away(tmp_path, HASTY, messages=300, pending=100)
    assert codes[:200] == [ErrorCode.OVERLOADED] * 200
    assert set(codes[200:]) <= failures.AWAY
