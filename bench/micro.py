"""Micro-benchmarks: the two codecs and the frame cutter, each by itself, in one thread.

``python -m bench micro``. Every figure is the best of several repetitions, in nanoseconds: what
disturbs a measurement only ever makes it longer. The plain libraries stand beside the codecs,
to show what the checks of the envelope cost.
"""

from __future__ import annotations

import functools
import json as standard_json
import time
import timeit
from collections.abc import Callable
from typing import Any

import cbor2
import msgspec

from bench import build, machine
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.frames import cut_frames, cut_message, server_frame
from protocol.json import JSON

REPETITIONS = 7
BUDGET = 0.1
"""Seconds that one repetition takes, about."""

_DATA = {"number": 123456, "pad": "x" * 80}
PUBLISH = Envelope(t="publish", id=7, room="bench-00000", event="tick", data=_DATA)
EVENT = Envelope(
    t="event", room="bench-00000", event="tick", data=_DATA, seq=123456, epoch="k3f9", ts=1760000000000,
    mid="01J9ZK3V5W", sender="user-7",
)  # fmt: skip


def client_frame(payload: bytes, opcode: int = 1) -> bytes:
    """One masked frame, as a client sends it; at most 65,535 bytes of payload."""
    mask = b"\x5a\x0f\xc3\x96"
    size = len(payload)
    length = bytes((128 | size,)) if size < 126 else bytes((128 | 126, size >> 8, size & 255))
    masked = bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))
    return bytes((128 | opcode,)) + length + mask + masked


def _nanoseconds(function: Callable[[], object], per: int) -> float:
    timer = timeit.Timer(function)
    once = timer.timeit(number=3) / 3
    number = max(1, int(BUDGET / max(once, 1e-9)))
    return 1e9 * min(timer.repeat(REPETITIONS, number)) / number / per


def _codec(codec: Codec, plain_decode: Callable[[bytes], Any], plain: str) -> dict[str, Callable[[], object]]:
    command, event = codec.encode(PUBLISH), codec.encode(EVENT)
    return {
        f"{codec.name} decode publish ({len(command)} bytes)": lambda: codec.decode(command),
        f"{codec.name} encode event ({len(event)} bytes)": lambda: codec.encode(EVENT),
        f"    {plain} of the same publish, unchecked": lambda: plain_decode(command),
    }


def benchmarks() -> dict[str, tuple[Callable[[], object], int]]:
    """Name → what to run, and how many operations that is."""
    found: dict[str, tuple[Callable[[], object], int]] = {}
    for functions in (
        _codec(JSON, msgspec.json.decode, "msgspec.json.decode"),
        _codec(CBOR, cbor2.loads, "cbor2.loads"),
    ):
        found |= {name: (function, 1) for name, function in functions.items()}
    for size in (20, 150, 4000, 60000):
        frame = client_frame(b"x" * size)
        found[f"cut a frame of {size} bytes"] = (functools.partial(cut_frames, frame), 1)
        if size < 256:
            found[f"    {size} bytes, alone in its chunk"] = (functools.partial(cut_message, frame), 1)
    many = client_frame(b"x" * 150) * 64
    found["cut a frame of 150 bytes, 64 in a chunk"] = (lambda: cut_frames(many), 64)
    cut = client_frame(b"x" * 150) * 2
    found["cut a chunk that ends within a frame"] = (lambda: cut_frames(cut[:-10]), 1)
    accents = client_frame(("é" * 75).encode())
    found["cut a frame of 150 bytes that is not ASCII"] = (lambda: cut_frames(accents), 1)
    payload = b"x" * 150
    found["build a server frame of 150 bytes"] = (lambda: server_frame(1, payload), 1)
    return found


def main() -> int:
    """Measure, print a table, write JSON; return 0."""
    machine.check()
    results = {}
    with machine.pinned(machine.SERVER_CORE):
        for name, (function, per) in benchmarks().items():
            results[name] = _nanoseconds(function, per)
            print(f"{results[name]:10,.0f} ns  {name}", flush=True)
    build.RESULTS.mkdir(exist_ok=True)
    path = build.RESULTS / f"micro-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(standard_json.dumps({"machine": machine.describe(), "ns": results}, indent=1) + "\n")
    print(f"\nwritten: {path}")
    return 0
