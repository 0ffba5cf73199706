"""The statements about approvals, built once: to build one takes longer than to run it.

Parameters: ``o`` organisation, ``u`` user, ``now``, ``n`` rows, and what a statement names besides.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import Select, TextClause, Update, bindparam, func, select, text, update

from gateway.store.approval_tables import approval_audit, approval_users, approvals
from gateway.store.rows import among
from gateway.store.tables import notifications

__all__ = [
    "ASKED", "AUDIT", "DECIDE", "IS_ASKED", "LOAD", "NAMED", "NEXT_DEADLINE", "OLD",
    "ROLES_OPEN", "closed_among", "delete_notifications", "due", "expire",
    "lock_open", "of_organisation", "of_role", "of_user", "told_of",
    "unread_of",
]  # fmt: skip

_a = approvals.c
_OPEN: Final = _a.decided_ms.is_(None)

NAMED: Final = select(approvals).where(_a.org == bindparam("o"), _a.name == bindparam("name"))

ASKED: Final = select(approval_users.c.user_id).where(approval_users.c.approval == bindparam("id"))
"""Who was told of it."""

IS_ASKED: Final = select(approval_users.c.user_id).where(
    approval_users.c.approval == bindparam("id"), approval_users.c.user_id == bindparam("u")
)

AUDIT: Final = (
    select(approval_audit).where(approval_audit.c.approval == bindparam("id")).order_by(approval_audit.c.id)
)

DECIDE: Final = (
    update(approvals)
    .where(_a.id == bindparam("of"), _OPEN, _a.deadline_ms > bindparam("after"))
    .values(
        choice=bindparam("chosen"),
        comment=bindparam("said"),
        decided_ms=bindparam("now"),
        decided_by=bindparam("u"),
    )
)
"""Claims it: changes a row for one caller at most; none when the deadline is not later than ``after``."""

NEXT_DEADLINE: Final = select(func.min(_a.deadline_ms)).where(_OPEN)

ROLES_OPEN: Final = (
    select(_a.id, _a.org, _a.role)
    .where(_a.role.is_not(None), _OPEN)
    .order_by(_a.id.desc())
    .limit(bindparam("n"))
)
"""The newest that ask a role."""

OLD: Final = (
    select(_a.id)
    .where(_a.decided_ms.is_not(None), _a.decided_ms < bindparam("before"))
    .order_by(_a.decided_ms)
    .limit(bindparam("n"))
)

LOAD: Final = select(func.count(), func.coalesce(func.sum(_a.size), 0)).where(_a.org == bindparam("o"), _OPEN)
"""How many are open in an organisation, and their bytes."""


@cache
def expire(*, postgres: bool) -> Update:
    """Have the deadline decide those of ``ids`` that are open; gives their ids."""
    found = update(approvals).where(among(_a.id, "ids", postgres=postgres), _OPEN)
    return found.values(choice=_a.fallback, decided_ms=bindparam("now")).returning(_a.id)


@cache
def told_of(*, postgres: bool) -> Select[Any]:
    """Who was told of those of ``ids``, with which notification."""
    return select(approval_users).where(among(approval_users.c.approval, "ids", postgres=postgres))


@cache
def delete_notifications(*, postgres: bool) -> Update:
    """Delete those of ``ids`` that are there; gives their ids."""
    c = notifications.c
    found = update(notifications).where(among(c.id, "ids", postgres=postgres), c.deleted_ms.is_(None))
    return found.values(deleted_ms=bindparam("now")).returning(c.id)


@cache
def due(*, postgres: bool) -> Select[Any]:
    """Those whose deadline is over, the longest ago first."""
    found = select(approvals).where(_OPEN, _a.deadline_ms <= bindparam("now"))
    found = found.order_by(_a.deadline_ms, _a.id).limit(bindparam("n"))
    return found.with_for_update(skip_locked=True) if postgres else found


@cache
def lock_open(*, postgres: bool) -> Select[Any]:
    """The approval ``id`` if it is open, which nobody decides before this transaction ends."""
    found = select(approvals).where(_a.id == bindparam("id"), _OPEN)
    return found.with_for_update() if postgres else found


def closed_among(*, postgres: bool) -> Select[Any]:
    """Those of ``ids`` that are not open any more."""
    return select(_a.id).where(among(_a.id, "ids", postgres=postgres), _a.decided_ms.is_not(None))


def _state(status: str | None) -> list[Any]:
    if status is None:
        return []
    if status == "pending":
        return [_OPEN]
    return [
        _a.decided_ms.is_not(None),
        _a.choice.is_(None) if status == "expired" else _a.choice.is_not(None),
    ]


@cache
def of_organisation(status: str | None) -> Select[Any]:
    """The newest ``n`` of the organisation with an id below ``before``."""
    terms = (_a.org == bindparam("o"), _a.id < bindparam("before"), *_state(status))
    return select(approvals).where(*terms).order_by(_a.id.desc()).limit(bindparam("n"))


@cache
def of_user(status: str | None) -> Select[Any]:
    """The same of those that ask the user by name."""
    terms = (_a.id < bindparam("before"), *_state(status))
    return (
        select(approvals)
        .join(approval_users, approval_users.c.approval == _a.id)
        .where(
            approval_users.c.org == bindparam("o"),
            approval_users.c.user_id == bindparam("u"),
            approval_users.c.approval < bindparam("before"),
            _a.role.is_(None),
            *terms,
        )
        .order_by(approval_users.c.approval.desc())
        .limit(bindparam("n"))
    )


@cache
def of_role(status: str | None) -> Select[Any]:
    """The same of those that ask the ``role``; one query for each, since each is the end of an index."""
    terms = (_a.id < bindparam("before"), *_state(status))
    return (
        select(approvals)
        .where(_a.org == bindparam("o"), _a.role == bindparam("asked"), _a.role.is_not(None), *terms)
        .order_by(_a.id.desc())
        .limit(bindparam("n"))
    )


@cache
def unread_of(*, postgres: bool) -> TextClause:
    """How many each of ``users`` has not read, counted up to ``n``."""
    each = "json_array_elements_text(CAST(:users AS json)) AS each(value)"
    return text(
        "SELECT each.value AS user_id, (SELECT count(*) FROM (SELECT 1 FROM notifications"
        " WHERE org = :o AND user_id = each.value AND read_ms IS NULL AND deleted_ms IS NULL"
        " AND (expires_ms IS NULL OR expires_ms > :now) LIMIT :n) AS counted) AS unread"
        f" FROM {each if postgres else 'json_each(:users) AS each'}"
    )
