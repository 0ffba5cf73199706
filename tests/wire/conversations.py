"""What a client may say, and what RFC 6455 wants to hear in return from a server that echoes messages."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.framing import (
    BINARY,
    CLOSE,
    CLOSE_CODES,
    CONTINUATION,
    FORBIDDEN_CODES,
    PING,
    PONG,
    TEXT,
    client_frame,
    close_payload,
)
from tests.wire.support import fragments

OPEN: Final = -2
"""The connection goes on."""
LIMIT: Final = 100_000
"""Bytes in a message that the server accepts."""


@dataclass(frozen=True)
class Case:
    """What is sent, and what comes back: echoes, pongs, and the code of the Close (None: an empty one)."""

    name: str
    data: bytes = field(repr=False)
    messages: list[tuple[int, bytes]] = field(default_factory=list, repr=False)
    pongs: list[bytes] = field(default_factory=list, repr=False)
    code: int | None = OPEN


def framing() -> Iterator[Case]:
    """Section 5.2: the three forms of a length, each the shortest; the mask; reserved bits; opcodes."""
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 99_999):
        for opcode in (TEXT, BINARY):
            payload = (b"*" if opcode == TEXT else b"\xfe\x00") * size
            payload = payload[:size]
            yield Case(f"{size} bytes of {opcode}", client_frame(opcode, payload), [(opcode, payload)])
    for mask in (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x01\x02\x03"):
        yield Case(f"mask {mask.hex()}", client_frame(TEXT, b"masked", mask=mask), [(TEXT, b"masked")])
    yield Case("unmasked text", b"\x81\x05hello", code=1002)
    yield Case("unmasked ping", b"\x89\x00", code=1002)
    yield Case("unmasked close", b"\x88\x00", code=1002)
    yield Case("16-bit length for 125", client_frame(BINARY, b"x" * 125, form=16), code=1002)
    yield Case("16-bit length for 0", client_frame(TEXT, b"", form=16), code=1002)
    yield Case("64-bit length for 126", client_frame(BINARY, b"x" * 126, form=64), code=1002)
    yield Case("64-bit length with its sign bit", b"\x82\xff" + b"\xff" * 8 + b"mask", code=1002)
    for bits in range(1, 8):
        yield Case(f"reserved bits {bits:03b}", client_frame(TEXT, b"x", rsv=bits), code=1002)
    for opcode in (PING, CLOSE):
        yield Case(f"reserved bit on {opcode}", client_frame(opcode, b"", rsv=4), code=1002)
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield Case(f"opcode {opcode}", client_frame(opcode), code=1002)
        yield Case(f"opcode {opcode} with data", client_frame(opcode, b"data"), code=1002)


def control() -> Iterator[Case]:
    """Section 5.5: pings are answered in order with their payload, pongs never; both are small and whole."""
    for payload in (b"", b"hello", b"\x00\xff\xfe\xfd", b"x" * 125):
        yield Case(f"ping of {len(payload)}", client_frame(PING, payload), pongs=[payload])
    ten = [b"ping %d" % number for number in range(10)]
    yield Case("ten pings", b"".join(client_frame(PING, ping) for ping in ten), pongs=ten)
    yield Case("pong nobody asked for", client_frame(PONG, b"well?"))
    yield Case("empty pong and ping", client_frame(PONG) + client_frame(PING, b"p"), pongs=[b"p"])
    for opcode in (PING, PONG):
        yield Case(f"{opcode} of 126", client_frame(opcode, b"x" * 126), code=1002)
        yield Case(f"{opcode} with a 64-bit length", client_frame(opcode, b"", form=64), code=1002)
        yield Case(f"fragmented {opcode}", fragments(opcode, b"a", b"b"), code=1002)
        yield Case(f"fragment of {opcode}", client_frame(opcode, fin=False), code=1002)


def fragmentation() -> Iterator[Case]:
    """Section 5.4: one message in many frames; control frames may stand between them, other data may not."""
    ping = client_frame(PING, b"between")
    large = [b"x" * 40_000, b"y" * 50_000]
    yield Case("two fragments of text", fragments(TEXT, b"frag", b"ment"), [(TEXT, b"fragment")])
    yield Case(
        "binary fragments",
        fragments(BINARY, b"\xff", b"", b"\xfe" * 300),
        [(BINARY, b"\xff" + b"\xfe" * 300)],
    )
    yield Case("empty fragments", fragments(TEXT, b"", b"", b""), [(TEXT, b"")])
    yield Case("empty around one", fragments(TEXT, b"", b"middle", b""), [(TEXT, b"middle")])
    yield Case(
        "fragments of one byte",
        fragments(TEXT, *(b"%d" % (n % 10) for n in range(50))),
        [(TEXT, b"0123456789" * 5)],
    )
    first, second = client_frame(TEXT, b"a", fin=False), client_frame(CONTINUATION, b"b")
    yield Case("ping between", first + ping + second, [(TEXT, b"ab")], [b"between"])
    middle = client_frame(CONTINUATION, b"-", fin=False)
    yield Case(
        "pings between all", first + ping + middle + ping + ping + second, [(TEXT, b"a-b")], [b"between"] * 3
    )
    yield Case("pong between", first + client_frame(PONG) + second, [(TEXT, b"ab")])
    yield Case("two messages of fragments", fragments(TEXT, b"a", b"b") * 2, [(TEXT, b"ab")] * 2)
    yield Case(
        "whole messages after fragments",
        fragments(BINARY, b"a", b"b") + client_frame(TEXT, b"c") + client_frame(BINARY, b"d"),
        [(BINARY, b"ab"), (TEXT, b"c"), (BINARY, b"d")],
    )
    yield Case(
        "large fragments",
        fragments(BINARY, *large),
        [(BINARY, b"".join(large))],
    )
    yield Case("nothing to continue", client_frame(CONTINUATION, b"x"), code=1002)
    yield Case("nothing to continue yet", client_frame(CONTINUATION, b"x", fin=False), code=1002)
    yield Case(
        "continued after its end",
        fragments(TEXT, b"a", b"b") + client_frame(CONTINUATION),
        [(TEXT, b"ab")],
        code=1002,
    )
    yield Case("text inside a message", first + client_frame(TEXT, b"x"), code=1002)
    yield Case("binary inside a message", first + client_frame(BINARY, b"x"), code=1002)
    yield Case("two beginnings", first + first, code=1002)
    yield Case("close inside a message", first + client_frame(CLOSE, close_payload(1000)), code=1000)
    yield Case(
        "bad ping inside a message",
        first + ping + client_frame(PING, fin=False),
        pongs=[b"between"],
        code=1002,
    )


TEXTS = [
    "κόσμε", "\x00", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd", "\ufffe", "\uffff",
    "\U00010000", "\U0010ffff", "\U0001fffe", "aé漢🚣" * 30, "e\u0301",
]  # fmt: skip
NOT_UTF8 = [
    *("80", "bf", "8080"),  # continuations without a beginning
    *("c0af", "c1bf", "e08080", "e09fbf", "f0808080", "f08fbfbf"),  # longer than needed
    *("eda080", "edbfbf", "eda081edb080"),  # surrogates
    *("f4908080", "f5808080", "f888808080", "fc8480808080", "fe", "ff"),  # beyond U+10FFFF
    *("c3", "e282", "f09f98", "c328", "e28228", "f09f9828"),  # cut off
]


def utf8() -> Iterator[Case]:
    """Section 8.1: text is valid UTF-8 as a whole message, wherever it is cut into frames."""
    for text in TEXTS:
        payload = text.encode()
        label = payload[:6].hex()
        yield Case(f"text {label}", client_frame(TEXT, payload), [(TEXT, payload)])
        bytes_ = [payload[index : index + 1] for index in range(len(payload))]
        yield Case(f"text {label} in bytes", fragments(TEXT, *bytes_), [(TEXT, payload)])
    half = (
        client_frame(TEXT, b"\xe2\x82", fin=False) + client_frame(PING) + client_frame(CONTINUATION, b"\xac")
    )
    yield Case("ping inside a character", half, [(TEXT, "€".encode())], [b""])
    for digits in NOT_UTF8:
        bad = bytes.fromhex(digits)
        yield Case(f"bad {digits}", client_frame(TEXT, b"ok " + bad), code=1007)
        yield Case(f"bad {digits} and more", client_frame(TEXT, b"ok " + bad + b" ok"), code=1007)
        yield Case(f"bad {digits} over fragments", fragments(TEXT, b"ok", bad[:1], bad[1:], b""), code=1007)
        yield Case(f"binary {digits}", client_frame(BINARY, bad), [(BINARY, bad)])
    yield Case("bad in a message without an end", client_frame(TEXT, b"\xff", fin=False), code=1007)
    yield Case("bad in a large message", client_frame(TEXT, b"x" * 70_000 + b"\xff"), code=1007)


def closing() -> Iterator[Case]:
    """Sections 5.5.1 and 7.4: a Close is answered with its code; nothing is said or heard after it."""
    yield Case("empty close", client_frame(CLOSE), code=None)
    for code in CLOSE_CODES:
        yield Case(f"close {code}", client_frame(CLOSE, close_payload(code)), code=code)
    yield Case("close with a reason", client_frame(CLOSE, close_payload(1001, "fährt".encode())), code=1001)
    yield Case("close with a long reason", client_frame(CLOSE, close_payload(1000, b"r" * 123)), code=1000)
    for code in FORBIDDEN_CODES:
        yield Case(f"close {code}", client_frame(CLOSE, close_payload(code)), code=1002)
        yield Case(f"close {code} with a reason", client_frame(CLOSE, close_payload(code, b"why")), code=1002)
    yield Case("close of one byte", client_frame(CLOSE, b"\x03"), code=1002)
    yield Case("close of 126", client_frame(CLOSE, close_payload(1000, b"r" * 124)), code=1002)
    yield Case("fragmented close", fragments(CLOSE, close_payload(1000), b""), code=1002)
    yield Case(
        "reason that is not UTF-8", client_frame(CLOSE, close_payload(1000, b"\xce\xba\xff")), code=1007
    )
    close = client_frame(CLOSE, close_payload(1000))
    yield Case("text after close", close + client_frame(TEXT, b"late"), code=1000)
    yield Case("ping after close", close + client_frame(PING, b"late"), code=1000)
    yield Case("close after close", close + client_frame(CLOSE, close_payload(1001)), code=1000)
    yield Case("garbage after close", close + b"\xff" * 50, code=1000)
    yield Case("much after close", close + client_frame(BINARY, b"x" * 65535), code=1000)
    yield Case("fragments, then close", fragments(TEXT, b"a", b"b") + close, [(TEXT, b"ab")], code=1000)
    yield Case(
        "close in the slow lane", fragments(TEXT, b"", b"") + client_frame(CLOSE), [(TEXT, b"")], code=None
    )
    yield Case(
        "data after close in the slow lane", fragments(TEXT, b"", b"") + close + client_frame(TEXT, b"late"),
        [(TEXT, b"")], code=1000,
    )  # fmt: skip


def limits() -> Iterator[Case]:
    """Section 7.4.1: a message that is too big is answered with 1009, in whatever form it comes."""
    most, parts = b"x" * LIMIT, [b"x" * 25_000] * 4
    yield Case("the largest message", client_frame(BINARY, most), [(BINARY, most)])
    yield Case("the largest message in fragments", fragments(BINARY, *parts), [(BINARY, most)])
    yield Case("one byte more", client_frame(BINARY, most + b"x"), code=1009)
    yield Case("one byte more in fragments", fragments(TEXT, *parts, b"x"), code=1009)
    yield Case("too large in bytes, not in characters", client_frame(TEXT, "ü".encode() * 50_001), code=1009)
    yield Case("too large and without an end", fragments(BINARY, *parts, *parts)[:-9], code=1009)
    yield Case(
        "announced without bound", b"\x82\xff" + struct.pack(">Q", 2**62) + b"mask" + most + b"x", code=1009
    )


CASES: Final = [*framing(), *control(), *fragmentation(), *utf8(), *closing(), *limits()]
assert len({case.name for case in CASES}) == len(CASES)
