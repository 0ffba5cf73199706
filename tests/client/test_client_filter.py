"""After a reconnect the gateway's filter is what it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.client import Filter
from gateway.client.restore import FilterState
from protocol.patterns import EventFilter

PATTERNS = st.lists(st.sampled_from(["*", "all", "a*", "a:x", "a:y", "*:x", "b"]), min_size=1, max_size=3)
COMMANDS = st.lists(st.tuples(st.sampled_from(["subscribe", "unsubscribe"]), PATTERNS), max_size=6)


def apply(filter: EventFilter, kind: str, patterns: list[str]) -> EventFilter:
    return filter.subscribe(patterns) if kind == "subscribe" else filter.unsubscribe(patterns)


@given(COMMANDS)
def test_the_commands_of_a_state_make_the_same_filter(commands: list[tuple[str, list[str]]]) -> None:
    state = FilterState()
    filter = EventFilter.ALL
    for kind, patterns in commands:
        filter = apply(filter, kind, patterns)
        state.current = Filter(events=filter.events, excepted=filter.excepted)
        state.subscribed = state.subscribed or kind == "subscribe"
    restored = EventFilter.ALL
    for kind, patterns in state.commands():
        restored = apply(restored, kind, patterns)
    assert restored is filter


def test_a_filter_that_was_never_touched_needs_nothing() -> None:
    assert list(FilterState().commands()) == []
