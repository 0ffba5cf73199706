"""What lagging rooms keep, and what they give up."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.broker.base import Event, HistoryPage
from gateway.hub.lag import Backlog, Lag, Lost, Overflow, State, Step


def event(seq: int, size: int = 10, **data: Any) -> Event:
    made = Event(channel="c", event="e", mid=f"m{seq}", ts=0, data=data, size=size)
    made.seq, made.epoch = seq, "k"
    return made


def lagging(policy: Overflow, backlog: Backlog, position: int = 0) -> Lag:
    return Lag(policy, "k", position, key="key", backlog=backlog)


def drain(lag: Lag) -> list[int | Lost]:
    """What a client is told, in order."""
    told: list[int | Lost] = []
    while True:
        lost, head = lag.gap(), lag.head
        told += [lost] if lost else []
        if head is None:
            return told
        told.append(head.seq or 0)
        lag.take()


def test_the_rooms_of_a_connection_share_its_bounds_and_the_fullest_gives() -> None:
    backlog = Backlog(max_messages=10, max_bytes=10_000)
    loud, quiet = lagging("drop_oldest", backlog), lagging("drop_oldest", backlog)
    given_up = [lost for n in range(1, 16) for lost in loud.add(event(n))]
    assert [(lost.seq, policy) for lost, policy in given_up] == [(n, "drop_oldest") for n in range(1, 6)]
    for n in range(1, 4):
        assert [lost.seq for lost, _ in quiet.add(event(n))] == [5 + n]
    assert backlog.messages == 10
    assert drain(quiet) == [1, 2, 3]
    assert drain(loud) == [Lost(1, 8, "slow"), *range(9, 16)]
    assert (backlog.messages, backlog.bytes) == (0, 0)


def test_one_large_event_drives_out_as_many_as_it_takes() -> None:
    backlog = Backlog(max_messages=100, max_bytes=1000)
    lag = lagging("drop_oldest", backlog)
    for n in range(1, 51):
        lag.add(event(n, 20))
    assert [lost.seq for lost, _ in lag.add(event(51, 600))] == list(range(1, 31))
    assert backlog.bytes == 1000
    lag.add(event(52, 5000))
    assert backlog.messages == 1, "one always fits"
    assert drain(lag) == [Lost(1, 51, "slow"), 52]


def test_what_a_room_gave_up_to_the_last_is_told_as_well() -> None:
    backlog = Backlog(max_messages=1, max_bytes=1000)
    first, second = lagging("drop_oldest", backlog), lagging("drop_oldest", backlog)
    first.add(event(1))
    second.add(event(1))
    told = [drain(first), drain(second)]
    assert [1] in told and [Lost(1, 1, "slow")] in told
    assert first.position == second.position == 1


def test_conflation_tells_what_is_missing_where_it_is_missing() -> None:
    lag = lagging("conflate", Backlog(max_messages=100, max_bytes=10_000))
    for n, key in enumerate("abcaabd", 1):
        lag.add(event(n, key=key))
    # Of a 1 and 4 are replaced, of b 2; c, the second b and d are the only ones left of theirs.
    lost = "conflated"
    assert drain(lag) == [Lost(1, 2, lost), 3, Lost(4, 4, lost), 5, 6, 7]


def test_leaving_gives_back_what_was_kept() -> None:
    backlog = Backlog(max_messages=100, max_bytes=10_000)
    lag = lagging("conflate", backlog)
    for n in range(1, 6):
        lag.add(event(n, key=n % 2))
    lag.clear()
    assert (backlog.messages, backlog.bytes, drain(lag)) == (0, 0, [])


def test_the_numbers_of_what_was_dropped_are_bounded() -> None:
    backlog = Backlog(max_messages=10, max_bytes=10_000)
    lag = lagging("conflate", backlog)
    lag.add(event(1, key="rare"))
    for n in range(2, 5000):
        lag.add(event(n, key="often"))
        assert len(lag._dropped) <= 2 * 10 + 65
    assert drain(lag) == [1, Lost(2, 4998, "conflated"), 4999]


def page(*seqs: int, now: int) -> HistoryPage:
    return HistoryPage([event(seq) for seq in seqs], "k", now, more=False, complete=False)


def test_a_critical_event_that_came_is_no_end_of_what_is_lost() -> None:
    lag = lagging("replay", Backlog(max_messages=10, max_bytes=10_000))
    for seq in (1, 2, 5, 8, 9):
        lag.overtake(event(seq))
    assert lag.read(page(10, now=10)) == Lost(3, 7, "history")
    assert (lag.position, lag.overtaken) == (9, set())
    lag.overtake(event(10))
    lag.overtake(event(12))
    assert lag.read(page(11, now=12)) is None
    assert (lag.position, lag.overtaken) == (10, {12})
    assert lag.read(page(now=11)) == Lost(11, 11, "history")


@pytest.mark.parametrize(
    "steps, state",
    [
        ([], State.BEHIND),
        ([Step.READ_UP], State.AHEAD),
        ([Step.READ_UP, Step.LOOK_AGAIN], State.BEHIND),
        ([Step.HOLD, Step.HOLD], State.HELD),
        ([Step.READ_UP, Step.HOLD], State.HELD),
        ([Step.HOLD, Step.RELEASE], State.BEHIND),
        ([Step.READ_UP, Step.GO_ON], State.BEHIND),
    ],
)
def test_only_what_is_behind_is_due(steps: list[Step], state: State) -> None:
    lag = lagging("replay", Backlog(max_messages=10, max_bytes=1000))
    for step in steps:
        lag.step(step)
    assert lag.state is state
    assert lag.due is (state is State.BEHIND)


def test_a_held_place_goes_on_from_where_its_join_says() -> None:
    lag = lagging("replay", Backlog(max_messages=10, max_bytes=1000), position=5)
    lag.step(Step.HOLD)
    lag.go_on_from("new", 2)
    assert (lag.state, lag.epoch, lag.position) == (State.BEHIND, "new", 2)


@pytest.mark.parametrize(
    "before, step",
    [
        ([], Step.RELEASE),
        ([], Step.LOOK_AGAIN),
        ([Step.READ_UP], Step.READ_UP),
        ([Step.READ_UP], Step.RELEASE),
        ([Step.HOLD], Step.READ_UP),
        ([Step.HOLD], Step.LOOK_AGAIN),
    ],
)
def test_what_cannot_happen_in_a_state_is_not_taken_silently(before: list[Step], step: Step) -> None:
    lag = lagging("replay", Backlog(max_messages=10, max_bytes=1000))
    for each in before:
        lag.step(each)
    with pytest.raises(KeyError):
        lag.step(step)
