"""The value model: what ``data`` may hold, the same on both codecs.

Null, booleans, integers of 64 bits, finite floats, text without lone surrogates,
arrays, and maps with text keys. Containers nest at most ``MAX_DEPTH`` deep, the
envelope's own map being the first; in what is published at most ``MAX_EVENT_DEPTH``
(``check_event_data``). A message from a client has at most ``MAX_ITEMS`` values and keys by default.

``Value`` is that model spelled out level by level, so that msgspec checks it in C while
it decodes, for the price of no check. ``find_problem`` is the same model in Python, for
whatever that does not accept.
"""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from protocol.errors import ErrorCode, ProtocolError, malformed

__all__ = [
    "MAX_DEPTH",
    "MAX_EVENT_DEPTH",
    "MAX_INT",
    "MAX_ITEMS",
    "MIN_INT",
    "Unsigned",
    "Value",
    "check_event_data",
    "check_value",
    "find_problem",
    "footprint",
    "text_problem",
]

MAX_DEPTH: Final = 16
"""Containers inside each other, the envelope's own map being the first."""
MAX_EVENT_DEPTH: Final = 12
"""Containers inside each other in what is published: a page of history wraps it in four more."""
MAX_ITEMS: Final = 8192
"""Values and keys in one message, the envelope's own ones and every container included, where nothing else is
set: so many empty maps take 2 ms, a megabyte of them would take 70 MB and half a second."""
MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1
_MAX_FLOAT: Final = 1.7976931348623157e308

Unsigned = Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)]

if TYPE_CHECKING:
    Value = Any
else:
    # Each level doubles what msgspec builds at import: seven take 20 ms, the whole fifteen
    # five seconds. Deeper values are read the careful way.
    _Int = Annotated[int, msgspec.Meta(ge=MIN_INT, le=MAX_INT)]
    _Float = Annotated[float, msgspec.Meta(ge=-_MAX_FLOAT, le=_MAX_FLOAT)]  # no NaN, no infinity
    Value = bool | _Int | _Float | str | None
    for _ in range(7):
        Value = bool | _Int | _Float | str | list[Value] | dict[str, Value] | None


def footprint(value: Value) -> int:
    """The bytes of memory that ``value`` takes in CPython, which may be 70 times what it took on the wire.

    An empty map is one byte of CBOR and 64 bytes of memory, and one character outside of the BMP makes every
    character of its text take four bytes. What is shared (small integers, equal keys) counts each time.
    """
    total = 0
    layer: list[Any] = [value]
    while layer:
        # Level by level, as in find_problem: there may be tens of thousands.
        total += sum(map(getsizeof, layer))
        kinds = set(map(type, layer))
        below = [inner for item in layer if type(item) in _ARRAYS for inner in item]
        if dict in kinds:
            maps = [item for item in layer if type(item) is dict]
            below += [key for item in maps for key in item]
            below += [inner for item in maps for inner in item.values()]
        layer = below
    return total


def check_value(value: object, field: str = "data", *, max_depth: int | None = None) -> Value:
    """Return ``value`` when it is of the value model; tuples pass for arrays.

    For values that did not come through a codec: handlers' results, REST bodies. Raises
    ``ProtocolError`` BAD_FIELD that names ``field`` otherwise, also when its containers nest
    deeper than ``max_depth``; by default, than the ``data`` of an envelope may.
    """
    try:
        problem = find_problem(value, 2 if max_depth is None else MAX_DEPTH + 1 - max_depth)
    except ProtocolError as error:
        problem = error.message
        if max_depth is not None and problem.startswith("nested"):
            problem = f"nested deeper than {max_depth}"
    if problem is not None:
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{field}: {problem}")
    return value


def check_event_data(value: object, field: str = "data") -> Value:
    """Return ``value`` when it may be the data of an event that is kept: the one place of this rule.

    As ``check_value``, but it nests at most ``MAX_EVENT_DEPTH`` deep, so that a page of history can hold it.
    Every way in asks this: the codecs for the kinds that publish, REST, and who embeds the gateway.
    """
    return check_value(value, field, max_depth=MAX_EVENT_DEPTH)


def find_problem(value: object, level: int = 2) -> str | None:
    """Say what takes ``value`` out of the value model; None when nothing does.

    ``level`` is the depth of ``value`` when it is a container; ``data`` has 2. Raises a fatal
    ``ProtocolError`` MALFORMED, whatever else is wrong, when a container lies deeper than
    ``MAX_DEPTH`` or a map key is not text.
    """
    # Level by level, each in a few calls that loop in C: the message may be large and hostile.
    problem: str | None = None
    layer: list[Any] = [value]
    while layer:
        kinds = set(map(type, layer))
        if level > MAX_DEPTH and not kinds.isdisjoint(_CONTAINERS):
            raise malformed(f"nested deeper than {MAX_DEPTH}")
        problem = problem or _layer_problem(layer, kinds)
        below = [inner for item in layer if type(item) in _ARRAYS for inner in item]
        if dict in kinds:
            maps = [item for item in layer if type(item) is dict]
            keys = [key for item in maps for key in item]
            if set(map(type, keys)) - {str}:
                raise malformed("a map key is not text")
            problem = problem or text_problem("".join(keys))
            below += [inner for item in maps for inner in item.values()]
        layer, level = below, level + 1
    return problem


_ARRAYS: Final = frozenset({list, tuple})
_CONTAINERS: Final = _ARRAYS | {dict}
_TYPES: Final = _CONTAINERS | {type(None), bool, int, float, str}

_OTHERS: Final = {"bytes": "a byte string", "UndefinedType": "undefined", "CBORSimpleValue": "a simple value"}


def _layer_problem(layer: list[Any], kinds: set[type]) -> str | None:
    for kind in kinds - _TYPES:
        return f"{_OTHERS.get(kind.__name__, kind.__name__)} is not a value"
    if int in kinds and not all(MIN_INT <= item <= MAX_INT for item in layer if type(item) is int):
        return "an integer is outside 64 bits"
    if float in kinds and not all(-_MAX_FLOAT <= item <= _MAX_FLOAT for item in layer if type(item) is float):
        return "a number is not finite"
    return text_problem("".join(item for item in layer if type(item) is str)) if str in kinds else None


def text_problem(item: object) -> str | None:
    """Say why ``item`` is not text of the value model; None when it is."""
    if type(item) is not str:
        return "must be text"
    try:
        item.encode()
    except UnicodeEncodeError:
        return "text contains a lone surrogate"
    return None
