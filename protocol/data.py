"""Reading the ``data`` of a command or a call into a typed shape."""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from protocol.errors import ErrorCode, ProtocolError

__all__ = ["read"]

T = TypeVar("T")

_LONGEST: Final = 120
"""Characters of a reason."""

_is_missing: Final = re.compile("Object missing required field `(.+)`").fullmatch


def read(data: Any, shape: type[T]) -> T:
    """``data`` as ``shape``, absent as empty; raises MISSING_FIELD and BAD_FIELD, naming the place."""
    try:
        return msgspec.convert({} if data is None else data, shape)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        reason = reason[:_LONGEST]  # it may repeat a value
        place = "data" + path.rstrip("`")
        missing = _is_missing(reason)
        if missing:
            raise ProtocolError(ErrorCode.MISSING_FIELD, f"{place}.{missing[1]}: is missing") from None
        raise ProtocolError(ErrorCode.BAD_FIELD, f"{place}: {reason[0].lower()}{reason[1:]}") from None
