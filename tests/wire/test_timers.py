"""Timers: one task rings them all, at the time each was set for last."""

from __future__ import annotations

import itertools
import math
import weakref

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.timers import Alarm, Timers


class Bell:
    """Notes when it rings."""

    def __init__(self, timers: Timers) -> None:
        self.timers = timers
        self.alarm: Alarm | None = None
        self.rung: list[float] = []

    def at(self, time: float) -> None:
        self.timers.set(self, time)

    def on_time(self) -> None:
        self.rung.append(trio.current_time())


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
        bells = [Bell(timers) for _ in range(5)]
        start = trio.current_time()

        def ring(until: float) -> None:
            for number, time in list(due.items()):
                if time <= until:
                    expected.append((due.pop(number), number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(timers.run)
            await trio.testing.wait_all_tasks_blocked()
            for number, delay, pause in steps:
                now = trio.current_time() - start
                bells[number].at(math.inf if delay is None else start + now + delay)
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
        for number, bell in enumerate(bells):
            rung.extend((at - start, number) for at in bell.rung)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert sorted(rung) == sorted(expected)


async def test_one_that_rang_may_be_set_again_also_as_it_rings(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Clockwork(Bell):
        def on_time(self) -> None:
            super().on_time()
            if len(self.rung) < 3:
                self.at(trio.current_time() + 5)

    timers = Timers()
    bell = Clockwork(timers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        begun = trio.current_time()
        bell.at(begun + 5)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert bell.rung == pytest.approx([begun + 5, begun + 10, begun + 15])
    assert len(timers) == 0


async def test_many_that_are_due_together_leave_others_their_turn(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a storm of connections their pings come together."""
    timers = Timers()
    bells = [Bell(timers) for _ in range(10)]
    ticks = itertools.count()
    monkeypatch.setattr("gateway.wire.timers.time.perf_counter", lambda: next(ticks) * 0.0006)
    turns = 0

    async def other() -> None:
        nonlocal turns
        await trio.sleep(5)
        while not bells[-1].rung:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(timers.run)
        nursery.start_soon(other)
        for bell in bells:
            bell.at(trio.current_time() + 5)
        await trio.sleep(6)
        nursery.cancel_scope.cancel()
    assert all(len(bell.rung) == 1 for bell in bells)
    assert turns > 3


def test_alarms_moved_again_and_again_take_no_more_room() -> None:
    async def main() -> None:
        timers = Timers()
        moved = [Bell(timers) for _ in range(100)]
        for turn in range(1000):
            for timer in moved:
                timer.at(trio.current_time() + 100 + turn)
        assert len(timers) == 100
        assert len(timers._heap) <= 400

    trio.run(main)


def test_an_alarm_that_goes_to_and_fro_counts_once() -> None:
    timers = Timers()
    timer = Bell(timers)
    for _ in range(200):
        timer.at(5.0)
        timer.at(7.0)
        assert len(timers) == 1
    timer.at(math.inf)
    assert len(timers) == 0


def test_whoever_is_not_called_any_more_is_let_go() -> None:
    timers = Timers()
    bell = Bell(timers)
    bell.at(100.0)
    gone = weakref.ref(bell)
    bell.at(math.inf)
    del bell
    assert gone() is None
