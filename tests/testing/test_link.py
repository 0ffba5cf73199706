"""A link in memory behaves as a TCP connection does, and breaks as one does."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from gateway.testing.link import Link


async def test_bytes_arrive_in_order_and_then_the_end() -> None:
    link = Link()
    await link.client.send_all(b"one")
    await link.client.send_all(b"two")
    assert await link.node.receive_some(2) == b"on"
    assert await link.node.receive_some() == b"e"
    await link.client.send_eof()
    assert await link.node.receive_some() == b"two"
    assert await link.node.receive_some() == b""
    await link.node.send_all(b"still")
    assert await link.client.receive_some() == b"still"


async def test_who_sends_more_than_fits_waits(clock: MockClock) -> None:
    link = Link(capacity=10)
    with trio.move_on_after(5) as scope:
        await link.node.send_all(b"x" * 25)
    assert scope.cancelled_caught and link.down.waiting == 10
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.node.send_all, b"y" * 25)
        got = b""
        while len(got) < 35:
            got += await link.client.receive_some()
            assert link.down.waiting <= 10
    assert got == b"x" * 10 + b"y" * 25


async def test_a_stalled_pipe_holds_everything_back_also_the_end(clock: MockClock) -> None:
    link = Link()
    link.down.stall()
    await link.node.send_all(b"late")
    await link.node.send_eof()
    with trio.move_on_after(5) as scope:
        await link.client.receive_some()
    assert scope.cancelled_caught
    link.down.resume()
    assert [await link.client.receive_some(), await link.client.receive_some()] == [b"late", b""]


async def test_a_delay_holds_each_piece_for_as_long_as_it_was_sent_with(clock: MockClock) -> None:
    link = Link()
    began = trio.current_time()
    link.up.delay = 2.0
    await link.client.send_all(b"slow")
    link.up.delay = 0.0
    await link.client.send_all(b"fast")
    assert await link.node.receive_some() == b"slow"
    assert trio.current_time() - began == pytest.approx(2.0)
    assert await link.node.receive_some() == b"fast"


async def test_a_cut_wakes_whoever_waits() -> None:
    link = Link(capacity=1)
    await link.node.send_all(b"x")

    async def broken(method: object, *arguments: object) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await method(*arguments)  # type: ignore[operator]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(broken, link.node.receive_some)
        nursery.start_soon(broken, link.node.send_all, b"y")
        await trio.testing.wait_all_tasks_blocked()
        link.cut()
    await broken(link.client.receive_some)
    await broken(link.client.send_all, b"z")


async def test_a_closed_end_is_an_end_for_the_other_and_of_no_use_itself() -> None:
    link = Link()
    await link.client.send_all(b"last")
    await link.client.aclose()
    await link.client.aclose()
    assert [await link.node.receive_some(), await link.node.receive_some()] == [b"last", b""]
    with pytest.raises(trio.BrokenResourceError):
        await link.node.send_all(b"anybody there?")
    for method in (link.client.receive_some(), link.client.send_all(b"x")):
        with pytest.raises(trio.ClosedResourceError):
            await method
