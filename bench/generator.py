"""Drives the load generator (bench/load): writes its plan, sends its commands, reads its figures."""

from __future__ import annotations

import json
import os
import resource
import selectors
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jwt

from bench import build
from bench.dialect import Dialect
from bench.machine import LOAD_CORE, BenchError, pinned

TOKEN_LIFETIME = 3600


@dataclass(frozen=True)
class Plan:
    """Who connects, and how they speak; bench/load/plan.h explains the fields."""

    receivers: Sequence[Dialect]
    publisher: Dialect
    count: int = 0
    """Receivers in all; they take the dialects in turn."""
    rooms: int = 1
    members: int | None = None
    """Receivers in each room; None for all of them."""
    deaf: int = 0
    publishers: int = 1
    ordered: bool = True
    org: str = "bench"
    """The organisation of all of them, for a subject that has such."""

    def text(self, port: int, tokens: Path) -> str:
        """The plan as the load generator reads it."""
        members = self.count if self.members is None else self.members
        lines = [
            f"port {port}", f"tokens {tokens}", f"rooms {self.rooms}", f"members {members}",
            f"receivers {self.count}", f"deaf {self.deaf}", f"publishers {self.publishers}",
            f"ordered {int(self.ordered)}",
        ]  # fmt: skip
        lines += [dialect.section("receiver") for dialect in self.receivers]
        lines.append(self.publisher.section("publisher"))
        return "\n".join(lines) + "\n"


def write_tokens(path: Path, count: int, secret: str, org: str) -> None:
    """Write one HS256 token per connection, each for a user of its own in ``org``."""
    now = int(time.time())
    with path.open("w") as file:
        for number in range(count):
            claims = {
                "org": org,
                "sub": f"user-{number}",
                "exp": now + TOKEN_LIFETIME,
                "jti": f"bench-{number}",
            }
            file.write(jwt.encode(claims, secret, algorithm="HS256") + "\n")


class Load:
    """A running load generator on its own core. Leaving the context ends it.

    One ``in_background`` gives way at once to another on the same core: what is measured there does
    not wait for it.
    """

    def __init__(
        self, plan: Plan, port: int, folder: Path, secret: str, *, in_background: bool = False
    ) -> None:
        tokens = folder / f"tokens-{plan.org}"
        write_tokens(tokens, plan.count + plan.deaf + plan.publishers, secret, plan.org)
        self._plan = folder / f"plan-{plan.org}"
        self._plan.write_text(plan.text(port, tokens))
        self._in_background = in_background

    def __enter__(self) -> Load:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        with pinned(LOAD_CORE):
            self._process = subprocess.Popen(
                [str(build.load_generator()), str(self._plan)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        if self._in_background:
            os.sched_setscheduler(self._process.pid, os.SCHED_IDLE, os.sched_param(0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it ended by itself; the error that says why has been raised
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process.stdout.close()

    def command(self, text: str, timeout: float) -> dict[str, Any]:
        """Run one command; raise BenchError when it reports a fault or takes longer than ``timeout`` (s)."""
        self.start(text)
        return self.finish(text, timeout)

    def start(self, text: str) -> None:
        """Begin a command; :meth:`finish` is to follow, and no other command before it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{text}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said before it ended is read by finish()

    def finish(self, text: str, timeout: float) -> dict[str, Any]:
        """Return the answer to what was started; raises as :meth:`command`."""
        answer: dict[str, Any] = json.loads(self._line(text, timeout))
        if "error" in answer:
            raise BenchError(answer["error"])
        return answer

    def _line(self, text: str, timeout: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                raise BenchError(f"the load generator did not finish {text!r} within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the load generator ended during {text!r}")
        return line
