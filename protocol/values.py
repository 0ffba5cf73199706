"""The value model: what ``data`` may hold, the same on both codecs.

Null, booleans, integers of 64 bits, finite floats, text without lone surrogates,
arrays, and maps with text keys. Containers nest at most ``MAX_DEPTH`` deep, the
envelope's own map being the first. ``Value`` is that model spelled out level by
level, so that msgspec checks it in C while it decodes, for the price of no check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from protocol.errors import CloseCode, ErrorCode, ProtocolError

__all__ = ["MAX_DEPTH", "MAX_INT", "MIN_INT", "Unsigned", "Value", "check_value", "find_problem"]

MAX_DEPTH: Final = 16
"""Containers inside each other, the envelope's own map being the first."""
MIN_INT: Final = -(2**63)
MAX_INT: Final = 2**63 - 1
_MAX_FLOAT: Final = 1.7976931348623157e308

Unsigned = Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)]

if TYPE_CHECKING:
    Value = Any
else:
    # Bounds on the float also refuse NaN and the infinities.
    _Int = Annotated[int, msgspec.Meta(ge=MIN_INT, le=MAX_INT)]
    _Float = Annotated[float, msgspec.Meta(ge=-_MAX_FLOAT, le=_MAX_FLOAT)]
    Value = bool | _Int | _Float | str | None
    for _ in range(MAX_DEPTH - 1):
        Value = bool | _Int | _Float | str | list[Value] | dict[str, Value] | None


class _Holder(msgspec.Struct, array_like=True):
    """msgspec keeps what it prepared for a struct, but not for a bare union."""

    value: Value


def check_value(value: object, field: str = "data") -> Value:
    """Return ``value`` as it would arrive after a round trip (tuples become lists).

    For values that did not come through a codec: handlers' results, REST bodies.
    Raises ``ProtocolError`` BAD_FIELD that names ``field`` when it is outside the value
    model, too deep included.
    """
    try:
        checked = msgspec.convert((value,), _Holder).value
        msgspec.json.encode(checked)  # finds lone surrogates
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError):
        try:
            problem = find_problem(value)
        except ProtocolError as too_deep:
            problem = too_deep.message
        raise ProtocolError(
            ErrorCode.BAD_FIELD, f"{field}: {problem or 'is outside the value model'}"
        ) from None
    return checked


def find_problem(value: object, level: int = 2) -> str | None:
    """Say what takes ``value`` out of the value model; None when nothing does.

    The slow way, for messages that were refused already. ``level`` is the depth of
    ``value`` when it is a container; ``data`` has 2. Raises a fatal ``ProtocolError``
    MALFORMED when any container lies deeper than ``MAX_DEPTH``, wherever it is.
    """
    problem: str | None = None
    stack = [(value, level)]
    while stack:
        item, level = stack.pop()
        if isinstance(item, dict | list):
            if level > MAX_DEPTH:
                raise ProtocolError(
                    ErrorCode.MALFORMED, f"nested deeper than {MAX_DEPTH}", fatal=CloseCode.INVALID_DATA
                )
            if isinstance(item, dict):
                problem = problem or next(filter(None, map(_key_problem, item)), None)
                item = item.values()
            stack.extend((inner, level + 1) for inner in item)
        else:
            problem = problem or _scalar_problem(item)
    return problem


def _key_problem(key: object) -> str | None:
    return text_problem(key) and "a map's key is not text"


def _scalar_problem(item: object) -> str | None:
    match item:
        case None | bool():
            return None
        case int():
            return None if MIN_INT <= item <= MAX_INT else "an integer is outside 64 bits"
        case float():
            return None if -_MAX_FLOAT <= item <= _MAX_FLOAT else "a number is not finite"
        case str():
            return text_problem(item)
        case bytes():
            return "a byte string is not a value"
        case _:
            return f"{type(item).__name__} is not a value"


def text_problem(item: object) -> str | None:
    """Say why ``item`` is not text; None when it is."""
    if not isinstance(item, str):
        return "must be text"
    try:
        item.encode()
    except UnicodeEncodeError:
        return "text holds a lone surrogate"
    return None
