"""Patterns over names, and the filter of events that is made of them.

A pattern is a name in which ``*`` stands for any run of characters, also none; ``all``
means ``*``. Nothing else is special, so a match is one pass over the name whatever the
pattern is.

Filters come from strangers, and a room may have as many as members. So an event that a filter has not
seen costs it one look for each pattern's longest piece, in C; only where that piece is there, the rest is
looked at. How many patterns and stars there may be is bounded before anything is made of them
(``check_patterns``), since what remains grows with both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final
from weakref import WeakValueDictionary

from protocol.cache import Cache, Family
from protocol.envelope import MAX_EVENT_BYTES
from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_pattern

__all__ = ["EventFilter", "PatternSet", "check_patterns", "compile_pattern", "normalize_pattern"]

Matcher = Callable[[str], bool]

STARS_PER_PATTERN: Final = 2
MIN_STARS: Final = 16
"""A filter may hold ``STARS_PER_PATTERN`` stars for each pattern that it may hold, so 128 for 64; never
fewer than ``MIN_STARS``."""
_DECISIONS: Final = Family[bool]("filters", max_bytes=8 << 20, max_entries=1024, max_key=MAX_EVENT_BYTES)
"""Event names for which a filter remembers its answer; well above what a catalogue holds."""


def check_patterns(patterns: Sequence[object], *, most: int, field: str = "data.events") -> list[str]:
    """Return the patterns of events that a client sent, when they are good and not too many.

    Raises ``ProtocolError`` naming ``field``: TOO_MANY_PATTERNS for more than ``most``, or for more stars
    than a filter may hold, else BAD_FIELD. Costs about what their bytes do.
    """
    if len(patterns) > most:
        raise _too_many(f"{most} patterns", field)
    checked = [check_pattern(pattern, field=field) for pattern in patterns]
    _check_stars(checked, most, field)
    return checked


def _check_stars(patterns: Iterable[str], most: int, field: str) -> None:
    limit = max(most * STARS_PER_PATTERN, MIN_STARS)
    if sum(pattern.count("*") for pattern in patterns) > limit:
        raise _too_many(f"{limit} *", field)


def _too_many(limit: str, field: str) -> ProtocolError:
    return ProtocolError(ErrorCode.TOO_MANY_PATTERNS, f"{field}: must not contain more than {limit}")


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
    return lambda name: _matches(name, first, inner, last)


def _matches(name: str, first: str, inner: Sequence[str], last: str) -> bool:
    position, end = len(first), len(name) - len(last)
    if position > end or not name.startswith(first) or not name.endswith(last):
        return False
    # The leftmost place of each piece leaves most room for the next one.
    for piece in inner:
        position = name.find(piece, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True


_Starred = tuple[str, str, list[str], str, str]
"""The longest piece, the first one, those between stars, the last one, and the whole pattern."""


class PatternSet:
    """Many (normalized) patterns that are asked together. Immutable."""

    __slots__ = ("_exact", "_starred", "everything")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.everything = False
        """``*`` is among them."""
        exact: list[str] = []
        self._starred: list[_Starred] = []
        for pattern in patterns:
            first, *inner = pattern.split("*")
            if not inner:
                exact.append(pattern)
            elif pattern == "*":
                self.everything = True
            else:
                last = inner.pop()
                longest = max((first, *inner, last), key=len)
                self._starred.append((longest, first, inner, last, pattern))
        self._exact = frozenset(exact)

    def match(self, name: str) -> bool:
        """Tell whether ``name`` matches one of them."""
        if self.everything or name in self._exact:
            return True
        for longest, first, inner, last, _ in self._starred:
            if longest in name and _matches(name, first, inner, last):
                return True
        return False

    def cover(self, narrow: str, *, apart_from_itself: bool = False) -> bool:
        """Tell whether one of them, or one but ``narrow`` itself, matches every name that ``narrow`` does."""
        # The star of ``narrow`` is no character of a name, so only a star of a pattern takes it.
        if not apart_from_itself:
            return self.match(narrow)
        if self.everything and narrow != "*":
            return True
        for longest, first, inner, last, pattern in self._starred:
            if longest in narrow and pattern != narrow and _matches(narrow, first, inner, last):
                return True
        return False

    def overlap(self, other: str) -> bool:
        """Tell whether some name matches ``other`` and one of them."""
        if "*" not in other:
            return self.match(other)
        if self.everything:
            return True
        first, *inner = other.split("*")
        last = inner.pop()
        for _, own_first, _, own_last, _ in self._starred:
            # Between the first and the last star everything fits, one after the other.
            if (first.startswith(own_first) or own_first.startswith(first)) and (
                last.endswith(own_last) or own_last.endswith(last)
            ):
                return True
        return any(_matches(name, first, inner, last) for name in self._exact)


class EventFilter:
    """Which events pass: those that match a pattern of ``events`` and none of ``excepted``.

    Immutable. Equal filters are the same object, so comparing and hashing cost nothing.
    Their number is for the caller to limit: see ``check_size``.
    """

    ALL: ClassVar[EventFilter]
    """A new connection's: everything passes, and the first ``subscribe`` narrows it."""

    __slots__ = ("__weakref__", "_decisions", "_excepted", "_passing", "events", "excepted", "subscribed")
    _known: ClassVar[WeakValueDictionary[tuple[frozenset[str], frozenset[str], bool], EventFilter]]

    events: tuple[str, ...]
    """Sorted and normalized, as in the reply to ``subscribe``."""
    excepted: tuple[str, ...]
    subscribed: bool
    """False while no ``subscribe`` has named anything."""
    _passing: PatternSet
    _excepted: PatternSet
    _decisions: Cache[bool]

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
        self._passing, self._excepted = PatternSet(self.events), PatternSet(self.excepted)
        self._decisions = _DECISIONS.new()
        return cls._known.setdefault(key, self)

    @classmethod
    def of(cls, events: Iterable[str]) -> EventFilter:
        """Make the filter of a ``join``: exactly these patterns pass; none when there are none."""
        return cls(events)

    def allows(self, event: str) -> bool:
        """Tell whether an event of this name passes."""
        decision = self._decisions.get(event)
        if decision is None:
            decision = self._passing.match(event) and not self._excepted.match(event)
            self._decisions[event] = decision
        return decision

    def subscribe(self, patterns: Iterable[str]) -> EventFilter:
        """Let through whatever matches ``patterns``, also where it was excepted.

        The first subscription narrows the filter to its patterns, later ones add. An
        exception that overlaps one of the patterns ends.
        """
        added = {normalize_pattern(pattern) for pattern in patterns}
        events = added | set(self.events) if self.subscribed else added
        wanted, new = PatternSet(events), PatternSet(added)
        excepted = [
            pattern for pattern in self.excepted if wanted.overlap(pattern) and not new.overlap(pattern)
        ]
        return EventFilter(events, excepted)

    def unsubscribe(self, patterns: Iterable[str]) -> EventFilter:
        """Hold back whatever matches ``patterns``.

        Subscribed patterns that lie within one of them go; where others still let some of
        it through, it is remembered as an exception.
        """
        removed = {normalize_pattern(pattern) for pattern in patterns}
        unwanted = PatternSet(removed)
        events = [event for event in self.events if not unwanted.cover(event)]
        candidates = removed | set(self.excepted)
        wanted, others = PatternSet(events), PatternSet(candidates)
        excepted = [
            pattern
            for pattern in candidates
            if wanted.overlap(pattern) and not others.cover(pattern, apart_from_itself=True)
        ]
        return EventFilter(events, excepted, subscribed=self.subscribed)

    def check_size(self, most: int) -> None:
        """Raise ``ProtocolError`` TOO_MANY_PATTERNS for more patterns than ``most``, or too many stars."""
        if self.size > most:
            raise _too_many(f"{most} patterns", "a filter")
        _check_stars((*self.events, *self.excepted), most, "a filter")

    @property
    def size(self) -> int:
        """How many patterns it holds."""
        return len(self.events) + len(self.excepted)

    def __repr__(self) -> str:
        return f"EventFilter({list(self.events)}, {list(self.excepted)}, subscribed={self.subscribed})"


EventFilter._known = WeakValueDictionary()
EventFilter.ALL = EventFilter(("*",), subscribed=False)
