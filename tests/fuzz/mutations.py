"""What can be wrong with what a peer says: with a value, a payload, a frame, a stream of bytes."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from tests.fuzz.corpus import EVENTS, vectors

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

# --- frames ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as a client writes it, or should not."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0
    mask: bytes | None = b"\x37\xfa\x21\x3d"
    """None for a frame without mask."""
    form: int = 0
    """16 or 64 for a length field of that size."""
    claimed: int = -1
    """What the length field says when it lies."""

    def build(self) -> bytes:
        size = len(self.payload) if self.claimed < 0 else self.claimed
        mask_bit = 0 if self.mask is None else 128
        if self.form == 64 or size > 65535:
            length = bytes((mask_bit | 127,)) + struct.pack(">Q", size & 2**64 - 1)
        elif self.form == 16 or size > 125:
            length = bytes((mask_bit | 126,)) + struct.pack(">H", size)
        else:
            length = bytes((mask_bit | size,))
        head = bytes((self.fin << 7 | self.rsv << 4 | self.opcode,)) + length
        return head + self.payload if self.mask is None else head + self.mask + xor(self.payload, self.mask)


def xor(payload: bytes, mask: bytes) -> bytes:
    """RFC 6455, section 5.3."""
    size = len(payload)
    keys = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(size, "big")


def fragmented(rng: Random, frame: Frame) -> list[Frame]:
    """The same message in two to five frames, perhaps with control frames between: still valid."""
    cuts = sorted(rng.randrange(len(frame.payload) + 1) for _ in range(rng.randrange(1, 5)))
    edges = [0, *cuts, len(frame.payload)]
    found: list[Frame] = []
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        opcode = CONTINUATION if number else frame.opcode
        found.append(replace(frame, opcode=opcode, payload=frame.payload[start:stop], fin=False))
        if rng.random() < 0.2:
            found.append(Frame(rng.choice((PING, PONG)), b"between"[: rng.randrange(8)]))
    last = max(index for index, each in enumerate(found) if each.opcode <= BINARY)
    found[last] = replace(found[last], fin=True)
    return found[: last + 1]


def spoil_frames(rng: Random, frames: list[Frame]) -> list[Frame]:
    """One thing wrong with a sequence of frames."""
    frames = frames[:]
    where = rng.randrange(len(frames))
    frame = frames[where]
    size = len(frame.payload)
    match rng.randrange(15):
        case 0:
            frames.insert(rng.randrange(len(frames) + 1), frame)
        case 1:
            del frames[where]
        case 2:
            other = rng.randrange(len(frames))
            frames[where], frames[other] = frames[other], frame
        case 3:
            frames[where : where + 1] = fragmented(rng, frame)
        case 4:
            frames[where] = replace(frame, fin=not frame.fin)
        case 5:
            frames[where] = replace(frame, rsv=rng.randrange(1, 8))
        case 6:
            frames[where] = replace(frame, opcode=rng.randrange(16))
        case 7:
            frames[where] = replace(frame, mask=None)
        case 8:
            frames[where] = replace(frame, form=rng.choice((16, 64)) if size < 65536 else 64)
        case 9:
            lies = (
                0,
                size + 1,
                max(0, size - 1),
                125,
                126,
                127,
                65535,
                65536,
                2**31,
                2**63 - 1,
                2**63,
                2**64 - 1,
            )
            frames[where] = replace(frame, claimed=rng.choice(lies))
        case 10:
            opcode = rng.choice((PING, PONG, CLOSE))
            payload = rng.randbytes(rng.choice((0, 1, 2, 3, 5, 124, 125, 126, 200)))
            frames.insert(where, Frame(opcode, payload))
        case 11:
            code = rng.choice(
                (0, 999, 1000, 1001, 1005, 1006, 1014, 1015, 1016, 2999, 3000, 4000, 4999, 5000)
            )
            reason = rng.choice((b"", b"bye", b"\xff", b"r" * 123, b"r" * 124))
            frames.insert(where, Frame(CLOSE, struct.pack(">H", code) + reason))
        case 12:
            text = rng.choice((b"\xc3", b"\xed\xa0\x80", b"ok \xff", b"\xf4\x90\x80\x80", b"\xc0\xaf"))
            frames.insert(where, Frame(TEXT, text, fin=rng.random() < 0.5))
        case 13:
            tiny = Frame(rng.choice((CONTINUATION, TEXT, BINARY, PING)), b"", fin=rng.random() < 0.5)
            frames[where:where] = [tiny] * rng.choice((2, 20, 300))
        case 14:
            payload = rng.choice((b"x", b"\x00")) * rng.choice((126, 65535, 65536, 70_000))
            frames.insert(where, Frame(rng.choice((TEXT, BINARY)), payload))
    return frames


# --- payloads --------------------------------------------------------------------------------------


def spoil_payload(rng: Random, payload: bytes, codec: str) -> bytes:
    """One thing wrong with a whole message's bytes."""
    match rng.randrange(5):
        case 0:
            return rng.choice(vectors(codec))
        case 1:
            depth = rng.choice((13, 14, 15, 16, 17, 18, 100, 1000, 30_000))
            if codec == "json":
                return b'{"v":1,"t":"ping","id":1,"data":' + b"[" * depth + b"]" * depth + b"}"
            return b"\xa4\x00\x01\x01\x0f\x02\x01\x05" + b"\x81" * depth + b"\x00"
        case 2:
            heads = (b"\xbb", b"\x9b", b"\x5b", b"\x7b", b"\xbf", b"\x9f", b"\xc2", b"\xdb", b"\xff", b"\xf8")
            lie = rng.choice(heads) + struct.pack(">Q", rng.choice((0, 1, 2**16, 2**32, 2**63, 2**64 - 1)))
            where = rng.randrange(len(payload) + 1)
            return payload[:where] + lie + payload[where:]
    return spoil_bytes(rng, payload)


ODD: Final[tuple[Any, ...]] = (
    None, True, False, -1, 1.0, 0.5, 2**63, 2**64, -(2**63) - 1, 10**40, 10**400, float("nan"),
    float("inf"), "", "x", "1", "*", "\x00", "\ud800", "a" * 201, "漢" * 67, [], [[]], {}, {"": 0}, b"bytes",
    [None] * 300, {"since": 1}, {"events": [1]}, {"events": ["*"] * 65}, {"seq": -1, "epoch": ""},
    {f"k{n}": n for n in range(200)},
)  # fmt: skip
_KINDS: Final = ("auth", "connected", "reply", "event", "closing", "nonsense", "PING", 15, 0, 24, -1, 2**40)


def spoil_message(rng: Random, message: dict[str, Any]) -> dict[str, Any]:
    """One thing wrong with what a message says."""
    message = dict(message)
    keys = list(message)
    key = rng.choice(keys)
    match rng.randrange(8):
        case 0:
            del message[key]
        case 1 | 2:
            message[key] = rng.choice(ODD)
        case 3:
            message[rng.choice(("unknown", "", "V", "seq", "epoch", "ts", "code", "critical", "sender"))] = (
                rng.choice(ODD)
            )
        case 4:
            message["t"] = rng.choice(_KINDS)
        case 5:
            message["v"] = rng.choice((0, 2, "1", 1.0, True, None))
        case 6:
            message["event"] = rng.choice((*EVENTS, "a\nb", "e" * 101, "ü" * 51, "*"))
        case 7:
            data = message.get("data")
            if isinstance(data, dict) and data:
                message["data"] = {**data, rng.choice(list(data)): rng.choice(ODD)}
            else:
                message["data"] = rng.choice(ODD)
    return message


# --- bytes -----------------------------------------------------------------------------------------


def spoil_bytes(rng: Random, data: bytes) -> bytes:
    """One thing wrong with a stream of bytes: flips, cuts, copies, insertions, splices."""
    size = len(data)
    start = rng.randrange(size + 1)
    stop = min(size, start + rng.choice((1, 2, 4, 8, 30, 200)))
    other = rng.randrange(size + 1)
    return _BYTE_CHANGES[rng.randrange(len(_BYTE_CHANGES))](rng, data, start, stop, other)


def _flip(rng: Random, data: bytes, start: int, stop: int, other: int) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 3, 10)) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


_INSERTIONS: Final = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\x00", b" ", b"\xff" * 4, b"GET / HTTP/1.1\r\n\r\n", b"\x81\x80\0\0\0\0",
    b"\xc3\x28", b"\x88\x80\0\0\0\0", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"A" * 300,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"Upgrade: h2c\r\n", b"a:b\r\n" * 150,
    b"X: " + b"y" * 17_000 + b"\r\n",
)  # fmt: skip

_BYTE_CHANGES: Final[tuple[Callable[[Random, bytes, int, int, int], bytes], ...]] = (
    _flip,
    _flip,
    lambda rng, data, start, stop, other: data[:start],
    lambda rng, data, start, stop, other: data[:start] + data[stop:],
    lambda rng, data, start, stop, other: data[:stop] + data[start:],
    lambda rng, data, start, stop, other: data[:other] + data[start:stop] + data[other:],
    lambda rng, data, start, stop, other: data[:start] + data[other:],
    lambda rng, data, start, stop, other: data[:start] + rng.randbytes(stop - start) + data[stop:],
    lambda rng, data, start, stop, other: data[:start] + rng.choice(_INSERTIONS) + data[start:],
)
