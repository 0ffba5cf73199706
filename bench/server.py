"""Starts one server under test on its own core, and stops it again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from bench.machine import SERVER_CORE, BenchError, Usage, pinned, usage

START_TIMEOUT = 60.0
STOP_TIMEOUT = 5.0
_CONFIGURING = ("GATEWAY_", "CENTRIFUGO_", "GOGC", "GOMEMLIMIT")
"""Whoever runs the benchmarks may have set these for something else."""


@dataclass(frozen=True)
class Command:
    """How to start a server: arguments, additions to the environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class Running(Protocol):
    """One server or several that work as one."""

    port: int
    """Where the load connects."""

    def usage(self) -> Usage:
        """What it has used so far."""


class Server:
    """A running server; leaving the context ends it, at the latest by force.

    It has ``core`` for itself; None lets the system choose.

    Entering raises BenchError, with the end of the server's own output, when it is not listening
    within ``start_timeout`` seconds.
    """

    def __init__(
        self,
        command: Command,
        port: int,
        folder: Path,
        *,
        core: int | None = SERVER_CORE,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        self._command = command
        self.port = port
        self._folder = folder
        self._core = core
        self._start_timeout = start_timeout
        self._log = folder / f"server-{port}.log"

    def __enter__(self) -> Server:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_CONFIGURING)}
        environment = {**inherited, **self._command.environment}
        with self._log.open("wb") as log, pinned(self._core) if self._core is not None else nullcontext():
            self._process = subprocess.Popen(
                self._command.arguments,
                env=environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_until_listening()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchError(f"the server ended with status {self._process.returncode}:\n{self.output()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise BenchError(f"the server did not listen within {self._start_timeout:.0f} s:\n{self.output()}")

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_TIMEOUT)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def usage(self) -> Usage:
        """What the server has used so far."""
        return usage(self.pid)

    def output(self) -> str:
        """The end of what the server printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


class Chain:
    """Servers one behind the other, on one core, that are measured as one."""

    def __init__(self, front: Server, *behind: Server) -> None:
        self.port = front.port
        self._all = (front, *behind)

    def usage(self) -> Usage:
        """The sums."""
        each = [server.usage() for server in self._all]
        return Usage(sum(u.cpu for u in each), sum(u.rss for u in each), sum(u.peak for u in each))
