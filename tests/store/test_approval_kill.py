"""SIGKILL at any point of asking, deciding and telling: what was acknowledged stands, and is told."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from tests.store.support import opened, rows
from tests.support import DEADLINE

ROOT = Path(__file__).parents[2]
KILLS = 8
"""On each of the two databases."""


async def test_nothing_that_was_acknowledged_is_lost(address: str) -> None:
    command = [sys.executable, "-m", "tests.store.mortal", address, str(KILLS), "7", "approvals"]
    done = await trio.run_process(command, capture_stdout=True, cwd=ROOT)
    lines = done.stdout.decode().splitlines()

    def said(word: str) -> set[str]:
        return {line.partition(" ")[2] for line in lines if line.startswith(word + " ")}

    created, decided, delivered = said("committed"), said("decided"), said("delivered")
    assert len(created) > KILLS and decided
    found = dict(map(tuple, rows(address, "SELECT name, choice FROM approvals")))
    assert created <= set(found)
    assert decided <= {f"{name} {choice}" for name, choice in found.items()}
    # Each decision has its note, its inbox item is gone, and who was asked is told of it once.
    ids = dict(map(tuple, rows(address, "SELECT name, id FROM approvals WHERE choice IS NOT NULL")))
    notes = rows(address, "SELECT approval FROM approval_audit WHERE action = 'decided'")
    assert sorted(note.approval for note in notes) == sorted(ids.values())
    items = rows(address, "SELECT mid FROM notifications WHERE deleted_ms IS NULL")
    waiting = rows(address, "SELECT id FROM approvals WHERE decided_ms IS NULL")
    assert sorted(item.mid for item in items) == sorted(f"approval-{each.id}" for each in waiting)
    told = {mid for mid in delivered if mid.startswith("permission:decided-")}
    async with opened(address) as heir:
        inherited: list[str] = []
        with trio.fail_after(DEADLINE):
            while len(told) + len(inherited) < len(ids):
                for entry in await heir.outbox.claim():
                    heir.outbox.done([entry.id])
                    if entry.event == "permission:decided" and entry.mid not in told:
                        inherited.append(entry.mid)
                await trio.sleep(0.05)
    assert len(inherited) == len(set(inherited)) and len(told) + len(inherited) == len(ids)
