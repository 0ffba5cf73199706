"""What the commands' arguments look like, and what is said when they cannot be used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.auth.identity import PERMISSIONS

__all__ = ["Failed", "UserError", "parse_rooms", "parse_seconds"]

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER: Final = r"\d{1,9}(?:\.\d{1,9})?"
_PARTS: Final = re.compile(f"({_NUMBER})([smhd])", re.ASCII)
_WHOLE: Final = re.compile(f"(?:{_NUMBER}[smhd])+", re.ASCII)
_PLAIN: Final = re.compile(_NUMBER, re.ASCII)


class UserError(Exception):
    """The command cannot be carried out as it was given; the message is one line."""


class Failed(Exception):
    """Something outside failed; the message is one line."""


def parse_seconds(flag: str, text: str) -> float:
    """A duration (``30s``, ``15m``, ``1h``, ``7d``, ``1h30m``; a number alone counts seconds) in
    seconds; raises ``UserError`` naming ``flag``."""
    text = text.strip()
    if _PLAIN.fullmatch(text):
        return float(text)
    if not _WHOLE.fullmatch(text):
        raise UserError(f"{flag} {text!r}: expected a duration such as 30s, 15m, 1h or 7d")
    return sum(float(number) * _UNITS[unit] for number, unit in _PARTS.findall(text))


def parse_rooms(texts: Sequence[str]) -> dict[str, list[str]] | None:
    """Pattern → permissions out of ``PATTERN=join,publish`` texts, None without any; raises ``UserError``."""
    rooms: dict[str, list[str]] = {}
    for text in texts:
        pattern, equals, names = text.rpartition("=")
        if not equals or not pattern:
            raise UserError(f"--room {text!r}: write PATTERN=join,publish,presence,history")
        permissions = [name.strip() for name in names.split(",") if name.strip()]
        unknown = [name for name in permissions if name not in PERMISSIONS]
        if unknown or not permissions:
            what = f"{unknown[0]!r} is not a permission" if unknown else "no permission is named"
            raise UserError(f"--room {text!r}: {what}: use {', '.join(PERMISSIONS)}")
        rooms.setdefault(pattern, []).extend(permissions)
    return rooms or None
