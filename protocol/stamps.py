"""How a frame that many connections share leaves room for what is each connection's own."""

from __future__ import annotations

from typing import Final

__all__ = ["RENEWS", "STAMP"]

STAMP: Final = b"\0"
"""In such a frame, what each connection replaces by its own bytes. JSON never holds it."""
RENEWS: Final = 1
"""First byte of a frame with which those bytes change; it is not sent."""
