"""An application's own typed events beside those of the catalogue.

An own type is a ``msgspec.Struct`` (perhaps a ``TypedEvent``, which has ``ts``, ``source``, ``details``) or a
dataclass. Its class attribute ``event`` is the event's name; without one it is the class's, in small letters:
``InvoicePaid`` is ``invoice_paid``. Its class attribute ``room`` is where it goes when no room is named.

>>> types = EventTypes()
>>> @types.register
... class InvoicePaid(msgspec.Struct):
...     invoice: str
>>> types.read("invoice_paid", {"invoice": "i7"}).invoice
'i7'
>>> emission(InvoicePaid("i7"), room="billing")
Emission(room='billing', event='invoice_paid', data={'invoice': 'i7'})
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from protocol.data import read
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import CATALOGUE
from protocol.names import check_event, check_room
from protocol.typed import Custom, TypedEvent
from protocol.values import check_event_data, check_value

__all__ = ["Emission", "EventType", "EventTypes", "emission", "event_type"]

_C = TypeVar("_C", bound=type)

_word: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])").sub
_NO_VALUES: Final = (bytes, bytearray, memoryview)
"""What msgspec would turn into base64; the value model refuses it instead."""


class EventType(NamedTuple):
    """How a class is published."""

    name: str
    """The event's name."""
    kind: type
    """The class."""
    room: str | None = None
    """Where it goes when no room is named; None: to the whole organisation."""
    needs_room: bool = False
    """Whether a room must be named."""


class Emission(NamedTuple):
    """What ``publish`` takes."""

    room: str | None
    event: str
    data: Any


@functools.lru_cache(maxsize=256)
def event_type(kind: type) -> EventType:
    """How ``kind`` is published.

    Raises TypeError for what is no Struct or dataclass, or has a field that data cannot be converted to;
    ValueError for a name of the event or the room that is not valid.
    """
    if not isinstance(kind, type) or not (issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)):
        raise TypeError(f"{kind!r} is neither a msgspec.Struct nor a dataclass")
    msgspec.json.schema(kind)  # raises TypeError
    name = _attribute(kind, "event") or _word("_", kind.__name__).lower()
    room = _attribute(kind, "room")
    try:
        check_event(name)
        if room is not None:
            check_room(room)
    except ProtocolError as error:
        raise ValueError(f"{kind.__name__}: {error.message}") from None
    return EventType(name, kind, room, _attribute(kind, "needs_room") is True)


def _attribute(kind: type, name: str) -> Any:
    """A class attribute that is not the default of a field."""
    fields: Collection[str] = ()
    if issubclass(kind, msgspec.Struct):
        fields = kind.__struct_fields__
    elif dataclasses.is_dataclass(kind):
        fields = {field.name for field in dataclasses.fields(kind)}
    return None if name in fields else getattr(kind, name, None)


def emission(event: Any, *, room: str | None = None) -> Emission:
    """What to publish for ``event``: an event of the catalogue, a ``Custom``, or an object of an own type.

    What has ``to_data()`` says its data by that, its name and room by the attributes ``event`` and ``room``.
    It goes to ``room``, by default to the type's own. Raises ``ProtocolError``: MISSING_FIELD and BAD_FIELD
    for data that is not valid, MISSING_FIELD where a room must be named; TypeError for what is no event.
    """
    if isinstance(event, TypedEvent) or not hasattr(event, "to_data"):
        kind: type = type(event)
        name, _, own, needs_room = event_type(kind)
    else:
        name, own = event.event, getattr(event, "room", None)
        needs_room = getattr(event, "needs_room", False) is True
    room = room or own
    if room is None and needs_room:
        raise ProtocolError(ErrorCode.MISSING_FIELD, f"room: {name} needs a room")
    return Emission(room, name, event.to_data() if hasattr(event, "to_data") else _own_data(event))


def _own_data(event: Any) -> Any:
    data = check_event_data(msgspec.to_builtins(event, builtin_types=_NO_VALUES))
    read(data, type(event))
    return data


class EventTypes:
    """The events of the catalogue and an application's own, by name."""

    __slots__ = ("_types",)

    def __init__(self) -> None:
        self._types: dict[str, EventType] = {
            name: EventType(name, kind, kind.room, kind.needs_room) for name, kind in CATALOGUE.items()
        }

    def register(self, kind: _C) -> _C:
        """Add an own type; returns it, so that this may decorate its class.

        Raises ValueError when another type has its name, and what :func:`event_type` raises.
        """
        found = event_type(kind)
        if self._types.setdefault(found.name, found).kind is not kind:
            raise ValueError(f"there is another type of event called {found.name!r}")
        return kind

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __iter__(self) -> Iterator[EventType]:
        return iter(self._types.values())

    def __len__(self) -> int:
        return len(self._types)

    def get(self, name: str) -> EventType | None:
        """The type of that name."""
        return self._types.get(name)

    def read(self, event: str, data: object) -> Any:
        """The object that an envelope's ``event`` and ``data`` say; a ``Custom`` for a name without a type.

        Raises ``ProtocolError``: MISSING_FIELD and BAD_FIELD naming the field, BAD_EVENT for a bad name.
        """
        check_value(data)
        found = self._types.get(event)
        return Custom(check_event(event), data) if found is None else read(data, found.kind)

    def emission(self, event: str, data: Any, *, room: str | None = None) -> Emission:
        """What to publish for an event by name, as :func:`emission` for an object.

        Fields that the type does not know are kept, and those with a default are filled in. Raises NOT_FOUND
        for a name without a type.
        """
        found = self._types.get(check_event(event))
        if found is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "event: there is no type of event by this name")
        made = emission(self.read(event, data), room=room)
        if isinstance(data, Mapping) and isinstance(made.data, dict):
            return made._replace(data={**made.data, **data})
        return made

    def check(self, event: str, data: Any) -> None:
        """Raise what :meth:`read` raises for ``data`` that came through a codec; other names pass."""
        found = self._types.get(event)
        if found is not None:
            read(data, found.kind)
