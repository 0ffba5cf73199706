"""What a benchmark asks: its cases, what it measures of each, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.subjects import Subject

Values = Mapping[str, float]
"""Metric → value, of one case in one round."""
Round = Mapping[str, Values]
"""Case → its values, in one round."""


@dataclass(frozen=True)
class Options:
    """How long and how often to measure."""

    rounds: int = 5
    seconds: float = 2.0
    """Length of one measurement; questions with a length of their own scale with it."""
    quick: bool = False
    patience: float = 0.0
    """How long to wait for a quiet machine before each measurement, in seconds."""

    def count(self, wanted: int, quick: int) -> int:
        """A number of connections: ``wanted``, or ``quick`` in a quick run."""
        return quick if self.quick else wanted


@dataclass(frozen=True)
class Metric:
    """One column of the result."""

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"] = "higher"


@dataclass(frozen=True)
class Case:
    """One line of the result: a server, perhaps in a situation (``settings``)."""

    name: str
    subject: Subject
    title: str = ""
    settings: Mapping[str, float] = field(default_factory=dict)
    optional: bool = False
    """Only measured when asked for by name."""


@dataclass(frozen=True)
class Goal:
    """Something to reach. ``value`` finds the figure in one round, or None when a case is missing."""

    title: str
    value: Callable[[Round], float | None]
    sense: Literal[">=", "<="]
    bound: float

    def holds(self, figure: float) -> bool:
        """Tell whether ``figure`` reaches the goal."""
        return figure >= self.bound if self.sense == ">=" else figure <= self.bound


@dataclass(frozen=True)
class Question:
    """One benchmark. ``measure`` gets a case and what ``prepare`` found, and returns the values.

    Values that are no metric (shares of the cores, percentiles) are kept in the result file.
    """

    name: str
    title: str
    metrics: Sequence[Metric]
    cases: Sequence[Case]
    goals: Sequence[Goal]
    measure: Callable[[Case, Options, Mapping[str, float]], Values]
    prepare: Callable[[Sequence[Case], Options, Callable[[str], None]], Mapping[str, float]] = lambda *_: {}
    ours: str = "ours"
    limit: str = "limit"


def cases(
    subjects: Mapping[str, Subject], names: Iterable[str], optional: Iterable[str] = ()
) -> tuple[Case, ...]:
    """One case for each of these subjects."""
    return (
        *(Case(name, subjects[name]) for name in names),
        *(Case(name, subjects[name], optional=True) for name in optional),
    )


def ratio(
    metric: str, ours: str, *others: str, best: Callable[[Iterable[float]], float] = max
) -> Callable[[Round], float | None]:
    """Ours divided by the ``best`` of the others, those that were measured."""

    def value(round_: Round) -> float | None:
        found = [round_[other][metric] for other in others if other in round_]
        if ours not in round_ or not found:
            return None
        return round_[ours][metric] / best(found)

    return value


def plain(metric: str, case: str) -> Callable[[Round], float | None]:
    """The value itself."""
    return lambda round_: round_[case][metric] if case in round_ else None


def spread(metric: str, *names: str) -> Callable[[Round], float | None]:
    """The largest divided by the smallest."""

    def value(round_: Round) -> float | None:
        found = [round_[name][metric] for name in names if name in round_]
        return max(found) / min(found) if len(found) == len(names) else None

    return value
