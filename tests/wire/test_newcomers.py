"""The line of those who are being taken in: what it costs others, and who is left standing."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.wire import newcomers
from gateway.wire.newcomers import Newcomers


class Times(trio.abc.Instrument):
    """A clock that only work moves, and how much of it each pass of the loop took."""

    def __init__(self) -> None:
        self.now = 0.0
        self._since = 0.0
        self.passes: list[float] = []

    def before_io_wait(self, timeout: float) -> None:
        self.passes.append(self.now - self._since)
        self._since = self.now


@pytest.fixture
async def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    found = Times()
    monkeypatch.setattr(newcomers, "perf_counter", lambda: found.now)
    return found


async def test_a_pass_of_the_loop_has_no_more_of_them_than_fits(times: Times) -> None:
    """Small things share a pass, and all come in the order in which they asked."""
    line, done = Newcomers(), list[int]()

    def work(number: int) -> int:
        times.now += 0.0001
        done.append(number)
        return number

    async def come(number: int) -> None:
        assert await line.turn(lambda: work(number)) == number

    trio.lowlevel.add_instrument(times)
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(come, number)
    trio.lowlevel.remove_instrument(times)
    assert sorted(done) == list(range(100))
    assert max(times.passes) < 0.00055
    assert sum(found > 0.00035 for found in times.passes) >= 20, "each had a pass of its own"


async def test_an_upgrade_counts_though_nobody_can_measure_it(times: Times) -> None:
    line, upgrades = Newcomers(), 0

    async def come() -> None:
        nonlocal upgrades
        await line.upgrade()
        upgrades += 1

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(come)
        before = 0
        while upgrades < 50:
            await trio.lowlevel.checkpoint()
            assert upgrades - before <= 4
            before = upgrades


@pytest.mark.parametrize("leaving", [0, 1, 2, 3, 7])
async def test_who_leaves_holds_up_nobody(leaving: int, times: Times) -> None:
    """Whether it leads, stands in line, or has had its turn."""
    line, done = Newcomers(), list[int]()
    scopes = [trio.CancelScope() for _ in range(10)]

    def work(number: int) -> None:
        times.now += 0.001
        done.append(number)

    async def come(number: int) -> None:
        with scopes[number]:
            await line.turn(lambda: work(number))

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(come, number)
        await trio.lowlevel.checkpoint()
        scopes[leaving].cancel()
    assert {*done} | {leaving} == {*range(10)} and len(done) == len({*done})
    assert await line.turn(lambda: "next") == "next"


async def test_what_fails_fails_for_its_own(times: Times) -> None:
    line, failed = Newcomers(), 0

    def fail() -> None:
        times.now += 0.0003
        raise ConnectionResetError

    async def come() -> None:
        nonlocal failed
        try:
            await line.turn(fail)
        except ConnectionResetError:
            failed += 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(come)
    assert failed == 20
