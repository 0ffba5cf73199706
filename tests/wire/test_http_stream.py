"""The stream under an HTTP connection."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.wire.http_stream import ReplayStream


async def test_what_two_tasks_send_goes_out_one_after_the_other() -> None:
    """The application may still send an answer when the parser has a refusal to send."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    stream = ReplayStream(ours, b"", send_timeout=60)
    got = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"answer")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(stream.send_all, b"refusal")
        await trio.testing.wait_all_tasks_blocked()
        while len(got) < len(b"answerrefusal"):
            got += await theirs.receive_some(100)
    assert got == b"answerrefusal"


async def test_the_end_is_not_said_while_something_is_being_sent() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    stream = ReplayStream(ours, b"", send_timeout=60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"answer")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.send_eof()
        assert await theirs.receive_some(100) == b"answer"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_eof)
        assert await theirs.receive_some(100) == b""
