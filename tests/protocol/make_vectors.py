"""Writes ``protocol/vectors/*.json``: ``python -m tests.protocol.make_vectors``.

The vectors are the specification in examples, so nothing here comes from the codecs: the
CBOR is written by the few lines below, after RFC 8949, with keys and kinds typed in from
``docs/protocol.md``. The tests check that the files are what this writes, and that both
codecs agree with them in both directions.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from tests.protocol.vectors_refused import BOUNDARY_REFUSED, REFUSED
from tests.protocol.vectors_rules import FILTERS, NAMES, PATTERNS
from tests.protocol.vectors_valid import BOUNDARY_VALID, VALID

FOLDER = Path(__file__).parents[2] / "protocol" / "vectors"

KEYS = [
    *("v", "t", "id", "room", "event", "data", "seq", "epoch", "ts", "mid", "sender", "code", "message"),
    *("critical", "to"),
]
KINDS = [
    *("", "auth", "refresh", "join", "leave", "subscribe", "unsubscribe", "publish", "send"),
    *("call", "ack", "history", "presence", "info", "stats", "ping", "typing"),
    *("connected", "reply", "error", "event", "lost", "pong", "closing"),
]


def head(major: int, argument: int) -> bytes:
    first = major << 5
    if argument < 24:
        return bytes([first | argument])
    for size, code in ((1, 24), (2, 25), (4, 26), (8, 27)):
        if argument < 256**size:
            return bytes([first | code]) + argument.to_bytes(size, "big")
    raise ValueError(argument)


def cbor(value: Any) -> bytes:
    """Write a value of the model: shortest heads, floats of 64 bits, maps in the given order."""
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", False: b"\xf4", True: b"\xf5"}[value]
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    pairs = b"".join(cbor(key) + cbor(inner) for key, inner in value.items())
    return head(5, len(value)) + pairs


def both(envelope: dict[str, Any]) -> tuple[str, str]:
    """Return the JSON text and the CBOR hex of an envelope."""
    numbered = {
        KEYS.index(name): KINDS.index(value) if name == "t" else value for name, value in envelope.items()
    }
    return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")), cbor(numbered).hex()


def valid(name: str, about: str, envelope: dict[str, Any], text: str = "", hexed: str = "") -> dict[str, Any]:
    """Make one vector; ``text`` and ``hexed`` are other ways to write it than the usual one."""
    usual_text, usual_hex = both(envelope)
    return {
        "name": name,
        "about": about,
        "envelope": envelope,
        "json": text or usual_text,
        "cbor": hexed.replace(" ", "") or usual_hex,
        "usual": not (text or hexed),
    }


def refused(
    name: str, about: str, codec: str, payload: str, code: int, *, id: int | None = None
) -> dict[str, Any]:
    """Make one vector; ``payload`` is text for JSON, hex for CBOR, or hex after ``hex:``."""
    if codec == "cbor" or payload.startswith("hex:"):
        form = {"hex": payload.removeprefix("hex:").replace(" ", "")}
    else:
        form = {"text": payload}
    return {
        "name": name,
        "about": about,
        "codec": codec,
        **form,
        "code": code,
        "close": 1007 if code == 100 else None,
        "id": id,
    }


def files() -> dict[str, str]:
    """Return the text of every file by its name."""
    lists = {
        "valid.json": [valid(*row) for row in VALID],
        "refused.json": [refused(*row[:5], id=row[5]) for row in REFUSED],
        "boundary.json": {
            "valid": [valid(*row) for row in BOUNDARY_VALID],
            "refused": [refused(*row[:5], id=row[5]) for row in BOUNDARY_REFUSED],
        },
        "names.json": [dict(zip(("what", "text", "code"), row, strict=True)) for row in NAMES],
        "patterns.json": {
            "matches": [dict(zip(("pattern", "name", "matches"), row, strict=True)) for row in PATTERNS],
            "filters": FILTERS,
        },
    }
    return {name: json.dumps(rows, indent=1, ensure_ascii=True) + "\n" for name, rows in lists.items()}


def main() -> None:
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
