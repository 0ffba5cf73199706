"""A short campaign, and whether the campaign sees what it should: its reference, its reader, its checks."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator

import pytest
import trio

from gateway.wire.connection import WireConnection
from gateway.wire.reader import Reader
from tests.framing import BINARY, CLOSE, TEXT
from tests.fuzz import reference
from tests.fuzz.__main__ import campaign
from tests.fuzz.batch import run_batch
from tests.fuzz.plan import BATCH, SETUPS, make_plan
from tests.fuzz.transcript import Violation, read_transcript
from tests.wire.conversations import CASES, LIMIT, OPEN, Case

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
GREETING = b'{"v":1,"t":"connected","data":{}}'


def server_frame(opcode: int, payload: bytes) -> bytes:
    return bytes((128 | opcode, len(payload))) + payload


@pytest.mark.timeout(120)
def test_a_short_campaign() -> None:
    """One batch of each kind of gateway; the long one is ``python -m tests.fuzz``."""
    found = campaign(7, 0, BATCH * len(SETUPS), verbose=False)
    assert found.violations == []
    assert {
        "close 1002",
        "close 1003",
        "close 1007",
        "close 1008",
        "close 1009",
        "HTTP 400",
        "HTTP 401",
    } <= set(found.outcomes)


def test_a_session_is_decided_by_its_seed_and_number() -> None:
    code = "\n".join(
        (
            "import zlib",
            "from tests.fuzz.plan import make_plan",
            "print(*(zlib.crc32(make_plan(3, number).sent) for number in range(99)))",
        )
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    sessions = [make_plan(3, number) for number in range(99)]
    assert sessions == [make_plan(3, number) for number in range(99)]
    assert elsewhere.stdout.split() == [str(zlib.crc32(plan.sent)) for plan in sessions]
    assert len({plan.sent for plan in sessions}) > 95
    assert make_plan(4, 5) != make_plan(3, 5)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_reference_agrees_with_the_table_of_conversations(case: Case) -> None:
    verdict = reference.judge(case.data, LIMIT)
    wrong = case.code if case.code in {1002, 1007, 1009} and not is_good_close(case) else None
    assert verdict.wrong == wrong
    assert verdict.closed == (case.code != OPEN and wrong is None)
    if verdict.closed:
        assert verdict.code == case.code
    assert verdict.oversize or wrong != 1009


def is_good_close(case: Case) -> bool:
    return case.name in {"close 1002", "close 1007", "close 1009"}


def bad_answers() -> Iterator[tuple[str, bytes]]:
    frames = SWITCH + server_frame(TEXT, GREETING)
    yield "not HTTP", b"hello\r\n\r\n"
    yield "a header without a name", b"HTTP/1.1 200 OK\r\n: x\r\n\r\n"
    yield "a body without a length", b"HTTP/1.1 200 OK\r\n\r\nbody"
    yield "an error without a document", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    yield "something before the 101", server_frame(10, b"") + frames
    yield "a frame behind the Close", frames + server_frame(CLOSE, b"\x03\xe8") + server_frame(TEXT, b"{}")
    yield "a masked frame", frames + b"\x81\x80\0\0\0\0"
    yield "binary on JSON", SWITCH + server_frame(BINARY, GREETING)
    yield "an internal error", frames + server_frame(CLOSE, struct.pack(">H", 1011))
    yield "an error without a number", frames + server_frame(TEXT, b'{"v":1,"t":"error","message":"?"}')
    yield "an unknown number", frames + server_frame(TEXT, b'{"v":1,"t":"error","code":99,"message":"?"}')
    yield "a command", frames + server_frame(TEXT, b'{"v":1,"t":"join"}')
    yield "no greeting", SWITCH + server_frame(TEXT, b'{"v":1,"t":"reply","id":1}')


@pytest.mark.parametrize("answer", [pytest.param(data, id=name) for name, data in bad_answers()])
def test_bad_answers_are_seen(answer: bytes) -> None:
    with pytest.raises(Violation):
        read_transcript(answer, heads_only=False)


def test_a_good_answer_is_read() -> None:
    found = read_transcript(
        b"HTTP/1.1 204 No Content\r\n\r\n"
        + SWITCH
        + server_frame(TEXT, GREETING)
        + server_frame(CLOSE, struct.pack(">H", 1002)),
        heads_only=False,
    )
    assert (found.statuses, found.close, found.whole, found.outcome) == ([204, 101], 1002, True, "close 1002")


def test_faults_of_a_gateway_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails on a message, forgets a session's end, or never closes."""

    def fail(self: Reader, payload: bytes, text: bool) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Reader, "deliver", fail)
        assert any("Traceback" in what for _, what in run_batch(7, range(20)).violations)

    async def deaf(self: WireConnection, handler: object) -> None:
        await trio.sleep_forever()

    with monkeypatch.context() as patch:
        patch.setattr(WireConnection, "run", deaf)
        assert any("it hangs" in what for _, what in run_batch(7, range(20)).violations)

    with monkeypatch.context() as patch:
        patch.setattr(WireConnection, "peer_closed", lambda self, code: None)
        assert any("not closed" in what for _, what in run_batch(7, range(60)).violations)
    assert run_batch(7, range(1)).violations == []
