"""Drives the load generator (bench/load): writes its plan, sends its commands, reads its figures."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jwt

from bench import build
from bench.dialect import Dialect
from bench.helper import Helper

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
    roles: tuple[str, ...] = ()
    """Of all of them."""
    """The organisation of all of them, for a subject that has such."""
    tls: bool = False
    """Over TLS 1.3, everybody."""
    publisher_port: int | None = None
    """Where the publishers connect; None for where the receivers do."""

    def text(self, port: int, tokens: Path) -> str:
        """The plan as the load generator reads it."""
        members = self.count if self.members is None else self.members
        lines = [
            f"port {port}", f"tokens {tokens}", f"rooms {self.rooms}", f"members {members}",
            f"receivers {self.count}", f"deaf {self.deaf}", f"publishers {self.publishers}",
            f"ordered {int(self.ordered)}", f"tls {int(self.tls)}",
        ]  # fmt: skip
        if self.publisher_port is not None:
            lines.append(f"publisher_port {self.publisher_port}")
        lines += [dialect.section("receiver") for dialect in self.receivers]
        lines.append(self.publisher.section("publisher"))
        return "\n".join(lines) + "\n"


def write_tokens(path: Path, count: int, secret: str, org: str, roles: Sequence[str] = ()) -> None:
    """Write one HS256 token per connection, each for a user of its own in ``org``."""
    now = int(time.time())
    with path.open("w") as file:
        for number in range(count):
            claims = {
                "org": org,
                "sub": f"user-{number}",
                "exp": now + TOKEN_LIFETIME,
                "jti": f"bench-{number}",
                **({"roles": list(roles)} if roles else {}),
            }
            file.write(jwt.encode(claims, secret, algorithm="HS256") + "\n")


class Load(Helper):
    """A running load generator on its own core.

    One ``in_background`` gives way at once to another on the same core: what is measured there does
    not wait for it.
    """

    name = "the load generator"

    def __init__(
        self, plan: Plan, port: int, folder: Path, secret: str, *, in_background: bool = False
    ) -> None:
        tokens = folder / f"tokens-{plan.org}"
        write_tokens(tokens, plan.count + plan.deaf + plan.publishers, secret, plan.org, plan.roles)
        path = folder / f"plan-{plan.org}"
        path.write_text(plan.text(port, tokens))
        super().__init__((str(build.load_generator(tls=plan.tls)), str(path)))
        self._in_background = in_background

    def __enter__(self) -> Load:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        super().__enter__()
        if self._in_background:
            os.sched_setscheduler(self._process.pid, os.SCHED_IDLE, os.sched_param(0))
        return self
