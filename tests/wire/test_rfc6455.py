"""RFC 6455 over real sockets: the echo answers every conversation as the table says, however it is cut up."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.framing import BINARY, CLOSE, CONTINUATION, PING, TEXT, Frame, client_frame, close_payload
from tests.wire.conversations import CASES, OPEN, Case
from tests.wire.support import Heard, WireServer, peer_of

BEFORE = client_frame(TEXT, b"one") + client_frame(PING, b"p") + client_frame(BINARY, b"two")
AFTER = client_frame(TEXT, b"three") + client_frame(CLOSE, close_payload(1000))

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def check(case: Case, heard: Heard, *, before: bool) -> None:
    """The answers are those of the case, and before and behind them those of the frames around it."""
    messages, pongs = list(case.messages), list(case.pongs)
    if before:
        messages[:0] = [(TEXT, b"one"), (BINARY, b"two")]
        pongs[:0] = [b"p"]
    if case.code == OPEN:
        messages.append((TEXT, b"three"))
    assert heard.messages == messages
    assert heard.pongs == pongs
    assert heard.code == (1000 if case.code == OPEN else case.code)


@cases
async def test_at_the_first_frame(case: Case, echo: WireServer) -> None:
    async with peer_of(echo.port) as peer:
        await peer.send(case.data, AFTER)
        check(case, await peer.hear(), before=False)


@cases
async def test_behind_the_upgrade_and_other_frames_in_one_piece(case: Case, echo: WireServer) -> None:
    async with peer_of(echo.port, behind=BEFORE + case.data + AFTER) as peer:
        check(case, await peer.hear(), before=True)


@pytest.mark.parametrize("case", [case for case in CASES if len(case.data) < 700], ids=lambda case: case.name)
async def test_byte_by_byte(case: Case, echo: WireServer) -> None:
    async with peer_of(echo.port) as peer:
        await peer.send_apart(BEFORE + case.data)
        await peer.send(AFTER)
        check(case, await peer.hear(), before=True)


LONG_TEXT = b"ok " * 20


@pytest.mark.parametrize("size", [100, 1000, 70_000])
@pytest.mark.parametrize("fragment", [False, True], ids=["whole", "fragment"])
async def test_text_that_cannot_become_utf8_is_refused_before_its_frame_ends(
    size: int, fragment: bool, echo: WireServer
) -> None:
    """Section 8.1, as early as it can be known: the rest of the frame never comes."""
    for bad in ("ff", "c0af", "eda080", "e228", "f4908080", "fe", "80"):
        async with peer_of(echo.port) as peer:
            if fragment:
                await peer.send(client_frame(TEXT, b"first", fin=False))
            begun = LONG_TEXT + bytes.fromhex(bad)
            frame = client_frame(CONTINUATION if fragment else TEXT, begun + b" " * (size - len(begun)))
            await peer.send(frame[: len(frame) - (size - len(begun))])
            assert (await peer.hear()).code == 1007


@pytest.mark.parametrize("size", [100, 1000, 70_000])
async def test_a_character_that_is_not_whole_yet_is_waited_for(size: int, echo: WireServer) -> None:
    text = LONG_TEXT + "€🚣".encode() + b" " * (size - len(LONG_TEXT) - 7)
    frame = client_frame(TEXT, text)
    start = len(frame) - len(text) + len(LONG_TEXT)
    async with peer_of(echo.port) as peer:
        for cut in range(start + 1, start + 7):
            await peer.send(frame[:cut])
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(frame[cut:])
            assert await peer.frame() == Frame(TEXT, text)
