"""The version, apart from what it is the version of, so that any file may name it."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"
