"""A release under clients of all three transports; ``tests.streams.rolling`` does it with a thousand."""

from __future__ import annotations

from pathlib import Path

from tests.streams.rolling import TRANSPORTS, roll

CLIENTS = 60


async def test_nothing_is_lost_on_any_transport(tmp_path: Path) -> None:
    outcome = await roll(CLIENTS, tmp_path)
    assert outcome.good, [str(outcome), *outcome.problems[:10]]
    assert outcome.clients == dict.fromkeys(TRANSPORTS, CLIENTS // 3)
    assert outcome.connections["websocket"] >= CLIENTS // 3
    assert outcome.events > 3 * CLIENTS
