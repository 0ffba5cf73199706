"""Patterns against a naive oracle, and the laws of filters."""

from __future__ import annotations

import gc
import time
from typing import SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, ProtocolError
from protocol.patterns import EventFilter, PatternSet, check_patterns, compile_pattern, normalize_pattern

# Few letters, so that things meet.
names = st.text("ab:", max_size=8)
patterns = st.text("ab*", max_size=6) | st.just("all")
commands = st.lists(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe"]), st.lists(patterns, max_size=3)), max_size=5
)


def naive(pattern: str, name: str) -> bool:
    """Match by trying everything, straight from the definition."""
    if pattern == "all":
        return True
    if not pattern:
        return not name
    if pattern[0] == "*":
        return naive(pattern[1:], name) or (bool(name) and naive(pattern, name[1:]))
    return bool(name) and name[0] == pattern[0] and naive(pattern[1:], name[1:])


def run(steps: list[tuple[str, list[str]]]) -> EventFilter:
    filter = EventFilter.ALL
    for command, given_patterns in steps:
        filter = getattr(filter, command)(given_patterns)
    return filter


@given(patterns, names)
def test_a_pattern_matches_as_defined(pattern: str, name: str) -> None:
    assert compile_pattern(pattern)(name) is naive(pattern, name)


@given(patterns, names)
def test_normalizing_changes_nothing(pattern: str, name: str) -> None:
    assert naive(normalize_pattern(pattern), name) is naive(pattern, name)
    assert "**" not in normalize_pattern(pattern)


def covers(broad: str, narrow: str) -> bool:
    return PatternSet([broad]).cover(narrow)


def overlap(one: str, other: str) -> bool:
    return PatternSet([one]).overlap(other)


@given(st.lists(patterns.map(normalize_pattern), max_size=5), patterns.map(normalize_pattern), names)
def test_a_set_answers_as_its_patterns_do(several: list[str], other: str, name: str) -> None:
    asked = PatternSet(several)
    assert asked.match(name) is any(naive(pattern, name) for pattern in several)
    assert asked.overlap(other) is any(overlap(pattern, other) for pattern in several)
    assert asked.cover(other) is any(covers(pattern, other) for pattern in several)
    apart = [pattern for pattern in several if pattern != other]
    assert asked.cover(other, apart_from_itself=True) is PatternSet(apart).cover(other)


@given(patterns, patterns, names)
def test_covering_and_overlap_hold_for_every_name(one: str, other: str, name: str) -> None:
    one, other = normalize_pattern(one), normalize_pattern(other)
    if covers(one, other) and naive(other, name):
        assert naive(one, name)
    if naive(one, name) and naive(other, name):
        assert overlap(one, other)
        assert overlap(other, one)


@given(patterns, patterns)
def test_overlap_has_a_witness(one: str, other: str) -> None:
    one, other = normalize_pattern(one), normalize_pattern(other)
    # The pieces of both, one after the other, between the longer beginning and the longer end.
    heads = sorted((one.partition("*")[0], other.partition("*")[0]), key=len)
    tails = sorted((one.rpartition("*")[2], other.rpartition("*")[2]), key=len)
    middles = "".join("".join(pattern.split("*")[1:-1]) for pattern in (one, other))
    candidates = {one, other, heads[1] + middles + tails[1]}
    witness = any(naive(one, name) and naive(other, name) for name in candidates if "*" not in name)
    assert overlap(one, other) is witness


def test_matching_a_long_name_takes_linear_time() -> None:
    test = compile_pattern("a*" * 30 + "b")
    started = time.process_time()
    assert not test("a" * 100_000)
    assert time.process_time() - started < 1, "backtracking would never end"


def test_a_new_connection_lets_everything_through() -> None:
    assert EventFilter.ALL.allows("anything")
    assert (EventFilter.ALL.events, EventFilter.ALL.excepted) == (("*",), ())


@given(commands, st.lists(patterns, max_size=3), names)
def test_after_subscribe_its_patterns_pass(
    steps: list[tuple[str, list[str]]], wanted: list[str], name: str
) -> None:
    if any(naive(pattern, name) for pattern in wanted):
        assert run(steps).subscribe(wanted).allows(name)


@given(commands, st.lists(patterns, max_size=3), names)
def test_after_unsubscribe_its_patterns_are_held(
    steps: list[tuple[str, list[str]]], unwanted: list[str], name: str
) -> None:
    if any(naive(pattern, name) for pattern in unwanted):
        assert not run(steps).unsubscribe(unwanted).allows(name)


@given(commands, st.lists(patterns, max_size=3), names)
def test_unsubscribe_changes_nothing_else(
    steps: list[tuple[str, list[str]]], unwanted: list[str], name: str
) -> None:
    filter = run(steps)
    narrowed = filter.unsubscribe(unwanted)
    if not any(naive(pattern, name) for pattern in unwanted):
        assert narrowed.allows(name) is filter.allows(name)


@given(commands, st.lists(patterns, max_size=3), names)
def test_later_subscribes_only_add(steps: list[tuple[str, list[str]]], wanted: list[str], name: str) -> None:
    filter = run([*steps, ("subscribe", [])])
    if filter.allows(name):
        assert filter.subscribe(wanted).allows(name)


@given(commands)
def test_asking_twice_is_asking_once(steps: list[tuple[str, list[str]]]) -> None:
    for command, given_patterns in steps:
        once = getattr(run(steps), command)(given_patterns)
        assert getattr(once, command)(given_patterns) is once


@given(commands, names)
def test_the_lists_say_what_the_filter_does(steps: list[tuple[str, list[str]]], name: str) -> None:
    filter = run(steps)
    listed = any(naive(pattern, name) for pattern in filter.events) and not any(
        naive(pattern, name) for pattern in filter.excepted
    )
    assert filter.allows(name) is listed
    assert filter.allows(name) is listed, "also when it is remembered"
    assert filter.size == len(filter.events) + len(filter.excepted)
    assert list(filter.events) == sorted(set(filter.events))
    assert list(filter.excepted) == sorted(set(filter.excepted))


@given(commands)
def test_equal_filters_are_one_object(steps: list[tuple[str, list[str]]]) -> None:
    filter = run(steps)
    assert run(steps) is filter
    assert EventFilter(reversed(filter.events), filter.excepted, subscribed=filter.subscribed) is filter
    assert len({filter, run(steps)}) == 1


def test_a_join_takes_exactly_its_patterns() -> None:
    filter = EventFilter.of(["task:*", "x"])
    assert [name for name in ("task:a", "x", "y") if filter.allows(name)] == ["task:a", "x"]
    assert not EventFilter.of([]).allows("x")
    assert EventFilter.of(["all"]).allows("x")
    assert EventFilter.of(["b", "a", "b"]) is EventFilter.of(["a", "b"])


def test_filters_nobody_uses_are_forgotten() -> None:
    before = len(EventFilter._known)
    filters = [EventFilter.of([f"only-here-{number}"]) for number in range(100)]
    assert len(EventFilter._known) >= before + 100
    del filters
    gc.collect()
    assert len(EventFilter._known) <= before


def test_remembered_decisions_are_bounded() -> None:
    filter = EventFilter.of(["even:*"])
    for number in range(5000):
        assert filter.allows(f"even:{number}")
        assert not filter.allows(f"odd:{number}")
    assert 0 < len(filter._decisions) <= 1024


# --- What filters may hold, before anything is made of it ------------------------------------------


def test_good_patterns_come_back_as_they_are() -> None:
    wanted = [f"*{number}*" for number in range(64)]
    assert check_patterns(wanted, most=64) == wanted
    assert check_patterns(["*" * 16], most=1) == ["*" * 16]


@pytest.mark.parametrize(
    "wanted, code, problem",
    [
        (["a"] * 65, ErrorCode.TOO_MANY_PATTERNS, "data.events: must not contain more than 64 patterns"),
        (
            ["*a*"] * 63 + ["***"],
            ErrorCode.TOO_MANY_PATTERNS,
            "data.events: must not contain more than 128 *",
        ),
        (["a", "x" * 101], ErrorCode.BAD_FIELD, "data.events: must not be longer than 100 bytes"),
        (["a", 7], ErrorCode.BAD_FIELD, "data.events: must be text"),
    ],
)
def test_patterns_are_counted_first(wanted: list[object], code: ErrorCode, problem: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_patterns(wanted, most=64)
    assert (caught.value.code, caught.value.message) == (code, problem)


def test_a_filter_does_not_grow_beyond_its_bounds_bit_by_bit() -> None:
    filter = EventFilter.ALL.subscribe(f"*{number}*" for number in range(32))
    filter.check_size(64)
    with pytest.raises(ProtocolError, match="more than 64 patterns") as caught:
        filter.unsubscribe(f"{number}" for number in range(64)).check_size(64)
    assert caught.value.code is ErrorCode.TOO_MANY_PATTERNS
    with pytest.raises(ProtocolError, match=r"more than 128 \*"):
        filter.subscribe(["*a" * 40, "*b" * 40]).check_size(64)


class Counted(str):
    """Text that counts how often something is looked for in it."""

    __slots__ = ("looks",)
    looks: int

    def __contains__(self, piece: object) -> bool:
        self.looks += 1
        return str.__contains__(self, str(piece))

    def find(
        self, piece: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /
    ) -> int:
        self.looks += 1
        return super().find(piece, start, end)


def test_an_event_costs_a_filter_one_look_for_each_pattern_that_cannot_match() -> None:
    filter = EventFilter.of([f"*{number:04}" + "*a" * 40 for number in range(60)])
    name = Counted("a" * 90)
    name.looks = 0
    assert not filter.allows(name)
    assert name.looks <= 60


def test_a_filter_is_changed_as_before_when_it_holds_much() -> None:
    unwanted = [f"*{number:04}{'a' * 80}*" for number in range(63)]
    filter = EventFilter.ALL.unsubscribe(unwanted)
    assert filter.excepted == tuple(unwanted)
    assert filter.subscribe(unwanted).excepted == ()


def test_a_filter_shows_what_it_holds() -> None:
    assert repr(EventFilter.of(["a"])) == "EventFilter(['a'], [], subscribed=True)"
