"""Takes the cases of a question in turn, A B C A B C …, and keeps what was found.

Every measurement has a server and a load of its own. A case that fails (its server does not
start, a message is lost without notice, a deadline passes) is taken out of the remaining
rounds, and the run ends as failed; one that cannot run here is named and left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import build, machine
from bench.machine import BenchError
from bench.question import Case, Options, Question, Values


@dataclass
class Findings:
    """What a run found: ``rounds[i][case][metric]``, what failed and why, what was left out and why."""

    question: Question
    options: Options
    cases: list[Case]
    rounds: list[dict[str, Values]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    prepared: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def say(text: str) -> None:
    """Show progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def choose(question: Question, names: Sequence[str] | None) -> list[Case]:
    """The cases of these names, or all that are not optional."""
    if names is None:
        return [case for case in question.cases if not case.optional]
    known = {case.name: case for case in question.cases}
    for name in names:
        if name not in known:
            raise BenchError(f"{question.name} has no subject {name!r}; it has {', '.join(known)}")
    return [known[name] for name in names]


def _line(question: Question, values: Values) -> str:
    figures = ", ".join(
        f"{metric.name} {values[metric.name]:,.4g} {metric.unit}" for metric in question.metrics
    )
    shares = " ".join(
        f"{who} {100 * values[who]:.0f} %" for who in ("server", "load", "others") if who in values
    )
    return f"{figures}   ({shares} of a core)" if shares else figures


def run(question: Question, options: Options, names: Sequence[str] | None = None) -> Findings:
    """Measure; raise BenchError only when nothing can be measured at all."""
    machine.check()
    begun = time.monotonic()
    findings = Findings(question, options, [])
    for case in choose(question, names):
        reason = case.subject.missing()
        if reason is None:
            findings.cases.append(case)
        else:
            findings.absent[case.name] = reason
            say(f"absent: {case.name}: {reason}")
    build.load_generator()
    build.limit()
    try:
        findings.prepared = dict(question.prepare(findings.cases, options, say))
    except BenchError as error:
        findings.failed["preparation"] = str(error)
        say(f"FAILED: preparation: {error}")
        return findings
    for number in range(1, options.rounds + 1):
        findings.rounds.append({})
        for case in findings.cases:
            if case.name in findings.failed:
                continue
            where = f"[{number}/{options.rounds}] {case.name}"
            machine.wait_until_quiet(options.patience)
            try:
                values = question.measure(case, options, findings.prepared)
            except BenchError as error:
                findings.failed[case.name] = str(error)
                say(f"{where}: FAILED: {error}")
                continue
            findings.rounds[-1][case.name] = values
            say(f"{where}: {_line(question, values)}")
    findings.seconds = time.monotonic() - begun
    return findings
