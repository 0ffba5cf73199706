"""Executions: reported by services, followed and read by clients that may join their rooms."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from gateway.auth.identity import Identity, Permission
from gateway.broker.base import room_channel
from gateway.operations.execution_relay import Relay
from gateway.operations.execution_rooms import ALL, id_of, room_of
from gateway.operations.execution_snapshots import NEWEST, Look
from gateway.operations.execution_upkeep import Upkeep
from gateway.operations.inbox import Inbox
from gateway.operations.rules import organisation, permit, require_service
from protocol.errors import ErrorCode, ProtocolError
from protocol.values import check_value

if TYPE_CHECKING:
    from gateway.config.settings import Settings
    from gateway.hub.hub import Hub
    from gateway.store.executions import Executions as Store
    from gateway.store.executions import Filters

__all__ = [
    "MAX_DAYS", "MAX_ID", "MAX_NAME", "MAX_PAGE", "MAX_STEP", "MAX_TOOLS", "Executions", "Start", "Status",
]  # fmt: skip

Status = Literal["queued", "running", "completed", "failed", "cancelled"]
Start = Literal["queued", "running"]

MAX_ID: Final = 150
"""Bytes: with ``execution:`` before it, it is the name of a room."""
MAX_NAME: Final = 200
"""Characters of agent, team, method, and of a tool."""
MAX_STEP: Final = 500
"""Characters."""
MAX_TOOLS: Final = 100
MAX_PAGE: Final = 200
MAX_DAYS: Final = 366
"""Days of one summary."""
_DEPTH: Final = 8
"""Containers inside each other in what is reported: events, pages and replies wrap them in more."""
_SHARE: Final = 16
"""No value takes more than this part of ``limits.message_bytes``, so that an event holds all of them."""
_STATUSES: Final = frozenset({"queued", "running", "completed", "failed", "cancelled"})
_is_text: Final = re.compile(r"[^\x00-\x1f\x7f]+").fullmatch
_is_id: Final = re.compile(r"[^\x00-\x1f\x7f*/\ud800-\udfff]+").fullmatch
_NO_ID: Final = "summary"
"""Its path would be that of the summary."""
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_DAY_MS: Final = 86_400_000
_SUMMARY_DAYS: Final = 30


class Executions:
    """All raise NOT_FOUND if the setting ``database`` is ``none``; DATABASE_UNAVAILABLE while the database is
    unavailable; OVERLOADED when too much is waiting for it; and TIMEOUT if it is unknown whether the
    change was stored: check the version, or repeat it with one. ``org`` is for admins, who may name
    another organisation.
    """

    __slots__ = ("_bounds", "_hub", "inbox", "relay", "upkeep")

    def __init__(self, hub: Hub, inbox: Inbox, relay: Relay, upkeep: Upkeep, settings: Settings) -> None:
        self.inbox = inbox
        self.relay = relay
        self.upkeep = upkeep
        self._hub = hub
        most = settings.limits.message_bytes // _SHARE
        bounds = settings.executions
        self._bounds = {
            "input": min(bounds.input_bytes, most),
            "result": min(bounds.result_bytes, most),
            "metadata": min(bounds.metadata_bytes, most),
            "tools": min(bounds.tools_bytes, most),
            "error": min(bounds.error_bytes, most),
        }

    @property
    def _store(self) -> Store:
        return self.inbox.store.executions

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
        return {**self.relay.measures(), **self.upkeep.measures()} if self.inbox.enabled else {}

    async def create(
        self,
        identity: Identity,
        *,
        id: str | None = None,
        agent: str,
        team: str | None = None,
        method: str | None = None,
        status: str = "queued",
        input: Any = None,
        metadata: Any = None,
        org: str | None = None,
    ) -> dict[str, Any]:
        """A new execution, ``queued`` or ``running``: stored when this returns, published at once.

        Raises FORBIDDEN without the role service; WRONG_ORGANISATION; CONFLICT, with the execution in its
        details, if the ``id`` exists; BAD_FIELD, TOO_LARGE.
        """
        require_service(identity, "reporting executions")
        org = organisation(identity, org)
        if id is not None:
            _check_id(id)
        for field, name in (("agent", agent), ("team", team), ("method", method)):
            if name is not None:
                _check_text(field, name, MAX_NAME)
        if status not in ("queued", "running"):
            raise _bad("status", "an execution begins as 'queued' or 'running'")
        if metadata is not None and not isinstance(metadata, dict):
            raise _bad("metadata", "must be a map")
        return await self._store.create(
            org,
            id=id,
            agent=agent,
            team=team,
            method=method,
            status=status,
            input=self._json("input", input),
            metadata=self._json("metadata", metadata),
            sender=identity.user,
        )

    async def update(
        self,
        identity: Identity,
        id: str,
        *,
        status: str | None = None,
        progress: float | None = None,
        step: str | None = None,
        tools: list[str] | None = None,
        result: Any = None,
        error: str | None = None,
        version: int | None = None,
        org: str | None = None,
    ) -> dict[str, Any]:
        """The execution after this change: stored when this returns, published at once. None changes nothing.

        ``queued`` → ``running`` → ``completed``, ``failed`` or ``cancelled``; an ended execution does not
        change. Each change increments ``version``; an update without changes is a heartbeat and does not.

        Raises FORBIDDEN without the role service; WRONG_ORGANISATION; NOT_FOUND; CONFLICT, with the present
        execution in its details, for any other transition and for a ``version`` that is not the latest;
        BAD_FIELD, TOO_LARGE.
        """
        from gateway.store.executions import Change

        require_service(identity, "reporting executions")
        org = organisation(identity, org)
        _check_id(id)
        if status is not None and status not in _STATUSES:
            raise _bad("status", f"one of {', '.join(sorted(_STATUSES))}")
        if progress is not None and not 0 <= progress <= 100:
            raise _bad("progress", "must be from 0 to 100")
        if step is not None:
            _check_text("step", step, MAX_STEP)
        if tools is not None:
            if len(tools) > MAX_TOOLS:
                raise ProtocolError(ErrorCode.TOO_LARGE, f"tools: at most {MAX_TOOLS}")
            for tool in tools:
                _check_text("tools", tool, MAX_NAME)
        if error is not None:
            if not error or "\0" in error:
                raise _bad("error", "must be text, and not empty")
            self._json("error", error)
        if version is not None and not 1 <= version < 2**53:
            raise _bad("version", "must be at least 1")
        change = Change(
            status=status,
            progress=None if progress is None else float(progress),
            step=step,
            tools=self._json("tools", tools),
            result=self._json("result", result),
            error=error,
            version=version,
            sender=identity.user,
        )
        return await self._store.change(org, id, change)

    async def get(self, identity: Identity, id: str, *, org: str | None = None) -> dict[str, Any]:
        """One execution with its ``updates``, oldest first. Raises NOT_FOUND; FORBIDDEN if the caller may
        join neither its room nor ``executions``; WRONG_ORGANISATION.
        """
        org = organisation(identity, org)
        _check_id(id)
        if not identity.grants.allows(room_of(id), Permission.JOIN):
            _permit_all(identity)
        found = await self._store.get(org, id)
        if found is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "there is no such execution")
        return found

    async def list(
        self,
        identity: Identity,
        *,
        first: str | int | None = None,
        until: str | int | None = None,
        agent: str | None = None,
        team: str | None = None,
        method: str | None = None,
        status: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        org: str | None = None,
    ) -> dict[str, Any]:
        """``executions`` created from ``first`` to before ``until``, at most ``limit`` (1 to ``MAX_PAGE``),
        newest first; ``next`` is the cursor of the next page, if there is one.

        Times are milliseconds since 1970, RFC 3339, or a UTC day (which ``until`` includes). Raises FORBIDDEN
        if the caller may not join ``executions``; WRONG_ORGANISATION; BAD_FIELD, also for another list's
        cursor.
        """
        org = organisation(identity, org)
        _permit_all(identity)
        if not 1 <= limit <= MAX_PAGE:
            raise _bad("limit", f"1 to {MAX_PAGE} are allowed")
        filters = _filters(agent, team, method, status, _time("from", first), _time("to", until))
        page = await self._store.list(org, filters, limit=limit, cursor=cursor)
        answer: dict[str, Any] = {"executions": page.executions}
        if page.next is not None:
            answer["next"] = page.next
        return answer

    async def summary(
        self,
        identity: Identity,
        *,
        first: str | int | None = None,
        until: str | int | None = None,
        agent: str | None = None,
        team: str | None = None,
        method: str | None = None,
        status: str | None = None,
        org: str | None = None,
    ) -> dict[str, Any]:
        """Figures about those: ``total``, ``by_status``, ``success_rate`` (of completed and failed ones),
        ``duration`` (seconds: average, p50, p95) of ended ones, ``series`` of UTC days.

        Filters as in :meth:`list`; by default the last 30 days, including today. Raises BAD_FIELD for more
        than ``MAX_DAYS``.
        """
        org = organisation(identity, org)
        _permit_all(identity)
        start, end = _time("from", first), _time("to", until)
        if end is None:
            end = (int(time.time() * 1000) // _DAY_MS + 1) * _DAY_MS
        if start is None:
            start = max(0, -(-end // _DAY_MS) - _SUMMARY_DAYS) * _DAY_MS
        if start >= end:
            raise _bad("from", "must be before to")
        if end - start > MAX_DAYS * _DAY_MS:
            raise _bad("from", f"at most {MAX_DAYS} days before to")
        found = await self._store.summary(org, _filters(agent, team, method, status, start, end))
        ended = found.by_status["completed"] + found.by_status["failed"]
        durations = {"average": found.average, "p50": found.p50, "p95": found.p95}
        return {
            "total": found.total,
            "by_status": found.by_status,
            "success_rate": found.by_status["completed"] / ended if ended else None,
            "duration": {name: None if ms is None else ms / 1000 for name, ms in durations.items()},
            "series": [
                {
                    "day": datetime.fromtimestamp(day * 86400, UTC).date().isoformat(),
                    "total": total,
                    "completed": completed,
                    "failed": failed,
                }
                for day, total, completed, failed in found.days
            ],
        }

    async def look(self, org: str, room: str) -> Look:
        """What a member that is about to enter ``room`` will be shown: see ``execution_snapshots``.

        Raises BAD_FIELD for a room of which there is no state, and 3xx.
        """
        id = id_of(room)
        if id is None and room != ALL:
            raise _bad("data.snapshot", "only executions and execution:ID have one")
        page = await self._hub.history_of(room_channel(org, room), limit=_LATELY)
        if id is None:
            return Look(None, page, await self._store.newest(org, NEWEST))
        state = await self._store.state(org, id)
        return Look(id, page, () if state is None else (state,))

    def _json(self, field: str, value: Any) -> str | None:
        if value is None:
            return None
        check_value(value, field, max_depth=_DEPTH)
        text = msgspec.json.encode(value)
        if len(text) > self._bounds[field]:
            raise ProtocolError(
                ErrorCode.TOO_LARGE, f"{field}: must not be larger than {self._bounds[field]:,} bytes of JSON"
            )
        if b"\\u0000" in text and "\0" in _texts(value):
            raise _bad(field, "must not hold U+0000")
        return text.decode()


_LATELY: Final = 1000
"""Events of a room's history that are looked at for a snapshot."""


def _texts(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "".join(map(_texts, (*value, *value.values())))
    return "".join(map(_texts, value)) if isinstance(value, list | tuple) else ""


def _bad(field: str, text: str) -> ProtocolError:
    return ProtocolError(ErrorCode.BAD_FIELD, f"{field}: {text}")


def _permit_all(identity: Identity) -> None:
    permit(identity, ALL, Permission.JOIN, "read executions")


def _check_id(id: str) -> None:
    if not id:
        raise _bad("id", "must not be empty")
    if not _is_id(id) or id == _NO_ID:
        raise _bad("id", "must not hold /, * or control characters, and must not be 'summary'")
    if len(id.encode()) > MAX_ID:
        raise _bad("id", f"must not be longer than {MAX_ID} bytes")


def _check_text(field: str, text: str, most: int) -> None:
    if not text:
        raise _bad(field, "must not be empty")
    if len(text) > most:
        raise _bad(field, f"must not be longer than {most} characters")
    if not _is_text(text):
        raise _bad(field, "must not hold control characters")
    check_value(text, field)


def _filters(
    agent: str | None,
    team: str | None,
    method: str | None,
    status: str | None,
    first: int | None,
    until: int | None,
) -> Filters:
    from gateway.store.executions import Filters

    for field, name in (("agent", agent), ("team", team), ("method", method)):
        if name is not None:
            _check_text(field, name, MAX_NAME)
    if status is not None and status not in _STATUSES:
        raise _bad("status", f"one of {', '.join(sorted(_STATUSES))}")
    return Filters(agent=agent, team=team, method=method, status=status, first=first, until=until)


def _time(field: str, value: str | int | None) -> int | None:
    """Milliseconds since 1970 of what a filter names; the end of a day that is named by itself."""
    if value is None:
        return None
    try:
        if isinstance(value, int) or (value.isascii() and value.isdecimal() and len(value) < 17):
            found = int(value)
        elif _DAY.fullmatch(value):
            days = date.fromisoformat(value).toordinal() - date(1970, 1, 1).toordinal()
            found = (days + (field == "to")) * _DAY_MS
        else:
            at = datetime.fromisoformat(value)
            if at.tzinfo is None:
                raise ValueError
            found = int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        found = -1
    if not 0 <= found < 2**42:
        raise _bad(field, "neither a UTC day (2026-11-27), nor RFC 3339, nor milliseconds since 1970")
    return found
