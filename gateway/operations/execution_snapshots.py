"""The state of a room of executions at one place of its order, for whoever enters it.

The database may be ahead of the room (a change is committed before it is told), and the room may go on while
the database is asked. So first comes what the room said lately, then the database, and then the member
enters, and hears what the room said meanwhile. What the room said last of an execution is its state there; of
what it has not spoken the database knows the state, unless a change is still to be told: then the oldest such
change is shown, and comes once more as an event. So no event that follows is older than what was shown, and
none is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.broker.base import Event, HistoryPage, Since
from gateway.operations.execution_rooms import UPDATED

if TYPE_CHECKING:
    from gateway.store.executions import State

__all__ = ["NEWEST", "SNAPSHOT_BYTES", "Look"]

NEWEST: Final = 50
"""Executions in the snapshot of ``executions``, beside those of which the room spoke lately."""
SNAPSHOT_BYTES: Final = 256 * 1024
"""Most that it takes as JSON; the oldest are left out."""


class Look:
    """What was seen before a member enters."""

    def __init__(self, one: str | None, page: HistoryPage, states: Iterable[State]) -> None:
        """``one`` is the execution that the room is about, if it is about one."""
        self._one = one
        self.since = Since(page.epoch, page.seq)
        """Where the member has to enter from."""
        lately = _rows(page.events)
        self._rows: dict[str, dict[str, Any]] = {}
        for state in states:
            waiting = None if state.waiting is None else state.waiting.row
            self._rows[state.id] = lately.get(state.id) or waiting or state.row

    def at(self, page: HistoryPage) -> tuple[bool, Any]:
        """The state at the end of ``page``, what the room said since; False first when that is not whole.

        It is a row or None of the room of one execution, else a map of ``executions``, the newest first.
        """
        if not page.complete or page.more or page.epoch != self.since.epoch:
            return False, None
        rows = self._rows | _rows(page.events)
        if self._one is not None:
            return True, rows.get(self._one)
        shown, size = [], 0
        for row in sorted(rows.values(), key=lambda row: row["created_at"], reverse=True):
            size += len(msgspec.json.encode(row))
            if size > SNAPSHOT_BYTES:
                break
            shown.append(row)
        return True, {"executions": shown}


def _rows(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """Execution → its row in the latest event about it."""
    return {event.data["id"]: event.data for event in events if event.event == UPDATED and _is_row(event)}


def _is_row(event: Event) -> bool:
    return isinstance(event.data, dict) and "id" in event.data and "created_at" in event.data
