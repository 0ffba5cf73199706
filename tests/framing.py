"""WebSocket frames written and read after RFC 6455, section 5.2, independently of ``protocol.frames``."""

from __future__ import annotations

import struct
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

CLOSE_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
"""Every class of code that a peer may send (section 7.4 and the IANA registry)."""
FORBIDDEN_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]

MASK = b"\x37\xfa\x21\x3d"


def masked(payload: bytes, mask: bytes) -> bytes:
    """Section 5.3: octet i is XORed with octet i modulo 4 of the mask."""
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def client_frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = MASK, form: int = 0
) -> bytes:
    """A masked frame. ``rsv`` is 0 … 7; ``form`` (16 or 64) forces a length field of that size."""
    size = len(payload)
    if form == 64 or size > 65535:
        length = b"\xff" + struct.pack(">Q", size)
    elif form == 16 or size > 125:
        length = b"\xfe" + struct.pack(">H", size)
    else:
        length = bytes([0x80 | size])
    return bytes([fin << 7 | rsv << 4 | opcode]) + length + mask + masked(payload, mask)


def close_payload(code: int, reason: bytes = b"") -> bytes:
    return struct.pack(">H", code) + reason


@dataclass(frozen=True)
class Frame:
    """One frame from the server."""

    opcode: int
    payload: bytes
    fin: bool = True

    @property
    def code(self) -> int | None:
        """Of a Close; None when it has no payload."""
        assert self.opcode == CLOSE, self
        return struct.unpack(">H", self.payload[:2])[0] if self.payload else None

    @property
    def reason(self) -> str:
        """Of a Close."""
        return self.payload[2:].decode()


def take_frame(data: bytes) -> tuple[Frame, bytes] | None:
    """The first server frame of ``data`` and what is behind it; None when it is not whole yet."""
    if len(data) < 2:
        return None
    assert not data[0] & 0x70, f"reserved bits: {data[:2].hex()}"
    assert not data[1] & 0x80, f"a masked frame from the server: {data[:2].hex()}"
    size, start = data[1], 2
    if size > 125:
        start = 4 if size == 126 else 10
        if len(data) < start:
            return None
        size = int.from_bytes(data[2:start], "big")
        assert size > (125 if start == 4 else 65535), "not the shortest form of the length"
    if len(data) < start + size:
        return None
    opcode, fin = data[0] & 15, bool(data[0] & 0x80)
    assert opcode in {CONTINUATION, TEXT, BINARY} or (opcode in {CLOSE, PING, PONG} and fin and size <= 125)
    return Frame(opcode, data[start : start + size], fin), data[start + size :]
