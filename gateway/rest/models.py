"""What the bodies of requests and answers share; the OpenAPI document is generated from them.

Times are milliseconds since 1970 UTC, as in the envelope, and durations are in seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from protocol.envelope import MAX_EVENT_BYTES, MAX_MID_BYTES, MAX_ROOM_BYTES

__all__ = [
    "Body",
    "Empty",
    "OrganisationQuery",
    "PlainText",
    "Problem",
    "Readiness",
]

Cursor = Annotated[str, msgspec.Meta(description="`next` of the previous page; opaque.")]
Missing = Annotated[
    list[str], msgspec.Meta(description="Nodes that did not answer; their entries are missing.")
]
Org = Annotated[str, msgspec.Meta(description="The organisation; only an admin may name another one.")]
Limit = Annotated[int, msgspec.Meta(ge=1, le=1000, description="Largest number of entries in one page.")]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, description="Milliseconds since 1970 UTC.")]
Permissions = dict[str, list[Literal["join", "publish", "presence", "history"]]]


def _name(longest: int, pattern: str, description: str) -> msgspec.Meta:
    """Describe a name. The checks are those of ``protocol.names``, whose errors have numbers of their own."""
    bounds = {"minLength": 1, "maxLength": longest, "pattern": f"^[^{pattern}]+$"}
    return msgspec.Meta(description=description, extra_json_schema=bounds)


_CONTROL = r"\u0000-\u001f\u007f"
EventName = Annotated[
    str, _name(MAX_EVENT_BYTES, f"{_CONTROL}*", "1 to 100 bytes, without `*` and control characters.")
]
RoomName = Annotated[
    str, _name(MAX_ROOM_BYTES, f"{_CONTROL}*", "1 to 200 bytes, without `*` and control characters.")
]
MessageId = Annotated[
    str,
    _name(
        MAX_MID_BYTES,
        _CONTROL,
        "Message id; a repeated one gets the place of the first. Made when absent.",
    ),
]
Lifetime = Annotated[
    float, msgspec.Meta(description="Lifetime in seconds.", extra_json_schema={"minimum": 1})
]


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[int, msgspec.Meta(description="Error number; see the table of error numbers.")]
    retry_after: Annotated[float, msgspec.Meta(description="Seconds.")] | None = None


class PlainText(msgspec.Struct):
    """Prometheus text format."""


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What callers send: a misspelt `room` must not reach everyone, nor a misspelt `rooms` permit all."""


class Empty(msgspec.Struct):
    """No member is needed."""


class OrganisationQuery(msgspec.Struct):
    org: Org | None = None


class Readiness(msgspec.Struct, omit_defaults=True):
    """Whether the gateway takes work."""

    status: str
    detail: str = ""
    """What an operator should see to all the same: settings of other nodes, or clocks, that differ."""
    calls: dict[str, str] | None = None
    """Breaker of each backend of calls, by its pattern: closed, open or half-open."""
    database: (
        Annotated[bool, msgspec.Meta(description="Whether the database is available, if there is one.")]
        | None
    ) = None
