"""Cutting client frames out of a chunk, and building server frames (RFC 6455, section 5).

This is the fast lane's half of the WebSocket protocol: whole, unfragmented, masked
frames of at most 65,535 bytes, which is what clients send nearly always. Anything else
(a fragment, a 64-bit length, a reserved bit, an unknown opcode, an unmasked frame, bad
UTF-8, an ill-formed Close) is *foreign*: :func:`cut_frames` stops in front of it and says
so, and a full implementation has to go on from exactly that byte.

Why big integers: unmasking is an XOR of the payload with the four-byte key repeated.
Python has no vector XOR, but its integers are one: both sides become an integer, one
``^`` runs over 30-bit digits in C, and ``to_bytes`` gives the payload. Repeating the key is a
multiplication, by 1 + 2**32 + 2**64 and so on. For 150 bytes all of it takes 0.4 to 0.6 µs where a
loop over the bytes takes 9 µs. For the same reason :func:`cut_frames` is one loop without calls
and returns a plain tuple: it runs for every chunk that is read, and half of its time was calls.
"""

from __future__ import annotations

import codecs
from typing import Final, TypeAlias

__all__ = [
    "BINARY",
    "CLOSE",
    "MAX_FAST_PAYLOAD",
    "PING",
    "PING_FRAME",
    "PONG",
    "TEXT",
    "Cut",
    "close_frame",
    "cut_frames",
    "cut_message",
    "parse_close",
    "server_frame",
]

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

MAX_FAST_PAYLOAD: Final = 65535
_MAX_CONTROL: Final = 125
PING_FRAME: Final = b"\x89\x00"


_from_bytes = int.from_bytes
_SHORT: Final = 256
_REPEAT: Final = tuple(((1 << 32 * ((length + 3) // 4)) - 1) // 0xFFFFFFFF for length in range(_SHORT))
"""By a payload's length: times the key, this is the key repeated over the payload."""

_REPEAT_BEHIND_HEAD: Final = tuple(_REPEAT[max(end - 6, 0)] << 48 for end in range(132))
"""By the length of a whole short frame: the same for a payload that stands behind a head of 6 bytes."""

Cut: TypeAlias = tuple[list[tuple[int, bytes]], int, bool]
"""What :func:`cut_frames` found: (opcode, unmasked payload) of every whole frame in order, the bytes
that they took, and whether the frame behind them is foreign."""


def cut_message(chunk: bytes) -> tuple[int, bytes] | None:
    """Return (opcode, unmasked payload) when ``chunk`` is exactly one short message, else None.

    That is what comes nearly always, and needs no loop. None says nothing about what else it may be:
    :func:`cut_frames` finds out. Never raises.
    """
    end = len(chunk)
    if 6 <= end < 132 and chunk[1] == end + 122:
        key = _from_bytes(chunk[2:6], "little") * _REPEAT_BEHIND_HEAD[end]
        payload = (_from_bytes(chunk, "little") ^ key).to_bytes(end + 3, "little")[6:end]
    elif 134 <= end < 8 + _SHORT and chunk[1] == 254 and (chunk[2] << 8 | chunk[3]) == end - 8:
        key = _from_bytes(chunk[4:8], "little") * _REPEAT[end - 8]
        payload = (_from_bytes(chunk[8:], "little") ^ key).to_bytes(end - 5, "little")[: end - 8]
    else:
        return None
    opcode = chunk[0] - 128
    return (opcode, payload) if opcode == BINARY or (opcode == TEXT and payload.isascii()) else None


def cut_frames(chunk: bytes) -> Cut:
    """Cut every whole fast-lane frame out of ``chunk``; never raises, never loses a byte."""
    end = len(chunk)
    frames: list[tuple[int, bytes]] = []
    start = 0
    while end - start >= 2:
        opcode = chunk[start] - 128
        length = chunk[start + 1] - 128
        # A frame is judged as soon as its head is there: a forbidden one must not be waited for.
        if length < 0 or opcode not in _FAST or (opcode > BINARY and length > _MAX_CONTROL):
            return frames, start, True
        if length < 126:
            body = start + 6
        elif length == 126:
            if end - start < 4:
                break
            length = chunk[start + 2] << 8 | chunk[start + 3]
            if length < 126:  # not the shortest form
                return frames, start, True
            body = start + 8
        else:  # a 64-bit length
            return frames, start, True
        stop = body + length
        whole = stop <= end
        if not whole:
            # Of a frame still coming in, only text is looked at: whether it can become UTF-8 at all.
            if opcode != TEXT or end <= body:
                break
            stop = end
            length = stop - body
        if length < _SHORT:
            key = _from_bytes(chunk[body - 4 : body], "little") * _REPEAT[length]
            payload = (_from_bytes(chunk[body:stop], "little") ^ key).to_bytes(length + 3, "little")[:length]
        else:
            key = _from_bytes((chunk[body - 4 : body] * (length // 4 + 1))[:length], "little")
            payload = (_from_bytes(chunk[body:stop], "little") ^ key).to_bytes(length, "little")
        if opcode == TEXT:
            if not payload.isascii() and not _is_utf8(payload, whole):
                return frames, start, True
            if not whole:
                break
        elif opcode == CLOSE and parse_close(payload) is None:
            return frames, start, True
        frames.append((opcode, payload))
        start = stop
    return frames, start, False


_FAST: Final = frozenset({TEXT, BINARY, CLOSE, PING, PONG})


def _is_utf8(payload: bytes, whole: bool) -> bool:
    try:
        codecs.utf_8_decode(payload, "strict", whole)
    except UnicodeDecodeError:
        return False
    return True


_SHORT_HEADS: Final = tuple(tuple(bytes((128 | op, length)) for length in range(126)) for op in range(16))


def server_frame(opcode: int, payload: bytes) -> bytes:
    """Build one whole server frame. It carries no mask, so the same bytes serve every subscriber."""
    length = len(payload)
    if length < 126:
        return _SHORT_HEADS[opcode][length] + payload
    if length <= MAX_FAST_PAYLOAD:
        return bytes((128 | opcode, 126, length >> 8, length & 255)) + payload
    return bytes((128 | opcode, 127)) + length.to_bytes(8, "big") + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """Build a Close frame; ``reason`` is cut to the 123 bytes that RFC 6455, section 5.5 leaves for it."""
    text = reason.encode()[:123].decode(errors="ignore").encode()
    return server_frame(CLOSE, code.to_bytes(2, "big") + text)


def parse_close(payload: bytes) -> tuple[int, str] | None:
    """Read a Close payload: (code, reason); (1005, "") for an empty one, None for what RFC 6455 forbids."""
    if not payload:
        return 1005, ""
    if len(payload) < 2:
        return None
    code = payload[0] << 8 | payload[1]
    allowed = 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in {1004, 1005, 1006})
    if not allowed:
        return None
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        return None
