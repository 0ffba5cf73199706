"""Durations as people write them: ``30s``, ``15m``, ``1h``, ``7d``, ``1h30m``."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_duration"]

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = r"(\d{1,9}(?:\.\d{1,9})?)([smhd])"
_PARTS: Final = re.compile(_PART, re.ASCII)
_WHOLE: Final = re.compile(f"(?:{_PART})+", re.ASCII)


def parse_duration(text: str) -> float:
    """``text`` in seconds; raises ``ValueError`` when it is no duration. A number alone counts seconds."""
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", text, re.ASCII):
        return float(text)
    if not _WHOLE.fullmatch(text):
        raise ValueError("expected a duration such as 30s, 15m, 1h or 7d")
    return sum(float(number) * _UNITS[unit] for number, unit in _PARTS.findall(text))
