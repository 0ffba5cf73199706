"""What one session sends, in which pieces and when: decided by the seed and its number alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from random import Random
from typing import Final

from tests.fuzz import corpus
from tests.fuzz.corpus import Head, Place
from tests.fuzz.mutations import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Frame,
    fragmented,
    spoil_bytes,
    spoil_frames,
    spoil_message,
    spoil_payload,
)

__all__ = ["BATCH", "SETUPS", "Plan", "make_plan", "setup_of"]

BATCH: Final = 250
"""Sessions of one gateway, which run at the same time: numbers 0 to 249, 250 to 499, and so on."""

SETUPS: Final = ("usual", "tight", "usual", "in_band", "usual", "tight", "in_band", "usual", "tls", "tight")
"""The gateways of ten batches; each batch has its own."""


def setup_of(number: int) -> str:
    """The setup of the gateway that session ``number`` meets."""
    return SETUPS[number // BATCH % len(SETUPS)]


@dataclass
class Plan:
    """One session."""

    number: int
    setup: str
    kind: str = ""
    """``websocket``, ``rest`` or ``noise``."""
    codec: str = "json"
    transport: str = "memory"
    """``memory``, ``socket``, ``tls``."""
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    """What is sent, each after a pause of so many seconds."""
    end: str = "stay"
    """When all is sent: ``stay`` and listen, end one's side (``eof``), or be gone (``reset``)."""
    deaf_after: int = -1
    """Bytes after which the peer reads nothing any more; -1: it reads everything."""
    deaf_for: float = 0.0
    """Seconds for which it is deaf; 0 is for good."""
    said: bytes = b""
    """Everything behind the request head, when that asks for a WebSocket as it should; else empty."""
    ids: list[int] | None = None
    """The ids that must be answered, once each, when nothing is wrong with the session."""

    @property
    def sent(self) -> bytes:
        """All bytes that it sends."""
        return b"".join(data for _, data in self.pieces)


def make_plan(seed: int, number: int) -> Plan:
    """Session ``number`` of the campaign ``seed``."""
    rng = Random(f"{seed}/{number}")
    plan = Plan(number, setup_of(number))
    place = Place.of(number)
    plan.kind = rng.choices(("websocket", "rest", "noise"), (87, 9, 4))[0]
    if plan.setup == "tls":
        plan.transport = "tls" if rng.random() < 0.8 else "socket"
    else:
        plan.transport = "memory" if rng.random() < 0.65 else "socket"
    if plan.kind == "websocket":
        data, edges = _websocket(rng, plan, place)
    elif plan.kind == "rest":
        data, edges = _rest(rng, place)
    else:
        data, edges = _noise(rng), []
    if plan.setup == "tls" and plan.transport == "socket":
        plan.kind, plan.said, plan.ids = "noise", b"", None  # what TLS should be, is not
    plan.pieces = [(_pause(rng), piece) for piece in _cut(rng, data, edges)]
    _manners(rng, plan)
    return plan


def _manners(rng: Random, plan: Plan) -> None:
    plan.end = rng.choices(("stay", "eof", "reset"), (50, 40, 10))[0]
    if rng.random() < 0.06:
        plan.deaf_after = rng.choice((0, 150, 400, 2000, 20_000))
        plan.deaf_for = rng.choice((0.0, 0.5, 5.0, 25.0))
        plan.ids = None
    if plan.end == "reset":
        plan.ids = None


def _pause(rng: Random) -> float:
    return 0.0 if rng.random() < 0.97 else rng.choice((0.001, 0.5, 3.0, 6.0, 12.0, 20.0, 31.0))


def _cut(rng: Random, data: bytes, edges: list[int]) -> list[bytes]:
    """Pieces of ``data``: one, cut where its parts meet, cut anywhere, or single bytes in some places."""
    if not data:
        return []
    match rng.randrange(8):
        case 0 | 1:
            cuts: list[int] = []
        case 2 | 3:
            cuts = edges
        case 4 | 5:
            cuts = [rng.randrange(len(data)) for _ in range(rng.randrange(1, 7))]
        case 6:
            start = rng.randrange(len(data))
            cuts = list(range(start, min(len(data), start + 30)))
        case _:
            start = rng.choice([0, *edges])
            cuts = [*range(start, min(len(data), start + 20)), rng.randrange(len(data))]
    marks = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [data[start:stop] for start, stop in zip([0, *marks], [*marks, len(data)], strict=True)]


# --- kinds of sessions -----------------------------------------------------------------------------


def _websocket(rng: Random, plan: Plan, place: Place) -> tuple[bytes, list[int]]:
    plan.codec = rng.choice(("json", "cbor"))
    faithful = rng.random() < 0.15
    in_band = plan.setup == "in_band" and rng.random() < 0.8
    jwt_ = corpus.token(place.org, place.user) if faithful else corpus.any_token(rng, place)
    head = corpus.upgrade(rng, place, plan.codec, jwt_=None if in_band else jwt_)
    ids: list[int] = []
    frames = _frames(rng, plan, place, ids, faithful=faithful, auth=jwt_ if in_band else None)
    close = rng.random() < 0.6
    if close or faithful:
        frames.append(Frame(CLOSE, struct.pack(">H", rng.choice((1000, 1001, 3000, 4999)))))
    at_once = 0 if faithful else rng.choices((0, 1, 2), (35, 50, 15))[0]
    for _ in range(at_once):
        if frames and rng.random() < 0.5:
            frames = spoil_frames(rng, frames)
    start = head.build()
    intact = True
    if not faithful and rng.random() < 0.12:
        start, intact = _spoil_head(rng, head), False
    parts = [start, *(frame.build() for frame in frames)]
    edges = [sum(map(len, parts[:number])) for number in range(1, len(parts))]
    said = b"".join(parts[1:])
    if at_once and rng.random() < 0.4:
        said = spoil_bytes(rng, said)
    if intact:
        plan.said = said
    if faithful:
        plan.ids = ids
    return start + said, edges


def _frames(
    rng: Random, plan: Plan, place: Place, ids: list[int], *, faithful: bool, auth: str | None
) -> list[Frame]:
    opcode = BINARY if plan.codec == "cbor" else TEXT
    messages = [] if auth is None else [{"v": 1, "t": "auth", "id": 1, "data": {"token": auth}}]
    for _ in range(rng.choice((0, 1, 2, 3, 4, 6, 10))):
        id = len(messages) + 1 if rng.random() < 0.85 else None
        messages.append(corpus.command(rng, place, id))
    frames: list[Frame] = []
    for message in messages:
        if "id" in message and message["t"] != "call":  # a call is given up when its caller leaves
            ids.append(message["id"])
        if not faithful and rng.random() < 0.15:
            message = spoil_message(rng, message)
        payload = corpus.encode(message, plan.codec)
        if not faithful and rng.random() < 0.08:
            payload = spoil_payload(rng, payload, plan.codec)
        frame = Frame(opcode, payload, mask=rng.choice((b"\x37\xfa\x21\x3d", b"\0\0\0\0", rng.randbytes(4))))
        if rng.random() < 0.1:
            frames += fragmented(rng, frame)
        else:
            frames.append(frame)
        if rng.random() < 0.05:
            frames.append(Frame(PING, b"are you there"))
    return frames


def _spoil_head(rng: Random, head: Head) -> bytes:
    where = rng.randrange(len(head.headers))
    name, value = head.headers[where]
    odd = (
        "",
        "x",
        "14",
        "12",
        "websocket, h2c",
        "close",
        ",",
        "ü",
        "a" * 20_000,
        "\x00",
        "trireme.v9",
        "é==",
    )
    match rng.randrange(8):
        case 0:
            del head.headers[where]
        case 1:
            head.headers[where] = (name, rng.choice(odd))
        case 2:
            head.headers.insert(where, (name, value))
        case 3:
            head.headers[where] = (rng.choice(("X y", "", "Content-Length", "Transfer-Encoding")), value)
        case 4:
            targets = (
                "/ws",
                "/ws?ticket=x",
                "/ws?token=",
                "/ws?&&&",
                "/",
                "*",
                "/ws/",
                "/ws?token=a.b.c",
                "?",
            )
            head.target = rng.choice(targets)
        case _:
            return spoil_bytes(rng, head.build())
    return head.build()


def _rest(rng: Random, place: Place) -> tuple[bytes, list[int]]:
    parts = [corpus.request(rng, place) for _ in range(rng.choice((1, 1, 2, 4)))]
    if rng.random() < 0.15:
        jwt_ = corpus.token(place.org, place.user)
        parts.append(corpus.upgrade(rng, place, "json", jwt_=jwt_).build())
        parts.append(Frame(TEXT, corpus.encode(corpus.command(rng, place, 1), "json")).build())
    if rng.random() < 0.6:
        where = rng.randrange(len(parts))
        parts[where] = spoil_bytes(rng, parts[where])
    edges = [sum(map(len, parts[:number])) for number in range(1, len(parts))]
    return b"".join(parts), edges


_NOISE: Final = (
    b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2, b"\r\n\r\n", b"\n" * 50,
    b"GET /ws", b"GET /ws HTTP/1.1", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04", b"SSH-2.0-x\r\n",
    b"GET /ws HTTP/1.1\r\n" + b"A: b\r\n" * 4000, b"GET " + b"/" * 20_000, b"\x81\x85\x00\x00\x00\x00hello",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/0.9\r\n\r\n",
)  # fmt: skip


def _noise(rng: Random) -> bytes:
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.choice((1, 4, 40, 400, 4000, 40_000)))
        case 1:
            return rng.choice(_NOISE)
        case _:
            return spoil_bytes(rng, rng.choice(_NOISE))
