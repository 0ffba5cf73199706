"""One measurement: a fresh server on one core, a fresh load on the other."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import machine
from bench.generator import Load, Plan
from bench.machine import free_port
from bench.server import Chain, Running, Server
from bench.subjects import Setting, Subject

SLACK = 60.0
"""How much longer than asked a command may take, in seconds: the load generator's drain, and more."""


@dataclass(frozen=True)
class Outcome:
    """What one command of the load generator found, with the server's share beside it."""

    load: Mapping[str, Any]
    server_cpu: float
    """CPU seconds of the server meanwhile."""
    rss: int
    """The server's memory at the end, in bytes."""
    others_cpu: float
    """CPU seconds that none of these used on their cores: what disturbed the measurement."""
    beside_cpu: Mapping[str, float] = field(default_factory=dict)
    """CPU seconds of the processes beside, by their name."""

    @property
    def seconds(self) -> float:
        """From the first message to the last that arrived."""
        return float(self.load["seconds"])

    def per_second(self, what: str) -> float:
        """``deliveries``, ``messages`` or ``echoes`` in a second."""
        return float(self.load[what]) / self.seconds

    def shares(self) -> dict[str, float]:
        """How busy server, load and everybody else were, as shares of one core.

        ``load`` is all that works on the core of the load: the load generator, and the processes beside.
        """
        load = self.load["cpu"] + sum(self.beside_cpu.values())
        used = {"server": self.server_cpu, "load": load, "others": self.others_cpu, **self.beside_cpu}
        return {who: cpu / self.seconds for who, cpu in used.items()}


class Session:
    """Runs commands of the load generator against a running server.

    ``neighbour``: a second load on the same server and core, which gives way to the first.
    ``beside``: processes on the load's core that have a part in it and are not what is measured: name → pid.
    """

    def __init__(
        self,
        server: Running,
        load: Load,
        neighbour: Load | None = None,
        beside: Mapping[str, int] | None = None,
    ) -> None:
        self.server = server
        self.neighbour = neighbour
        self.beside = beside or {}
        self._load = load

    def run(self, command: str, *, timeout: float = SLACK) -> Outcome:
        """Run one command; raise BenchError at any fault of the server or the load."""
        measured = self.measuring()
        return measured(self._load.command(command, timeout))

    def measuring(self) -> Callable[[Mapping[str, Any]], Outcome]:
        """Begin now; what it returns makes, of the load's answer, what has been found since."""
        before, busy = self.server.usage(), machine.busy()
        beside = {name: machine.usage(pid).cpu for name, pid in self.beside.items()}

        def measured(answer: Mapping[str, Any]) -> Outcome:
            after = self.server.usage()
            cpu = after.cpu - before.cpu
            used = {name: machine.usage(self.beside[name]).cpu - already for name, already in beside.items()}
            others = machine.busy() - busy - cpu - answer["cpu"] - sum(used.values())
            return Outcome(answer, cpu, after.rss, max(0.0, others), used)

        return measured

    def connect(
        self, *, receivers: int = 0, publishers: int = 0, deaf: int = 0, at_once: int = 64
    ) -> Outcome:
        """Open connections up to these totals, and wait until all have joined their rooms."""
        return self.run(
            f"connect receivers={receivers} publishers={publishers} deaf={deaf} at_once={at_once} timeout=60",
            timeout=90,
        )

    def window(self, in_flight: int, seconds: float) -> Outcome:
        """Publish with so many messages in flight, each until its last receiver has it."""
        return self.run(f"window window={in_flight} seconds={seconds}", timeout=seconds + SLACK)

    def rate(self, per_second: float, seconds: float) -> Outcome:
        """Publish at a fixed rate."""
        return self.run(f"rate per_second={per_second} seconds={seconds}", timeout=seconds + SLACK)

    def echo(self, in_flight: int, seconds: float) -> Outcome:
        """Let every publisher keep so many commands in flight, each until it is answered."""
        return self.run(f"echo window={in_flight} seconds={seconds}", timeout=seconds + SLACK)

    def echo_at(self, per_second: float, seconds: float) -> Outcome:
        """Let every publisher send commands at a fixed rate; latency counts from when each was due."""
        return self.run(f"echo per_second={per_second} seconds={seconds}", timeout=seconds + SLACK)

    def arrive(self, messages: int, publish: Callable[[int], object]) -> Outcome:
        """Have ``publish`` publish so many messages, from the number that it gets, until all have them."""
        measured = self.measuring()
        first = self._load.command(f"expect messages={messages}", SLACK)["first"]
        publish(int(first))
        return measured(self._load.command(f"arrive timeout={SLACK:g}", 2 * SLACK))

    def idle(self, seconds: float) -> Outcome:
        """Send nothing but the answers to pings."""
        return self.run(f"idle seconds={seconds}", timeout=seconds + SLACK)

    def deaf_closed(self) -> int:
        """How many of those that never read the server has closed."""
        return int(self._load.command("deaf", SLACK)["closed"])


@contextlib.contextmanager
def session(subject: Subject, plan: Plan, neighbour: Plan | None = None, **options: str) -> Iterator[Session]:
    """Start ``subject`` and the load for ``plan``, perhaps with a ``neighbour`` of another organisation.

    ``options`` go to the subject's configuration.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        setting = Setting(port, Path(folder), secrets.token_hex(32), options)
        with contextlib.ExitStack() as stack:
            own = stack.enter_context(Server(subject.command(setting), port, setting.folder))
            server: Running = own
            if subject.front is not None:
                front = replace(setting, port=free_port(), options={**options, "behind": str(port)})
                server = Chain(
                    stack.enter_context(Server(subject.front(front), front.port, setting.folder)), own
                )
                port = front.port
            load = stack.enter_context(Load(plan, port, setting.folder, setting.secret))
            beside = None
            if neighbour is not None:
                beside = Load(neighbour, port, setting.folder, setting.secret, in_background=True)
                stack.enter_context(beside)
            yield Session(server, load, beside)
