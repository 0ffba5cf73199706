"""The JSON codec, for browsers: RFC 8259 in UTF-8, the names of the fields as keys.

When a key comes twice in one object the last one counts, as with ``JSON.parse``. The
escape of a lone surrogate is well-formed but no value, so it is refused without
closing the connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Literal, NoReturn

import msgspec

from protocol.codec import examine
from protocol.envelope import KEYS, KINDS, MAX_DEPTH, VERSION, Envelope
from protocol.errors import malformed

__all__ = ["JSON", "JsonCodec"]


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

    def decode(self, payload: bytes) -> Envelope:
        try:
            return _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # the careful path says what is wrong, or ignores unknown keys
        return _decode_carefully(payload)

    def encode(self, envelope: Envelope) -> bytes:
        return _encode(envelope)


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
