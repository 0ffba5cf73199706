"""SIGKILL at any point between the commit, the answer and the delivery: nothing acknowledged is lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from gateway.store import migrate
from tests.postgres import Postgres
from tests.store.support import opened, rows
from tests.support import DEADLINE

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("TRIREME_KILLS", "100"))
"""On each of the two databases."""
AT_ONCE = 2


async def live_and_die(address: str, lines: list[str], seed: int) -> None:
    """A half of the kills, one after the other."""
    command = [sys.executable, "-m", "tests.store.mortal", address, str(KILLS // AT_ONCE), str(seed)]
    done = await trio.run_process(command, capture_stdout=True, cwd=ROOT)
    lines += done.stdout.decode().splitlines()


@pytest.mark.timeout(3 * KILLS)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_nothing_that_was_acknowledged_is_lost(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        address = f"sqlite:///{tmp_path / 'store.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        address = server.fresh()
    migrate(address)
    lines: list[str] = []
    async with trio.open_nursery() as nursery:
        for seed in range(AT_ONCE):
            nursery.start_soon(live_and_die, address, lines, seed)

    def said(word: str) -> list[str]:
        return [line.partition(" ")[2] for line in lines if line.startswith(word + " ")]

    committed, delivered = set(said("committed")), set(said("delivered"))
    stored = {mid for (mid,) in rows(address, "SELECT mid FROM notifications")}
    assert committed <= stored
    assert len(committed) > KILLS
    # What nobody delivered is still to be had, each of it once, by whoever asks when the leases are over.
    async with opened(address) as heir:
        inherited: list[str] = []
        with trio.fail_after(DEADLINE):
            while missing := stored - delivered - set(inherited):
                found = await heir.outbox.claim()
                inherited += [entry.mid for entry in found]
                heir.outbox.done([entry.id for entry in found])
                if not found:
                    await trio.sleep(0.05)
        assert not missing
    assert len(inherited) == len(set(inherited))
    assert set(inherited) - delivered, "no kill came between a commit and its delivery"
