"""Timers: one task rings them all, at the time each was set for last."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.timers import Timer, Timers

Step = tuple[int, float | None, float]
"""Which timer, in how many seconds it shall ring (None: never), and how long to wait then."""

steps = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.one_of(st.none(), st.integers(0, 20).map(float)),
        st.integers(0, 7).map(float),
    ),
    max_size=60,
)


@given(steps)
def test_each_rings_at_the_time_it_was_set_for_last(steps: list[Step]) -> None:
    rung: list[tuple[float, int]] = []
    due: dict[int, float] = {}
    expected: list[tuple[float, int]] = []

    async def main() -> None:
        timers = Timers()
        all_timers = [Timer(timers) for _ in range(5)]
        start = trio.current_time()

        async def listen(number: int) -> None:
            while True:
                await all_timers[number].wait()
                rung.append((trio.current_time() - start, number))

        def ring(until: float) -> None:
            for number, time in list(due.items()):
                if time <= until:
                    expected.append((due.pop(number), number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(timers.run)
            for number in range(5):
                nursery.start_soon(listen, number)
            await trio.testing.wait_all_tasks_blocked()
            for number, delay, pause in steps:
                now = trio.current_time() - start
                all_timers[number].at(math.inf if delay is None else start + now + delay)
                due.pop(number, None)
                if delay is not None:
                    due[number] = now + delay
                # No two steps share a fraction of a second: nothing is due at the moment of a change.
                await trio.sleep(pause + 1 / 128)
                ring(trio.current_time() - start)
                assert len(timers) == len(due)
            await trio.sleep(30)
            ring(math.inf)
            assert len(timers) == 0
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert sorted(rung) == sorted(expected)


async def test_an_alarm_that_rang_may_be_set_again(autojump_clock: trio.testing.MockClock) -> None:
    timers = Timers()
    timer = Timer(timers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        for _ in range(3):
            before = trio.current_time()
            timer.at(before + 5)
            await timer.wait()
            assert trio.current_time() == pytest.approx(before + 5)
        nursery.cancel_scope.cancel()


async def test_others_may_wake_who_waits_for_an_alarm(autojump_clock: trio.testing.MockClock) -> None:
    timers = Timers()
    timer = Timer(timers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        timer.at(trio.current_time() + 5)
        timer.set()
        with trio.fail_after(60):
            await timer.wait()
        nursery.cancel_scope.cancel()


def test_alarms_moved_again_and_again_take_no_more_room() -> None:
    async def main() -> None:
        timers = Timers()
        moved = [Timer(timers) for _ in range(100)]
        for turn in range(1000):
            for timer in moved:
                timer.at(trio.current_time() + 100 + turn)
        assert len(timers) == 100
        assert len(timers._heap) <= 400

    trio.run(main)


def test_an_alarm_that_goes_to_and_fro_counts_once() -> None:
    timers = Timers()
    timer = Timer(timers)
    for _ in range(200):
        timer.at(5.0)
        timer.at(7.0)
        assert len(timers) == 1
    timer.at(math.inf)
    assert len(timers) == 0
