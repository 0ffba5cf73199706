"""What every typed event is: a name, a default room, validated fields, a UTC time.

The catalogue is ``protocol.events``. ``TypedEvent`` objects are immutable; building one
does not validate, ``to_data`` and ``from_data`` do.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec

from protocol.data import read
from protocol.names import check_event
from protocol.values import Unsigned, Value, check_value

__all__ = ["Custom", "Details", "Id", "Metrics", "Milliseconds", "Seconds", "Severity", "Text", "TypedEvent"]

_TE = TypeVar("_TE", bound="TypedEvent")

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Metrics = dict[str, int | float]
Details = dict[str, Any]  # of the value model: every event is checked against it as a whole
Severity = Literal["info", "success", "warning", "error", "critical"]


def now_ms() -> int:
    """Return the time in milliseconds since 1970 UTC, as in every ``ts``."""
    return time.time_ns() // 1_000_000


class TypedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every event of the catalogue. Fields that are None are absent from the data.

    Fields that a reader does not know are ignored, so that fields may be added.
    """

    event: ClassVar[str]
    room: ClassVar[str | None] = None
    """Where it goes when no room is named; None: to the whole organisation."""
    needs_room: ClassVar[bool] = False
    """Whether a room must be named: it concerns nobody outside of one."""

    ts: Unsigned = msgspec.field(default_factory=now_ms)
    """When it happened, in milliseconds since 1970 UTC."""
    source: Id | None = None
    """What it comes from: a service, a worker, a component."""
    details: Details | None = None
    """Whatever else the application has to say."""

    def to_data(self) -> dict[str, Any]:
        """Return the envelope's ``data``.

        Raises ``ProtocolError`` MISSING_FIELD or BAD_FIELD when a field is not valid.
        """
        data = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        self.from_data(data)
        return data

    @classmethod
    def from_data(cls: type[_TE], data: object) -> _TE:
        """Make the event from an envelope's ``data``.

        Raises ``ProtocolError`` MISSING_FIELD or BAD_FIELD, naming the field.
        """
        check_value(data)
        return read(data, cls)


class Custom(msgspec.Struct, frozen=True):
    """An event outside the catalogue: any name, any data of the value model."""

    event: str
    data: Value = None
    room: str | None = None

    def to_data(self) -> Value:
        """Return the envelope's ``data``; raises ``ProtocolError`` BAD_EVENT or BAD_FIELD."""
        check_event(self.event)
        return check_value(self.data)
