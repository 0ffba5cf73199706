"""What RFC 6455 says of the bytes that a client sent, written as plainly as can be.

No code is shared with the gateway; where the two disagree, one of them is wrong.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from tests.framing import CLOSE_CODES, FORBIDDEN_CODES
from tests.fuzz.mutations import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, xor


@dataclass
class Verdict:
    """How the bytes end."""

    wrong: int | None = None
    """1002, 1007 or 1009: the close code of the first breach; None when there is none."""
    closed: bool = False
    """A good Close came first; nothing behind it counts."""
    code: int | None = None
    """Of that Close; None when it had none."""
    reason: bool = False
    """What is wrong is the text in a Close, for which 1002 will do as well."""
    oversize: bool = False
    """A frame announced more than the limit, whether it came or not."""


def judge(data: bytes, limit: int) -> Verdict:
    """Read what a client sent behind its upgrade request; messages have at most ``limit`` bytes."""
    verdict = Verdict()
    opcode_begun, size_begun = -1, 0
    utf8 = codecs.getincrementaldecoder("utf-8")()
    while len(data) >= 2:
        fin, rsv, opcode = data[0] >> 7, data[0] >> 4 & 7, data[0] & 15
        masked, size = data[1] >> 7, data[1] & 127
        control = opcode >= CLOSE
        if rsv or not masked or opcode not in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}:
            verdict.wrong = 1002
            return verdict
        if control and (not fin or size > 125):
            verdict.wrong = 1002
            return verdict
        start = 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return verdict
            shortest = 126 if size == 126 else 65536
            size = int.from_bytes(data[2:start], "big")
            if size < shortest or size >= 2**63:
                verdict.wrong = 1002
                return verdict
        whole = len(data) >= start + 4 + size
        if not whole and len(data) <= start + 4:
            return verdict  # that a message is continued may be judged at the first byte of it
        if not control and (opcode == CONTINUATION) != (opcode_begun >= 0):
            verdict.wrong = 1002
            return verdict
        payload = xor(data[start + 4 : start + 4 + size], data[start : start + 4])
        if control:
            if not whole:
                return verdict
            if opcode == CLOSE:
                _judge_close(payload, verdict)
                return verdict
        else:
            if opcode != CONTINUATION:
                opcode_begun, size_begun = opcode, 0
                utf8.reset()
            verdict.oversize = size_begun + size > limit
            if opcode_begun == TEXT:
                try:
                    utf8.decode(payload, final=bool(fin) and whole)
                except UnicodeDecodeError:
                    verdict.wrong = 1007
                    return verdict
            size_begun += len(payload)
            # A frame that is small enough may be waited for.
            if size_begun > limit and (whole or start == 10):
                verdict.wrong = 1009
                return verdict
            if not whole:
                return verdict
            if fin:
                opcode_begun = -1
        data = data[start + 4 + size :]
    return verdict


def _judge_close(payload: bytes, verdict: Verdict) -> None:
    if not payload:
        verdict.closed = True
        return
    code = int.from_bytes(payload[:2], "big")
    allowed = code in CLOSE_CODES or (3000 <= code <= 4999 and code not in FORBIDDEN_CODES)
    if len(payload) == 1 or not allowed:
        verdict.wrong = 1002
        return
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        verdict.wrong, verdict.reason = 1007, True
        return
    verdict.closed, verdict.code = True, code
