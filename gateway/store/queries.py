"""The statements about one user's notifications, built once: to build one takes longer than to run it.

Parameters: ``o`` organisation, ``u`` user, ``now``, ``n`` rows, and what a statement names besides.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import Column, Select, Update, bindparam, func, or_, select, union_all, update

from gateway.store.rows import among
from gateway.store.tables import notifications

__all__ = ["KNOWN", "MARK_ALL_READ", "NEWEST_UNREAD", "ONE", "UNREAD", "mark", "page"]

_c = notifications.c
_OF_USER: Final = (
    _c.org == bindparam("o"),
    _c.user_id == bindparam("u"),
    _c.deleted_ms.is_(None),
    or_(_c.expires_ms.is_(None), _c.expires_ms > bindparam("now")),
)
_NOT_READ: Final = _c.read_ms.is_(None)

UNREAD: Final = select(func.count()).select_from(
    select(_c.id).where(*_OF_USER, _NOT_READ).limit(bindparam("n")).subquery()
)
"""How many are unread, counted up to ``n``."""

ONE: Final = select(_c.id).where(_c.id == bindparam("id"), *_OF_USER)

NEWEST_UNREAD: Final = select(func.max(_c.id)).where(*_OF_USER, _NOT_READ)

MARK_ALL_READ: Final = (
    update(notifications)
    .where(
        _c.id.in_(
            select(_c.id)
            .where(*_OF_USER, _NOT_READ, _c.id <= bindparam("upto"))
            .order_by(_c.id)
            .limit(bindparam("n"))
        )
    )
    .values(read_ms=bindparam("now"))
)
"""The oldest ``n`` up to ``upto``."""

KNOWN: Final = select(_c.user_id, _c.id).where(_c.org == bindparam("o"), _c.mid == bindparam("m"))
"""Who has the notification ``m``, under which id."""


def mark(column: Column[Any], *, postgres: bool) -> Update:
    """Set ``column`` of those of ``ids`` where it is not set; gives their ids."""
    ours = among(_c.id, "ids", postgres=postgres)
    marked = update(notifications).where(ours, *_OF_USER, column.is_(None))
    return marked.values({column: bindparam("now")}).returning(_c.id)


@cache
def page(unread: bool, typed: bool, after: bool) -> Select[Any]:
    """The newest ``n``, perhaps only the unread ones, of the type ``t``, with an id below ``before``."""
    terms = list(_OF_USER)
    if typed:
        terms.append(_c.type == bindparam("t"))
    if after:
        terms.append(_c.id < bindparam("before"))
    states = [_NOT_READ] if unread else [_NOT_READ, _c.read_ms.is_not(None)]
    # Each has an index of its own. Of both together the newest are among the newest of each.
    parts = [
        select(notifications).where(*terms, state).order_by(_c.id.desc()).limit(bindparam("n"))
        for state in states
    ]
    merged = union_all(*(select(part.subquery()) for part in parts)).subquery()
    return select(merged).order_by(merged.c.id.desc()).limit(bindparam("n"))
