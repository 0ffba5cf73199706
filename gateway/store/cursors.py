"""Cursors: where the next page begins, and of which list they are."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from protocol.errors import ErrorCode, ProtocolError

__all__ = ["cursor_of", "position_of"]

_FORM: Final = re.compile(r"([0-9a-f]{1,16})\.([0-9a-f]{8})")
_LARGEST: Final = 2**63 - 1


def _mark(of: tuple[object, ...]) -> str:
    return hashlib.blake2s(repr(of).encode("utf-8", "backslashreplace"), digest_size=4).hexdigest()


def cursor_of(position: int, of: tuple[object, ...]) -> str:
    """A cursor after ``position`` in the list that ``of`` describes: its owner and its filters."""
    return f"{position:x}.{_mark(of)}"


def position_of(cursor: str, of: tuple[object, ...]) -> int:
    """Where to go on; raises BAD_FIELD for what is no cursor of this list."""
    found = _FORM.fullmatch(cursor)
    position = int(found[1], 16) if found else _LARGEST + 1
    if found is None or position > _LARGEST or found[2] != _mark(of):
        raise ProtocolError(ErrorCode.BAD_FIELD, "cursor: not for this list")
    return position
