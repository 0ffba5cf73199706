"""The fast lane's frames: cutting, building, and what is left to the slow lane."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.frames import (
    BINARY,
    CLOSE,
    MAX_FAST_PAYLOAD,
    PING,
    PING_FRAME,
    PONG,
    TEXT,
    close_frame,
    cut_frames,
    cut_message,
    parse_close,
    server_frame,
)
from tests.framing import CLOSE_CODES, FORBIDDEN_CODES, client_frame, close_payload

MASKS = st.binary(min_size=4, max_size=4)
LENGTHS = st.one_of(*[st.integers(0, 130)] * 12, st.sampled_from([255, 256, 257, 4096, 65535]))


@st.composite
def payloads(draw: st.DrawFn, *, text: bool) -> bytes:
    """A payload whose length is often at a boundary, without asking hypothesis for each byte of 64 KiB."""
    length = draw(LENGTHS)
    if text:
        unit = draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)).encode()
        whole = unit * (length // len(unit))
        return whole + b"." * (length - len(whole))
    unit = draw(st.binary(min_size=1, max_size=9))
    return (unit * (length // len(unit) + 1))[:length]


@st.composite
def close_payloads(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        return b""
    reason = draw(st.text(st.characters(codec="utf-8"), max_size=40)).encode()[:123]
    reason = reason.decode(errors="ignore").encode()
    return close_payload(draw(st.sampled_from(CLOSE_CODES)), reason)


@st.composite
def fast_frames(draw: st.DrawFn) -> tuple[int, bytes]:
    opcode = draw(st.sampled_from([TEXT, TEXT, BINARY, BINARY, PING, PONG, CLOSE]))
    if opcode == CLOSE:
        return opcode, draw(close_payloads())
    if opcode in {PING, PONG}:
        return opcode, draw(st.binary(max_size=125))
    return opcode, draw(payloads(text=opcode == TEXT))


# Why each of these is foreign. Every one is followed by a valid frame: nothing behind it may be cut.
FOREIGN: dict[str, bytes] = {
    "first fragment of text": client_frame(TEXT, b"a", fin=False),
    "first fragment of binary": client_frame(BINARY, b"a", fin=False),
    "continuation": client_frame(0, b"a", fin=False),
    "last continuation": client_frame(0, b"a"),
    "fragmented ping": client_frame(PING, b"", fin=False),
    "fragmented close": client_frame(CLOSE, b"", fin=False),
    **{f"reserved bits {bits:03b}": client_frame(BINARY, b"", rsv=bits) for bits in range(1, 8)},
    **{f"opcode {opcode}": client_frame(opcode, b"") for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "unmasked": server_frame(TEXT, b"hello"),
    "unmasked and empty": server_frame(BINARY, b""),
    "64-bit length": client_frame(BINARY, b"a" * 65536),
    "64-bit length, not the shortest form": client_frame(BINARY, b"a" * 200, form=64),
    "64-bit length with the sign bit": b"\x82\xff" + b"\xff" * 8 + b"mask",
    "16-bit length, not the shortest form": client_frame(BINARY, b"a" * 125, form=16),
    "ping of 126": client_frame(PING, b"a" * 126),
    "pong of 126": client_frame(PONG, b"a" * 126),
    "close of 126": client_frame(CLOSE, close_payload(1000, b"a" * 124)),
    "ping with a 64-bit length": client_frame(PING, b"", form=64),
    "text that is not UTF-8": client_frame(TEXT, b"ok\xff"),
    "text with a lone surrogate": client_frame(TEXT, b"\xed\xa0\x80"),
    "text in an overlong form": client_frame(TEXT, b"\xc0\xaf"),
    "text that ends inside a character": client_frame(TEXT, "ä".encode()[:1]),
    "close of one byte": client_frame(CLOSE, b"\x03"),
    "close with a reason that is not UTF-8": client_frame(CLOSE, b"\x03\xe8\xff"),
    **{f"close with {code}": client_frame(CLOSE, close_payload(code)) for code in FORBIDDEN_CODES},
}


@given(name=st.sampled_from(sorted(FOREIGN)), before=st.lists(fast_frames(), max_size=3), mask=MASKS)
@settings(deadline=None, max_examples=100)
def test_a_foreign_frame_stops_the_cut_exactly_in_front(
    name: str, before: list[tuple[int, bytes]], mask: bytes
) -> None:
    foreign = FOREIGN[name]
    stream = b"".join(client_frame(*frame, mask=mask) for frame in before)
    assert cut_frames(stream + foreign + client_frame(PING, b"behind")) == (before, len(stream), True)


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_frame_is_found_in_every_split(foreign: bytes) -> None:
    """With one more byte of it each time, it is either waited for or known, and never changes its mind."""
    known = False
    for size in range(min(len(foreign), 300) + 1):
        frames, consumed, found = cut_frames(foreign[:size])
        assert (frames, consumed) == ([], 0)
        assert found or not known
        known = found
    assert cut_frames(foreign)[2]


FORBIDDEN_BY_HEAD = {
    name: frame
    for name, frame in FOREIGN.items()
    if not name.startswith(("text", "close of one", "close with", "16-bit"))
}


@pytest.mark.parametrize("foreign", FORBIDDEN_BY_HEAD.values(), ids=FORBIDDEN_BY_HEAD)
def test_what_the_first_two_bytes_forbid_is_not_waited_for(foreign: bytes) -> None:
    assert cut_frames(foreign[:2]) == ([], 0, True)


@given(start=st.text(st.characters(codec="utf-8"), max_size=40), mask=MASKS, size=st.integers(0, 3000))
@settings(deadline=None)
def test_text_that_cannot_become_utf8_is_not_waited_for(start: str, mask: bytes, size: int) -> None:
    good = start.encode()
    frame = client_frame(TEXT, good + b"\xf8" + b"." * size, mask=mask)
    head = len(frame) - len(good) - 1 - size
    for stop in range(head + len(good) + 1):
        assert cut_frames(frame[:stop]) == ([], 0, False)
    for stop in range(head + len(good) + 1, len(frame), 97):
        assert cut_frames(frame[:stop]) == ([], 0, True)
    binary = client_frame(BINARY, good + b"\xf8" + b"." * size, mask=mask)
    assert cut_frames(binary[:-1]) == ([], 0, False)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[list[tuple[int, bytes]], list[bytes]]:
    """Frames, and their bytes in arbitrary chunks."""
    frames = draw(st.lists(fast_frames(), max_size=6))
    stream = b"".join(client_frame(*frame, mask=draw(MASKS)) for frame in frames)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(stream)])]
    return frames, chunks


@given(chunked())
@settings(deadline=None)
def test_any_split_of_a_stream_gives_the_same_frames(
    case: tuple[list[tuple[int, bytes]], list[bytes]],
) -> None:
    frames, chunks = case
    found: list[tuple[int, bytes]] = []
    rest = b""
    for chunk in chunks:
        rest += chunk
        cut, consumed, foreign = cut_frames(rest)
        assert not foreign
        found += cut
        rest = rest[consumed:]
    assert rest == b""
    assert found == frames


def test_every_byte_by_itself() -> None:
    frames = [(TEXT, "grün".encode()), (BINARY, b""), (PING, b"p"), (BINARY, bytes(range(256))), (CLOSE, b"")]
    found: list[tuple[int, bytes]] = []
    rest = b""
    for byte in b"".join(client_frame(*frame) for frame in frames):
        rest += bytes([byte])
        cut, consumed, foreign = cut_frames(rest)
        assert not foreign
        found += cut
        rest = rest[consumed:]
    assert (found, rest) == (frames, b"")


@given(payload=payloads(text=False), mask=MASKS)
@example(payload=b"", mask=b"\xff" * 4)
@example(payload=b"\x00" * MAX_FAST_PAYLOAD, mask=b"\x80\x00\x00\x01")
@settings(deadline=None)
def test_unmasking_agrees_with_the_rule_of_the_rfc(payload: bytes, mask: bytes) -> None:
    frame = client_frame(BINARY, payload, mask=mask)
    assert cut_frames(frame) == ([(BINARY, payload)], len(frame), False)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_one_short_message_is_cut_at_once(opcode: int) -> None:
    for length in range(300):
        payload = bytes(33 + n % 90 for n in range(length))
        frame = client_frame(opcode, payload, mask=b"\x80\x01\xfe\x7f")
        assert cut_frames(frame) == ([(opcode, payload)], len(frame), False)
        assert cut_message(frame) == ((opcode, payload) if length < 256 else None)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message with a byte changed, cut off, or followed by another."""
    frame = client_frame(
        draw(st.sampled_from([TEXT, BINARY, PING])), draw(payloads(text=False)), mask=b"abcd"
    )
    place = draw(st.integers(0, min(len(frame) - 1, 9)))
    kind = draw(st.sampled_from(["as it is", "changed", "cut", "longer"]))
    if kind == "changed":
        return frame[:place] + bytes([draw(st.integers(0, 255))]) + frame[place + 1 :]
    return {"as it is": frame, "cut": frame[:-1], "longer": frame + b"\x81"}[kind]


@given(st.one_of(damaged(), st.binary(max_size=300)))
@example(b"\x81\xfe\x00\x05abcd" + bytes(130))
@example(b"\x81\xfe\x00\x7dabcd" + bytes(125))
@example(client_frame(TEXT, "grün".encode()))
@example(client_frame(TEXT, b"\xff" * 130))
@settings(deadline=None)
def test_what_is_cut_at_once_is_what_the_careful_cut_finds(chunk: bytes) -> None:
    message = cut_message(chunk)
    if message is not None:
        assert cut_frames(chunk) == ([message], len(chunk), False)


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_are_cut_without_an_error_and_without_a_loss(chunk: bytes) -> None:
    frames, consumed, foreign = cut_frames(chunk)
    assert 0 <= consumed <= len(chunk)
    again = cut_frames(chunk[:consumed])
    assert again == (frames, consumed, False)
    assert cut_frames(chunk[consumed:]) == ([], 0, foreign)


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, "8200"),
        (1, "8201"),
        (125, "827d"),
        (126, "827e007e"),
        (65535, "827effff"),
        (65536, "827f0000000000010000"),
    ],
)
def test_server_frames_have_the_shortest_head_and_no_mask(length: int, head: str) -> None:
    payload = b"x" * length
    assert server_frame(BINARY, payload) == bytes.fromhex(head) + payload


def test_a_ping_frame() -> None:
    assert server_frame(PING, b"") == PING_FRAME


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_close_codes_that_may_be_sent(code: int) -> None:
    assert parse_close(close_payload(code, "grün".encode())) == (code, "grün")


@pytest.mark.parametrize("code", FORBIDDEN_CODES)
def test_close_codes_that_may_not_be_sent(code: int) -> None:
    assert parse_close(close_payload(code)) is None


@pytest.mark.parametrize(
    ("payload", "meaning"),
    [(b"", (1005, "")), (b"\x03", None), (b"\x03\xe8", (1000, "")), (b"\x03\xe8\xc3", None)],
)
def test_close_payloads(payload: bytes, meaning: tuple[int, str] | None) -> None:
    assert parse_close(payload) == meaning


@given(code=st.sampled_from(CLOSE_CODES), reason=st.text(st.characters(codec="utf-8")))
@example(code=1000, reason="ä" * 62)
@settings(deadline=None)
def test_a_close_frame_fits_and_is_understood(code: int, reason: str) -> None:
    frame = close_frame(code, reason)
    assert frame[0] == 0x88
    assert frame[1] == len(frame) - 2 <= 125
    parsed = parse_close(frame[2:])
    assert parsed is not None
    assert parsed[0] == code
    # As much of the reason as fits in whole characters.
    assert reason.startswith(parsed[1])
    assert parsed[1] == reason or len((parsed[1] + reason[len(parsed[1])]).encode()) > 123
