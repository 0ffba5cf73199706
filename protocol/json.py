"""The JSON codec, for browsers: RFC 8259 in UTF-8, the names of the fields as keys.

When a key comes twice in one object the last one counts, as with ``JSON.parse``. The
escape of a lone surrogate is well-formed but no value, so it is refused without
closing the connection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, Literal, NoReturn

import msgspec

from protocol.codec import examine, too_many_items
from protocol.envelope import KEYS, KINDS, MAX_DEPTH, VERSION, Envelope
from protocol.errors import malformed
from protocol.values import MAX_ITEMS

__all__ = ["JSON", "JsonCodec", "check_items"]


class _OtherVersion(msgspec.Struct, tag_field="v", tag=VERSION + 1, forbid_unknown_fields=True):
    """Never decoded: its place in the union makes msgspec insist on ``v``."""


_decode: Callable[[bytes], Envelope] = msgspec.json.Decoder(Envelope | _OtherVersion).decode
_encode = msgspec.json.Encoder().encode
_NAMES: Final = {name: name for name in KINDS}


class JsonCodec:
    """``trireme.v1.json``: text messages. See ``protocol.codec.Codec``."""

    name: Final[Literal["json"]] = "json"
    subprotocol: Final = "trireme.v1.json"
    binary: Final = False

    def decode(self, payload: bytes, *, max_items: int = MAX_ITEMS) -> Envelope:
        if len(payload) > max_items:
            check_items(payload, max_items)
        try:
            return _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # the careful path says what is wrong, or ignores unknown keys
        return _decode_carefully(payload)

    def encode(self, envelope: Envelope) -> bytes:
        return _encode(envelope)


def check_items(text: bytes, most: int = MAX_ITEMS) -> None:
    """Raise ``ProtocolError`` TOO_LARGE when a JSON text has more than ``most`` values and keys.

    For whatever decodes JSON from strangers by other means. Costs about 1 ms for a megabyte, at most 10; and
    whatever the text is, a decoder that stops at the first fault makes no more than was counted.
    """
    # Each is behind one of these signs, but the first. That is more than there are: texts may hold them.
    if len(text) - len(text.translate(None, b",:[{")) >= most and _count_items(text, most) > most:
        raise too_many_items(most, _early_id(text))


def _count_items(text: bytes, most: int) -> int:
    """Count exactly, or say ``most`` + 1 as soon as there must be more."""
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if text.count(b'"') > 2 * most:
        return most + 1
    # Of each text one quote is left, so that an array of one is not taken for an empty one.
    signs = b'"'.join(text.split(b'"')[::2]).translate(None, b" \t\r\n")
    behind = len(signs) - len(signs.translate(None, b",:"))  # values and keys that are not the first
    if behind > most:
        return most + 1
    return 1 + behind + signs.count(b"[") + signs.count(b"{") - signs.count(b"[]") - signs.count(b"{}")


_simple_member = re.compile(rb'\s*[{,]\s*"(\w+)"\s*:\s*("[^"\\]*"|\d{1,19}(?=[\s,}]))').match


def _early_id(text: bytes) -> int | None:
    """Read the ``id`` when nothing but numbers and plain texts stand in front of it."""
    member = _simple_member(text)
    for _ in KEYS:
        if member is None or member[1] == b"id":
            break
        member = _simple_member(text, member.end())
    return int(member[2]) if member is not None and member[1] == b"id" and member[2].isdigit() else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_int(digits: str) -> int:
    # Cut to a sign and twenty digits it is outside 64 bits still, and Python refuses thousands.
    return int(digits[:21])


def _decode_carefully(payload: bytes) -> Envelope:
    try:
        decoded: Any = json.loads(payload.decode(), parse_constant=_refuse_constant, parse_int=_read_int)
    except UnicodeDecodeError:
        raise malformed("not UTF-8") from None
    except RecursionError:
        raise malformed(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError:
        raise malformed("not well-formed JSON") from None
    if not isinstance(decoded, dict):
        raise malformed("not an object")
    fields = {name: decoded.pop(name) for name in KEYS if name in decoded}
    return examine(fields, decoded.values(), _NAMES)


JSON: Final = JsonCodec()
