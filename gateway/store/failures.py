"""What the database says, as numbered errors. Nothing that a client sees names a host, a file or a value."""

from __future__ import annotations

import sqlite3
import time
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Failures", "is_repeatable", "is_unavailable", "line_of"]

log = structlog.get_logger(__name__)

_REPEATABLE: Final = {"40001", "40P01", "23505"}
"""Serialisation failure, deadlock, and an id that another process has made, too."""
_AWAY: Final = {"08", "25", "53", "57", "58"}
"""Classes of SQLSTATE: connection, read-only server, out of resources, operator, system error."""
_TEXTS: Final = (
    ("locked", "the database is locked"),
    ("full", "the database is full"),
    ("timeout", "the database is too slow"),
)
_PAUSE: Final = 10.0
"""Seconds between two log lines about an outage."""


def _state(error: Exception) -> str:
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def is_repeatable(error: Exception) -> bool:
    """Whether nothing but bad luck made the transaction fail, so that it may succeed at once."""
    return _state(error) in _REPEATABLE or "UNIQUE constraint failed" in str(getattr(error, "orig", ""))


def is_unavailable(error: Exception) -> bool:
    """Whether the database, and not the statement, is the reason."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if state := _state(error):
        # 55P03: a lock that was not given in time.
        return state[:2] in _AWAY or state == "55P03"
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        # SQLite says "no such table" with the same class as "disk is full".
        return not str(error.orig).startswith("no such")
    return type(error.orig) is sqlite3.DatabaseError  # a damaged file, or none of SQLite's


def line_of(error: BaseException) -> str:
    """One line for the log, without the values of a statement."""
    shown = getattr(error, "orig", None) or error
    return " ".join(str(shown).split("\nDETAIL", 1)[0].split())[:300] or type(shown).__name__


class Failures:
    """Turns errors into numbers, and remembers whether the database is available."""

    def __init__(self, retry_after: float) -> None:
        self._retry_after = retry_after
        self._logged = -_PAUSE
        self.reason: str | None = None
        """Why the database cannot be used now; None while it can."""
        self.count = 0

    def unavailable(self, reason: str | None = None) -> ProtocolError:
        """The error for whoever asked: nothing was stored."""
        return ProtocolError(
            ErrorCode.DATABASE_UNAVAILABLE,
            reason or self.reason or "the database is unavailable",
            retry_after=self._retry_after,
        )

    def overloaded(self) -> ProtocolError:
        """The error for one request too many."""
        return ProtocolError(
            ErrorCode.OVERLOADED, "too much is waiting for the database", retry_after=self._retry_after
        )

    def unknown(self) -> ProtocolError:
        """The error for a commit that was not answered."""
        return ProtocolError(
            ErrorCode.TIMEOUT,
            "the database did not answer in time; the change may have been stored",
            retry_after=self._retry_after,
        )

    def of(self, error: Exception, *, committing: bool = False) -> ProtocolError:
        """The error for ``error``; ``committing`` says that it came from the COMMIT itself."""
        if not is_unavailable(error):
            log.error("the database refused a statement", reason=line_of(error))
            return ProtocolError(ErrorCode.INTERNAL, "a database error, which was logged")
        line = line_of(error)
        found = (text for word, text in _TEXTS if word in line.lower())
        self.away(next(found, "the database is unavailable"), line)
        if committing and not isinstance(getattr(error, "orig", None), sqlite3.Error):
            return self.unknown()
        return self.unavailable()

    def away(self, reason: str, line: str) -> None:
        """Note that the database cannot be used."""
        self.count += 1
        now = time.monotonic()
        if self.reason is None or now - self._logged >= _PAUSE:
            self._logged = now
            log.warning("database unavailable", reason=line)
        self.reason = reason

    def back(self) -> None:
        """Note that the database has answered."""
        if self.reason is not None:
            self.reason = None
            log.info("database available")
