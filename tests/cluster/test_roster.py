"""The roster of a watched room against changes that come in any order, twice, or not at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.cluster.roster import Change, Roster

toggles = st.lists(st.sampled_from(["alice", "bob", "carol"]), max_size=12)


def history_of(users: list[str], first: int = 101) -> tuple[list[Change], list[set[str]]]:
    """Each user comes and goes in turn; returns the changes, and who is there before and after each."""
    changes, states = [], [set[str]()]
    for number, user in enumerate(users, first):
        present = set(states[-1])
        changes.append(Change(number, "leave" if user in present else "join", user))
        states.append(present ^ {user})
    return changes, states


def told_by(roster: Roster, told: set[str], changes: list[Change]) -> None:
    """What a watcher concludes; nobody may come who is there, nor go who is not."""
    for change in changes:
        assert (change.user in told) == (change.event == "leave")
        told ^= {change.user}
    assert told == set(roster.users)


@given(toggles, st.data())
def test_whatever_the_order_the_end_is_right(users: list[str], data: st.DataObject) -> None:
    changes, states = history_of(users)
    begun = data.draw(st.integers(0, len(changes)))
    roster = Roster()
    told: set[str] = set()
    told_by(roster, told, roster.read(100 + begun, states[begun]) or [])
    for change in data.draw(st.permutations(changes + data.draw(st.permutations(changes)))):
        told_by(roster, told, [change] if roster.take(change) else [])
    assert told == states[-1]
    assert roster.known == 100 + len(changes)


@given(toggles, st.data())
def test_a_change_that_is_missing_shows_and_reading_mends_it(users: list[str], data: st.DataObject) -> None:
    changes, states = history_of(users)
    lost = data.draw(st.sets(st.sampled_from(changes) if changes else st.nothing()))
    roster = Roster()
    told: set[str] = set()
    told_by(roster, told, roster.read(100, ()) or [])
    for change in data.draw(st.permutations([each for each in changes if each not in lost])):
        told_by(roster, told, [change] if roster.take(change) else [])
    assert (roster.known == 100 + len(changes)) == (not lost)
    mended = roster.read(100 + len(changes), states[-1])
    assert mended is not None
    told_by(roster, told, mended)
    assert told == states[-1]


def test_what_was_read_before_the_last_change_is_refused() -> None:
    roster = Roster()
    assert roster.read(7, ["alice"]) == [Change(7, "join", "alice")]
    assert roster.take(Change(9, "join", "bob"))
    assert roster.read(8, ["alice"]) is None
    assert set(roster.users) == {"alice", "bob"}
    assert roster.read(9, ["bob"]) == [Change(9, "leave", "alice")]
