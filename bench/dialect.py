r"""How a subject is spoken to: texts and markers of the load generator's plan (bench/load/plan.h).

Texts may hold ``%n`` (number of the message), ``%r`` (room), ``%c`` (connection) and ``%t`` (token).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import cbor2

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the sample of RFC 6455, section 1.3; the load generator knows its answer
EVENT_BYTES = 150
"""Size of a published event as text, with a number of six digits."""


@dataclass(frozen=True)
class Dialect:
    """One way to speak to one subject. Every text and marker is bytes, ready for the wire."""

    path: str = "/ws"
    binary: bool = False
    headers: tuple[str, ...] = ()
    opening: tuple[tuple[Literal["send", "expect"], bytes], ...] = ()
    join: bytes = b""
    joined: bytes = b""
    publish: bytes = b""
    event: bytes = b""
    answer: bytes = b""
    lost: bytes = b""
    refusals: tuple[bytes, ...] = ()
    ping: bytes = b""
    pong: bytes = b""

    def section(self, role: Literal["receiver", "publisher"]) -> str:
        """The plan's section for clients of this role."""
        head = "".join(
            line + "\r\n"
            for line in (
                f"GET {self.path} HTTP/1.1", "Host: 127.0.0.1", "Connection: Upgrade", "Upgrade: websocket",
                "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {_KEY}", *self.headers, "",
            )
        )  # fmt: skip
        lines = [("opcode", b"binary" if self.binary else b"text"), ("head", head.encode()), *self.opening]
        if role == "receiver":
            lines += [
                ("join", self.join),
                ("joined", self.joined),
                ("event", self.event),
                ("lost", self.lost),
            ]
        else:
            lines += [("publish", self.publish), ("answer", self.answer)]
        lines += [("refusal", text) for text in self.refusals]
        lines += [("ping", self.ping), ("pong", self.pong)]
        return "\n".join([f"[{role}]", *(f"{key} {_escaped(text)}" for key, text in lines if text)])

    def with_pad(self, size: int) -> Dialect:
        """The same with ``size`` bytes of padding in each event instead of the usual."""
        return replace(self, publish=self.publish.replace(PAD.encode(), b"x" * size))


def _escaped(text: bytes) -> str:
    return "".join(chr(b) if 0x20 <= b < 0x7F and b != 0x5C else f"\\x{b:02x}" for b in text)


PAD = "x" * (EVENT_BYTES - len('{"room":"bench-00000","event":"tick","data":{"number":123456,"pad":""}}'))
JSON_DATA = f'{{"number":%n,"pad":"{PAD}"}}'
JSON_EVENT = f'{{"room":"bench-%r","event":"tick","data":{JSON_DATA}}}'
JSON_MARK = b'"number":'
CBOR_MARK = cbor2.dumps("number")


def cbor_map(*items: tuple[int, bytes]) -> bytes:
    """A CBOR map with small integer keys and values that are encoded already (or are ``%n``)."""
    return bytes([0xA0 + len(items)]) + b"".join(bytes([key]) + value for key, value in items)


def cbor_text(text: str) -> bytes:
    """A CBOR text in which ``%r`` and ``%c`` stand for five characters each."""
    header = cbor2.dumps(text.replace("%r", "00000").replace("%c", "00000"))
    length = len(text.replace("%r", "00000").replace("%c", "00000").encode())
    return header[: len(header) - length].replace(b"%", b"%%") + text.encode()


CBOR_DATA = b"\xa2" + CBOR_MARK + b"%n" + cbor_text("pad") + cbor_text(PAD)
