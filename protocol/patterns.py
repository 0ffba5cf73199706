"""Patterns over names, and the filter of events that is made of them.

A pattern is a name in which ``*`` stands for any run of characters, also none; ``all``
means ``*``. Nothing else is special, so a match is one pass over the name whatever the
pattern is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Final
from weakref import WeakValueDictionary

__all__ = ["EventFilter", "compile_pattern", "normalize_pattern"]

Matcher = Callable[[str], bool]

_KEPT_DECISIONS: Final = 1024
"""Event names for which one filter remembers its answer; well above what a catalogue holds."""


def normalize_pattern(text: str) -> str:
    """Return the form that is compared and shown: ``all`` is ``*``, and runs of ``*`` are one."""
    if text == "all":
        return "*"
    while "**" in text:
        text = text.replace("**", "*")
    return text


def compile_pattern(text: str) -> Matcher:
    """Return the test whether a name matches ``text``; it takes time linear in the name."""
    first, *inner = normalize_pattern(text).split("*")
    if not inner:
        return lambda name: name == first
    last = inner.pop()
    if not inner and not last:
        return lambda name: name.startswith(first)
    shortest = len(first) + len(last)

    def matches(name: str) -> bool:
        if len(name) < shortest or not name.startswith(first) or not name.endswith(last):
            return False
        # The leftmost place of each piece leaves most room for the next one.
        position, end = len(first), len(name) - len(last)
        for piece in inner:
            position = name.find(piece, position, end)
            if position < 0:
                return False
            position += len(piece)
        return True

    return matches


def overlap(one: str, other: str) -> bool:
    """Tell whether some name matches both patterns (normalized ones)."""
    if "*" not in one:
        return compile_pattern(other)(one)
    if "*" not in other:
        return compile_pattern(one)(other)
    # Between the first and the last star everything fits, one after the other.
    head, other_head = one.partition("*")[0], other.partition("*")[0]
    tail, other_tail = one.rpartition("*")[2], other.rpartition("*")[2]
    return (head.startswith(other_head) or other_head.startswith(head)) and (
        tail.endswith(other_tail) or other_tail.endswith(tail)
    )


def covers(broad: str, narrow: str) -> bool:
    """Tell whether every name that matches ``narrow`` matches ``broad`` too (normalized ones)."""
    # The star of ``narrow`` is no character of a name, so only a star of ``broad`` takes it.
    return compile_pattern(broad)(narrow)


class EventFilter:
    """Which events pass: those that match a pattern of ``events`` and none of ``excepted``.

    Immutable. Equal filters are the same object, so comparing and hashing cost nothing.
    The number of patterns (``size``) is for the caller to limit.
    """

    ALL: ClassVar[EventFilter]
    """A new connection's: everything passes, and the first ``subscribe`` narrows it."""

    __slots__ = ("__weakref__", "_decisions", "_excluding", "_including", "events", "excepted", "subscribed")
    _known: ClassVar[WeakValueDictionary[tuple[frozenset[str], frozenset[str], bool], EventFilter]]

    events: tuple[str, ...]
    """Sorted and normalized, as in the reply to ``subscribe``."""
    excepted: tuple[str, ...]
    subscribed: bool
    """False while no ``subscribe`` has named anything."""
    _including: list[Matcher]
    _excluding: list[Matcher]
    _decisions: dict[str, bool]

    def __new__(
        cls, events: Iterable[str], excepted: Iterable[str] = (), *, subscribed: bool = True
    ) -> EventFilter:
        key = (
            frozenset(map(normalize_pattern, events)),
            frozenset(map(normalize_pattern, excepted)),
            subscribed,
        )
        known = cls._known.get(key)
        if known is not None:
            return known
        self = super().__new__(cls)
        self.events, self.excepted, self.subscribed = tuple(sorted(key[0])), tuple(sorted(key[1])), subscribed
        self._including = [compile_pattern(pattern) for pattern in self.events]
        self._excluding = [compile_pattern(pattern) for pattern in self.excepted]
        self._decisions = {}
        return cls._known.setdefault(key, self)

    @classmethod
    def of(cls, events: Iterable[str]) -> EventFilter:
        """Make the filter of a ``join``: exactly these patterns pass; none when there are none."""
        return cls(events)

    def allows(self, event: str) -> bool:
        """Tell whether an event of this name passes."""
        decision = self._decisions.get(event)
        if decision is None:
            if len(self._decisions) >= _KEPT_DECISIONS:
                self._decisions.clear()
            decision = any(test(event) for test in self._including) and not any(
                test(event) for test in self._excluding
            )
            self._decisions[event] = decision
        return decision

    def subscribe(self, patterns: Iterable[str]) -> EventFilter:
        """Let through whatever matches ``patterns``, also where it was excepted.

        The first subscription narrows the filter to its patterns, later ones add. An
        exception that overlaps one of the patterns ends.
        """
        added = {normalize_pattern(pattern) for pattern in patterns}
        events = added | set(self.events) if self.subscribed else added
        excepted = (
            pattern
            for pattern in self.excepted
            if any(overlap(pattern, event) for event in events)
            and not any(overlap(pattern, event) for event in added)
        )
        return EventFilter(events, excepted)

    def unsubscribe(self, patterns: Iterable[str]) -> EventFilter:
        """Hold back whatever matches ``patterns``.

        Subscribed patterns that lie within one of them go; where others still let some of
        it through, it is remembered as an exception.
        """
        removed = {normalize_pattern(pattern) for pattern in patterns}
        events = [event for event in self.events if not any(covers(pattern, event) for pattern in removed)]
        candidates = removed | set(self.excepted)
        excepted = (
            pattern
            for pattern in candidates
            if any(overlap(pattern, event) for event in events)
            and not any(other != pattern and covers(other, pattern) for other in candidates)
        )
        return EventFilter(events, excepted, subscribed=self.subscribed)

    @property
    def size(self) -> int:
        """How many patterns it holds."""
        return len(self.events) + len(self.excepted)

    def __repr__(self) -> str:
        return f"EventFilter({list(self.events)}, {list(self.excepted)}, subscribed={self.subscribed})"


EventFilter._known = WeakValueDictionary()
EventFilter.ALL = EventFilter(("*",), subscribed=False)
