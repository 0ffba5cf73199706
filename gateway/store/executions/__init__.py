"""Executions: what agents and jobs do, change by change, and how it went over days.

From bottom to top: ``tables``, ``values`` (which changes are allowed), ``days`` (the roll-up), ``outbox``
(what is still to be told), ``writes`` (many changes in one transaction), ``queries``, ``upkeep`` (what ends
and removes executions), ``executions``.
"""

from __future__ import annotations

from gateway.store.executions.executions import Executions, Page, State, Summary
from gateway.store.executions.outbox import Handed
from gateway.store.executions.values import (
    ENDED,
    STALE,
    STATUSES,
    Change,
    Entry,
    Execution,
    Filters,
    Status,
)

__all__ = [
    "ENDED",
    "STALE",
    "STATUSES",
    "Change",
    "Entry",
    "Execution",
    "Executions",
    "Filters",
    "Handed",
    "Page",
    "State",
    "Status",
    "Summary",
]
