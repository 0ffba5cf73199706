"""What the gateway answers."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.publisher.errors import Refused

__all__ = ["BatchResult", "Published", "SentTo", "Token", "problem"]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """The place that an event got in the order of its room, or of the organisation."""

    mid: str
    seq: int
    epoch: str


class SentTo(msgspec.Struct, frozen=True, kw_only=True):
    """For how many connections it was queued, and its place in the user's order, where it has one."""

    mid: str
    connections: int = 0
    seq: int | None = None
    epoch: str | None = None


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A signed token; ``expires`` in milliseconds since 1970 UTC."""

    token: str
    jti: str
    expires: int


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one operation of a batch: ``error`` is None when it was done."""

    mid: str | None = None
    seq: int | None = None
    epoch: str | None = None
    connections: int | None = None
    error: Refused | None = None


def problem(status: int, document: Any, text: str = "") -> Refused:
    """The error for a problem document (RFC 9457), or for what else was answered."""
    found = document if isinstance(document, dict) else {}
    reason = (
        found.get("detail") or found.get("title") or " ".join(text.split())[:300] or "no reason was given"
    )
    code, retry_after = found.get("code"), found.get("retry_after")
    return Refused(
        status,
        str(reason),
        code=code if isinstance(code, int) else None,
        retry_after=float(retry_after) if isinstance(retry_after, int | float) else None,
        problem=found,
    )
