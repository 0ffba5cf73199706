"""The CBOR codec: RFC 8949, decoded strictly, integers as keys and kinds.

Not well-formed here, beyond RFC 8949 itself: tags, indefinite lengths, duplicate keys,
bytes after the first item, nesting deeper than 16.

cbor2 can refuse map keys other than strings, and must: Python's hashes of integers and
tuples can be predicted, so a map of chosen ones takes quadratic time. The envelope's
own keys are integers, though. So the head of the outer map is replaced by the head of
an array of twice the length, which is the same bytes from there on, and the pairs are
put together here.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Any, Final, Literal, NoReturn

import cbor2
import msgspec

from protocol.codec import examine, too_many_items
from protocol.envelope import KEYS, KINDS, MAX_DEPTH, VERSION, Envelope
from protocol.errors import malformed
from protocol.values import MAX_ITEMS

__all__ = ["CBOR", "CborCodec"]

_NAMES: Final = {key: name for name, key in KEYS.items()}
_KIND_NAMES: Final = {number: kind for kind, number in KINDS.items()}
_UINT, _TEXT, _ARRAY, _MAP = 0x00, 0x60, 0x80, 0xA0
"""Major types 0, 3, 4 and 5 in the upper three bits of an item's first byte."""


_pack_16, _pack_32, _pack_64 = Struct(">BH").pack, Struct(">BI").pack, Struct(">BQ").pack


def _write_head(major: int, argument: int) -> bytes:
    """Write an item's head in its shortest form (RFC 8949, section 4.2.1)."""
    if argument < 1 << 8:
        return bytes((major | argument,) if argument < 24 else (major | 24, argument))
    if argument < 1 << 16:
        return _pack_16(major | 25, argument)
    return _pack_32(major | 26, argument) if argument < 1 << 32 else _pack_64(major | 27, argument)


_UINT_HEADS: Final = tuple(_write_head(_UINT, n) for n in range(256))
_TEXT_HEADS: Final = tuple(_write_head(_TEXT, n) for n in range(256))
_MAP_HEADS: Final = {2 * pairs - 2: _write_head(_MAP, pairs) for pairs in range(2, len(KEYS) + 1)}
"""By the number of parts that ``encode`` joins: this, one for ``v`` and ``t``, two for each other pair."""
_STARTS: Final = {kind: b"\x00\x01\x01" + _write_head(_UINT, number) for kind, number in KINDS.items()}


def _uint(number: int) -> bytes:
    return _UINT_HEADS[number] if 0 <= number < 256 else _write_head(_UINT, number)


def _text(text: str) -> bytes:
    raw = text.encode()
    return (_TEXT_HEADS[len(raw)] if len(raw) < 256 else _write_head(_TEXT, len(raw))) + raw


def _data(data: object) -> bytes:
    try:
        return cbor2.dumps(data)
    except cbor2.CBOREncodeError as error:
        raise ValueError(str(error)) from error


_ARRAY_HEADS: Final = {_MAP | pairs: _write_head(_ARRAY, 2 * pairs) for pairs in range(24)}
_LENGTH_BYTES: Final = {_MAP | 24: 1, _MAP | 25: 2, _MAP | 26: 4, _MAP | 27: 8}


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not allowed")


class _NoTags(Mapping[int, Any]):
    """Answers for every tag, so that none of cbor2's own decoders is reached."""

    def __getitem__(self, tag: int) -> Any:
        return _refuse_tag

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _new_decoder() -> tuple[io.BytesIO, cbor2.CBORDecoder]:
    source = io.BytesIO()
    decoder = cbor2.CBORDecoder(
        source,
        max_depth=MAX_DEPTH,
        allow_indefinite=False,
        allow_duplicate_keys=False,
        strict_hashable_types=True,
        semantic_decoders=_NoTags(),
        tag_hook=_refuse_tag,
    )
    return source, decoder


_LARGE: Final = 65_536
_idle: list[tuple[io.BytesIO, cbor2.CBORDecoder]] = []
"""Decoders to use again, one per thread at most; one that failed is never put back."""


def _read_items(payload: bytes) -> list[Any]:
    """Return keys and values of the outer map in turn; raises a fatal ``ProtocolError``."""
    if not payload:
        raise malformed("an empty message")
    head = _ARRAY_HEADS.get(payload[0])
    length = 0
    if head is None:
        if payload[0] not in _LENGTH_BYTES:
            raise malformed("not a map of definite length")
        length = _LENGTH_BYTES[payload[0]]
        pairs = int.from_bytes(payload[1 : 1 + length], "big")
        if len(payload) <= length or pairs > len(payload):
            raise malformed("cut short")
        head = _write_head(_ARRAY, 2 * pairs)
    source, decoder = _idle.pop() if _idle else _new_decoder()
    source.seek(0)
    source.truncate()
    source.write(head + payload[1 + length :])
    source.seek(0)
    try:
        items: list[Any] = decoder.decode()
    except cbor2.CBORDecodeError as error:
        raise malformed(_reason(error)) from None
    if source.tell() != len(payload) - 1 - length + len(head):
        raise malformed("bytes after the end of the map")
    if len(payload) <= _LARGE:  # a larger one would stay in memory until the next
        _idle.append((source, decoder))
    return items


_BAD_KEY: Final = "a map key is not text"
_DUPLICATE: Final = "a map has a duplicate key"
_REASONS: Final = {
    "semantic tag": "tags are not allowed",
    "indefinite length": "indefinite lengths are not allowed",
    "nesting depth": f"nested deeper than {MAX_DEPTH}",
    "map key must be": _BAD_KEY,
    "Duplicate": _DUPLICATE,
    "end of stream": "cut short",
}
"""What cbor2's messages contain → ours, which never repeat what was sent."""


def _reason(error: cbor2.CBORDecodeError) -> str:
    if isinstance(error.__cause__, UnicodeDecodeError):
        return "text is not UTF-8"
    text = str(error)
    return next((reason for sign, reason in _REASONS.items() if sign in text), "not well-formed CBOR")


_MAJOR_TEXTS: Final = (2, 3)
_MAJOR_CONTAINERS: Final = (4, 5)


def _step(first: int) -> int:
    """Bytes from an item's first byte to the next item's; 0 where more must be read, or none can follow."""
    major, info = first >> 5, first & 31
    if info > 27 or major == 6:
        return 0
    if major in _MAJOR_TEXTS:
        return 1 + info if info < 24 else 0
    return 1 + (0, 1, 2, 4, 8)[max(info - 23, 0)]


_STEPS: Final = tuple(map(_step, range(256)))


def _next_item(payload: bytes, at: int) -> int:
    """Find the item behind that at ``at``, or behind its head for a container; the end when there is none."""
    first = payload[at]
    if _STEPS[first]:
        return at + _STEPS[first]
    if first >> 5 not in _MAJOR_TEXTS or first & 31 > 27:
        return len(payload)  # a tag, an indefinite length, or not CBOR: decoding ends here too
    head = 1 + (1 << (first & 3))
    return at + head + int.from_bytes(payload[at + 1 : at + head], "big")


def _count_items(payload: bytes, most: int) -> int:
    """Count the items of a message; the count ends above ``most``, and where decoding would end."""
    steps, at, end = _STEPS, 0, len(payload)
    for count in range(most + 1):
        if at >= end:
            return count
        step = steps[payload[at]]
        at = at + step if step else _next_item(payload, at)
    return most + 1


def _early_id(payload: bytes) -> int | None:
    """Read the ``id`` of a map when nothing but numbers and texts stand in front of it."""
    at = 1 + _LENGTH_BYTES.get(payload[0], 0)
    for _ in KEYS:
        value = _next_item(payload, at) if at < len(payload) else at
        if value >= len(payload) or payload[value] >> 5 in _MAJOR_CONTAINERS:
            break
        behind = _next_item(payload, value)
        if payload[at] == KEYS["id"] and payload[value] < 24:
            return payload[value]
        if payload[at] == KEYS["id"] and payload[value] < 28:
            return int.from_bytes(payload[value + 1 : behind], "big")
        at = behind
    return None


class CborCodec:
    """``trireme.v1.cbor``: binary messages. See ``protocol.codec.Codec``."""

    name: Final[Literal["cbor"]] = "cbor"
    subprotocol: Final = "trireme.v1.cbor"
    binary: Final = True

    def decode(self, payload: bytes, *, max_items: int = MAX_ITEMS) -> Envelope:
        if len(payload) > max_items and _count_items(payload, max_items) > max_items:
            raise too_many_items(max_items, _early_id(payload))
        items = _read_items(payload)
        fields: dict[str, Any] = {}
        turns = iter(items)
        try:
            for key in turns:
                if type(key) is not int:  # True and 1.0 would pass for 1 below
                    break
                fields[_NAMES[key]] = next(turns)
            else:
                if 2 * len(fields) == len(items) and fields["v"] == VERSION and type(fields["t"]) is int:
                    fields["t"] = _KIND_NAMES[fields["t"]]
                    return msgspec.convert(fields, Envelope)
        except (KeyError, msgspec.ValidationError):
            pass  # the careful path says what is wrong, or ignores unknown keys
        return _decode_carefully(items)

    def encode(self, envelope: Envelope) -> bytes:
        # Written out field by field: cbor2 takes half as long again for the map as a whole.
        parts = [b"", _STARTS[envelope.t]]
        if (number := envelope.id) is not None:
            parts += b"\x02", _uint(number)
        if (text := envelope.room) is not None:
            parts += b"\x03", _text(text)
        if (text := envelope.event) is not None:
            parts += b"\x04", _text(text)
        if (data := envelope.data) is not None:
            parts += b"\x05", _data(data)
        if (number := envelope.seq) is not None:
            parts += b"\x06", _uint(number)
        if (text := envelope.epoch) is not None:
            parts += b"\x07", _text(text)
        if (number := envelope.ts) is not None:
            parts += b"\x08", _uint(number)
        if (text := envelope.mid) is not None:
            parts += b"\x09", _text(text)
        if (text := envelope.sender) is not None:
            parts += b"\x0a", _text(text)
        if (number := envelope.code) is not None:
            parts += b"\x0b", _uint(number)
        if (text := envelope.message) is not None:
            parts += b"\x0c", _text(text)
        if (flag := envelope.critical) is not None:
            parts += b"\x0d", b"\xf5" if flag else b"\xf4"
        if (text := envelope.to) is not None:
            parts += b"\x0e", _text(text)
        parts[0] = _MAP_HEADS[len(parts)]
        return b"".join(parts)


def _decode_carefully(items: list[Any]) -> Envelope:
    keys, values = items[::2], items[1::2]
    if set(map(type, keys)) - {int, str}:
        raise malformed(_BAD_KEY)
    # Integers are compared as text too: the hash of text cannot be predicted.
    if len(set(map(repr, keys))) != len(keys):
        raise malformed(_DUPLICATE)
    fields: dict[str, Any] = {}
    unknown: list[object] = []
    for key, value in zip(keys, values, strict=True):
        if type(key) is int and key in _NAMES:
            fields[_NAMES[key]] = value
        else:
            unknown.append(value)
    return examine(fields, unknown, _KIND_NAMES)


CBOR: Final = CborCodec()
