"""A few of the kills of ``python -m tests.kill``: of each kind of change, on each database."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.store import migrate
from tests.kill.scenarios import ALL
from tests.kill.site import opened
from tests.postgres import Postgres
from tests.redis_server import redis_server

CHOSEN = {
    "sqlite": [
        "execution, change 4 in the transaction",
        "execution, change 2 told in part",
        "approval, answer committed",
        "deadline, handed over",
        "call, forwarded",
    ],
    "postgresql": [
        "execution, change 3 committed",
        "stale, told in part",
        "approval, question being forgotten",
        "deadline, in the transaction",
        "call, backend read, again",
    ],
}


@pytest.mark.parametrize("kind", CHOSEN)
async def test_nothing_acknowledged_is_lost_and_nothing_half_done(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = f"sqlite:///{tmp_path / 'kill.db'}"
    if kind == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        address = server.fresh()
    migrate(address)
    async with redis_server(tmp_path / "redis") as redis, opened(address, redis.url) as site:
        for name in CHOSEN[kind]:
            await ALL[name](site)
        assert site.kills >= 4
