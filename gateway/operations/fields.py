"""What operations check of the texts and values that are stored, with numbered errors."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from protocol.errors import ErrorCode, ProtocolError
from protocol.values import check_value

__all__ = ["bad", "check_json", "check_length", "check_text", "check_user"]

_MAX_USER: Final = 200
_is_text = re.compile(r"[^\x00-\x1f\x7f]+").fullmatch


def bad(field: str, text: str) -> ProtocolError:
    """The error BAD_FIELD about ``field``."""
    return ProtocolError(ErrorCode.BAD_FIELD, f"{field}: {text}")


def check_user(user: str, field: str) -> None:
    """A user's name of 1 to 200 characters; raises BAD_FIELD."""
    check_text(field, user, _MAX_USER)


def check_text(field: str, text: str, most: int) -> None:
    """1 to ``most`` characters without control characters; raises BAD_FIELD."""
    check_length(field, text, most)
    if not _is_text(text):
        raise bad(field, "must not hold control characters")
    check_value(text, field)


def check_length(field: str, text: str, most: int) -> None:
    """1 to ``most`` characters of any kind; raises BAD_FIELD."""
    if not text:
        raise bad(field, "must not be empty")
    if len(text) > most:
        raise bad(field, f"must not be longer than {most:,} characters")


def check_json(field: str, value: Any, most: int, *, depth: int) -> None:
    """At most ``most`` bytes of JSON and ``depth`` containers inside each other; BAD_FIELD, TOO_LARGE."""
    if value is None:
        return
    check_value(value, field, max_depth=depth)
    if len(msgspec.json.encode(value)) > most:
        raise ProtocolError(ErrorCode.TOO_LARGE, f"{field}: must not be larger than {most:,} bytes of JSON")
