"""One execution, and which changes of it are allowed. Pure: no database, no clock."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from gateway.store.rows import parse_json

__all__ = [
    "ENDED",
    "NEXT",
    "STALE",
    "STATUSES",
    "Change",
    "Entry",
    "Execution",
    "Filters",
    "Status",
    "entry_from",
    "entry_of",
]

Status = Literal["queued", "running", "completed", "failed", "cancelled"]
STATUSES: Final[tuple[Status, ...]] = ("queued", "running", "completed", "failed", "cancelled")
ENDED: Final = frozenset({"completed", "failed", "cancelled"})
NEXT: Final[dict[str, frozenset[str]]] = {
    "queued": frozenset({"running"}),
    "running": ENDED,
    **dict.fromkeys(ENDED, frozenset()),
}
"""Status → what may follow it."""
STALE: Final = "stale"
"""The error of an execution that was ended because its reporter has vanished."""

_JSON: Final = ("tools", "metadata", "input", "result")
_SHOWN: Final = ("team", "method", "progress", "step", "tools", "input", "metadata", "result", "error")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a reporter says; None says nothing. ``tools`` and ``result`` are JSON texts."""

    status: str | None = None
    progress: float | None = None
    step: str | None = None
    tools: str | None = None
    result: str | None = None
    error: str | None = None
    version: int | None = None
    """The version that it must have now."""
    sender: str | None = None
    stale_before: int | None = None
    """Only when the last heartbeat was earlier; then also ``queued`` may end."""


class Execution(msgspec.Struct, kw_only=True):
    """A row of the table: times in milliseconds since 1970 UTC, JSON as text."""

    number: int
    org: str
    id: str
    agent: str
    team: str | None = None
    method: str | None = None
    status: str = "queued"
    progress: float | None = None
    version: int = 1
    created_ms: int
    started_ms: int | None = None
    updated_ms: int
    heartbeat_ms: int
    finished_ms: int | None = None
    duration_ms: int | None = None
    bucket: int = -1
    updates_total: int = 0
    updates_cut: int = 0
    sender: str | None = None
    step: str | None = None
    tools: str | None = None
    error: str | None = None
    metadata: str | None = None
    input: str | None = None
    result: str | None = None

    def as_data(self) -> dict[str, Any]:
        """What clients are shown, without what is absent; ``duration`` in seconds."""
        shown: dict[str, Any] = {"id": self.id, "agent": self.agent, "status": self.status}
        for name in _SHOWN:
            value = getattr(self, name)
            if value is not None:
                shown[name] = parse_json(value) if name in _JSON else value
        shown["version"] = self.version
        shown["created_at"] = self.created_ms
        if self.started_ms is not None:
            shown["started_at"] = self.started_ms
        shown["updated_at"] = self.updated_ms
        if self.finished_ms is not None:
            shown["finished_at"] = self.finished_ms
        if self.duration_ms is not None:
            shown["duration"] = self.duration_ms / 1000
        return shown

    def apply(self, change: Change, now: int) -> list[str] | str:
        """Change this at the time ``now``; which fields have changed, or why it is not allowed.

        Any allowed change is a heartbeat; one that says nothing new gives no new version.
        """
        if self.status in ENDED:
            return f"this execution has ended: {self.status}"
        if change.version is not None and change.version != self.version:
            return f"version {change.version} is not the latest, which is {self.version}"
        status = change.status
        allowed = NEXT[self.status] | {self.status, None}
        if status not in allowed and change.stale_before is None:
            return f"status: {status!r} cannot follow {self.status!r}"
        self.heartbeat_ms = now
        changed = []
        for name in ("status", "progress", "step", "tools", "result", "error"):
            value = getattr(change, name)
            if value is not None and value != getattr(self, name):
                setattr(self, name, value)
                changed.append(name)
        if not changed:
            return changed
        self.version += 1
        self.updated_ms = now
        if "status" in changed:
            if self.status == "running":
                self.started_ms = now
            elif self.status in ENDED:
                self.finished_ms = now
                if self.started_ms is not None:
                    self.duration_ms = max(0, now - self.started_ms)
        return changed


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which executions of an organisation: those created in ``[first, until)``, in ms since 1970."""

    agent: str | None = None
    team: str | None = None
    method: str | None = None
    status: str | None = None
    first: int | None = None
    until: int | None = None


class Entry(msgspec.Struct, frozen=True):
    """One change to be told: the row as it was then."""

    number: int
    version: int
    org: str
    was: str | None
    """The status before."""
    row: dict[str, Any]
    size: int
    """Bytes of the row as JSON."""

    @property
    def mid(self) -> str:
        """The same each time that this change is told."""
        return f"execution-{self.number:x}-{self.version}"


class _Body(msgspec.Struct, array_like=True):
    org: str
    was: str | None
    row: dict[str, Any]


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Body)


def entry_of(execution: Execution, was: str | None) -> tuple[Entry, str]:
    """The entry that tells of the latest change of ``execution``, and its text for the outbox."""
    row = execution.as_data()
    body = _encoder.encode(_Body(execution.org, was, row)).decode()
    return Entry(execution.number, execution.version, execution.org, was, row, len(body)), body


def entry_from(number: int, version: int, body: str) -> Entry:
    """The entry from its text."""
    found = _decoder.decode(body)
    return Entry(number, version, found.org, found.was, found.row, len(body))
