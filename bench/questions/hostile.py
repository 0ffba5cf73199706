"""What can a stranger with one member token cost another organisation?

For each attack a gateway of its own, at the defaults. The victim pings twenty times a second, first alone
and then beside the attack, which runs in a process of its own; memory is read all the time, and again some
seconds after the attacker was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import jwt

from bench.attacks import ATTACKS, WebSocket
from bench.machine import LOAD_CORE, BenchError, free_port, pinned
from bench.question import Case, Goal, Metric, Options, Question, Round
from bench.server import Server
from bench.subjects import SUBJECTS, Setting

PAUSE = 0.05
"""Seconds between two pings."""
AFTER = 5.0
"""Seconds from the end of the attack until what is left of it is read."""
MB = 1e6


class _Victim:
    def __init__(self, server: Server, token: str) -> None:
        self._server = server
        self._client = WebSocket(server.port, token)
        self._client.wait_for(b"connected")
        self.highest = 0.0

    def ping(self, seconds: float) -> list[float]:
        """Delays in milliseconds, in order of size; keeps the highest memory in mind."""
        delays, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.perf_counter()
            self._client.send(b'{"v":1,"t":"ping","id":1}')
            self._client.wait_for(b'"t":"pong"')
            delays.append(1e3 * (time.perf_counter() - begun))
            self.highest = max(self.highest, self._server.usage().rss)
            time.sleep(PAUSE)
        return sorted(delays)


def _run(attack: str, port: int, token: str) -> None:
    os.nice(19)  # the victim's own side must not wait for the attacker's
    ATTACKS[attack][1](port, token)


def _measure(case: Case, options: Options, _: Mapping[str, float]) -> dict[str, float]:
    secret, port = secrets.token_hex(32), free_port()
    victim, stranger = (
        jwt.encode({"org": org, "sub": "someone", "exp": int(time.time()) + 3600}, secret, "HS256")
        for org in ("victims", "strangers")
    )
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(port, Path(folder), secret, {"limits": "defaults"})
        with pinned(LOAD_CORE), Server(case.subject.command(setting), port, Path(folder)) as server:
            try:
                return _beside(case.name, server, victim, stranger, 2.5 * options.seconds)
            except OSError as error:
                raise BenchError(f"the victim lost its connection: {error!r}") from error


def _beside(name: str, server: Server, victim: str, stranger: str, seconds: float) -> dict[str, float]:
    someone = _Victim(server, victim)
    quiet, base = someone.ping(seconds / 2), server.usage().rss
    attacker = multiprocessing.get_context("fork").Process(target=_run, args=(name, server.port, stranger))
    attacker.start()
    try:
        delays = someone.ping(seconds)
    finally:
        attacker.kill()
        attacker.join()
    end = time.monotonic() + AFTER
    someone.ping(max(0.1, end - time.monotonic()))
    return {
        "p99": delays[int(0.99 * (len(delays) - 1))] - quiet[len(quiet) // 2],
        "worst": delays[-1],
        "memory": (someone.highest - base) / MB,
        "left": (server.usage().rss - base) / MB,
    }


def _highest(round_: Round, metric: str) -> float:
    return max(values[metric] for values in round_.values())


QUESTION = Question(
    name="hostile",
    title="What a stranger with one member token costs another organisation, at the defaults",
    metrics=(
        Metric("p99", "p99 of the victim's ping above quiet", "ms", "lower"),
        Metric("worst", "worst ping", "ms", "lower"),
        Metric("memory", "memory above quiet", "MB", "lower"),
        Metric("left", "left after 5 s", "MB", "lower"),
    ),
    cases=tuple(Case(name, SUBJECTS["ours"], title=what) for name, (what, _) in ATTACKS.items()),
    goals=(
        Goal("worst p99 above quiet, ms", lambda round_: _highest(round_, "p99"), "<=", 50.0),
        Goal("most memory above quiet, MB", lambda round_: _highest(round_, "memory"), "<=", 256.0),
    ),
    measure=_measure,
)
