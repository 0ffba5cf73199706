"""Counts instructions of the fan-out and read paths, which a busy machine does not change.

``python -m bench instructions`` runs the gateway under ``valgrind --tool=callgrind``, lets the load
generator do a fixed amount of work after a warm-up, and counts the user-space instructions of just
that, per delivery or command. The figures are held against ``bench/instructions.json``: more than
TOLERANCE above it fails. ``--update`` writes them there, for this Python on this processor family;
another Python counts differently and has an entry of its own.

What the kernel does in send() and recv() is not counted; the other benchmarks show it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import machine
from bench.dialect import Dialect
from bench.generator import Load, Plan
from bench.machine import BenchError
from bench.server import Command, Server
from bench.subjects import ECHOES, SUBJECTS, Setting, Subject

BASELINE = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.08
START_TIMEOUT = 120.0
TIMEOUT = 240.0


@dataclass(frozen=True)
class Work:
    """A fixed amount of work: load commands to warm up and to count, and what to divide by."""

    title: str
    subject: Subject
    plan: Callable[[Dialect], Plan]
    connect: str
    command: str
    per: str
    warm_up: int
    messages: int


def _fanout(dialect: Dialect) -> Plan:
    return Plan([dialect], dialect, count=100)


def _commands(dialect: Dialect) -> Plan:
    return Plan([dialect], dialect, publishers=1, ordered=False)


def _work(title: str, subject: Subject, in_flight: int) -> Work:
    """Echo-like work over one connection: with several, chance would say how many share a wake-up."""
    command = f"echo window={in_flight} seconds={TIMEOUT / 2:.0f}"
    return Work(title, subject, _commands, "publishers=1", command, "echoes", 320, 1600)


WORK = {
    "fanout": Work(
        "fan-out to 100, per delivery", SUBJECTS["ours"], _fanout, "receivers=100 publishers=1",
        f"window window=1 seconds={TIMEOUT / 2:.0f}", "deliveries", 30, 100,
    ),
    "commands-json": _work("publish with reply, JSON, 16 in flight", SUBJECTS["ours"], 16),
    "commands-cbor": _work("publish with reply, CBOR, 16 in flight", SUBJECTS["ours-cbor"], 16),
    "echo-1": _work("bench.echo, 1 in flight", ECHOES["ours"], 1),
    "echo-16": _work("bench.echo, 16 in flight", ECHOES["ours"], 16),
}  # fmt: skip


def _under_callgrind(command: Command, folder: Path) -> Command:
    arguments = list(command.arguments)
    if arguments[0] != sys.executable:  # a script of the virtual environment
        arguments.insert(0, sys.executable)
    tool = [
        "valgrind",
        "--tool=callgrind",
        "--instr-atstart=no",
        f"--callgrind-out-file={folder}/callgrind.out",
    ]
    return Command([*tool, *arguments], {**command.environment, "PYTHONHASHSEED": "0"})


def _control(pid: int, *arguments: str) -> None:
    done = subprocess.run(
        ["callgrind_control", *arguments, str(pid)], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode or "error" in done.stdout.lower():
        raise BenchError(f"callgrind_control {' '.join(arguments)}: {done.stdout}{done.stderr}")


def _counted(folder: Path) -> int:
    """Instructions in the dump that was asked for; valgrind numbers dumps from 1."""
    found = re.search(r"^(?:summary|totals): (\d+)", (folder / "callgrind.out.1").read_text(), re.MULTILINE)
    if found is None:
        raise BenchError("callgrind wrote no totals")
    return int(found[1])


def count(work: Work) -> float:
    """Instructions per unit of ``work``; raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, port = Path(name), machine.free_port()
        setting = Setting(port, folder, secrets.token_hex(32), {})
        command = _under_callgrind(work.subject.command(setting), folder)
        plan = work.plan(work.subject.dialect)
        with (
            Server(command, port, folder, start_timeout=START_TIMEOUT) as server,
            Load(plan, port, folder, setting.secret) as load,
        ):
            load.command(f"connect {work.connect} at_once=8 timeout={TIMEOUT / 2:.0f}", TIMEOUT)
            _control(server.pid, "--instr=on")
            load.command(f"{work.command} messages={work.warm_up}", TIMEOUT)
            _control(server.pid, "--zero")
            outcome = load.command(f"{work.command} messages={work.messages}", TIMEOUT)
            _control(server.pid, "--dump")
            _control(server.pid, "--instr=off")
            return _counted(folder) / float(outcome[work.per])


def key() -> str:
    """What a baseline is for: the interpreter and the processor family."""
    return f"{platform.python_implementation()} {platform.python_version()} {platform.machine()}"


def main(*, update: bool = False) -> int:
    """Count and compare; return 1 when a path has become dearer or a count failed."""
    for tool in ("valgrind", "callgrind_control"):
        if shutil.which(tool) is None:
            raise BenchError(f"the instruction count needs {tool} on PATH")
    baselines: dict[str, dict[str, float]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    baseline = baselines.get(key(), {})
    failed = False
    counted: dict[str, float] = {}
    for name, work in WORK.items():
        try:
            counted[name] = figure = count(work)
        except BenchError as error:
            failed = True
            print(f"FAILED: {name}: {error}", flush=True)
            continue
        before = baseline.get(name)
        verdict = "no baseline"
        if before is not None:
            worse = figure > before * (1 + TOLERANCE)
            failed |= worse and not update
            verdict = f"{100 * (figure / before - 1):+.1f} % of {before:,.0f}{'  DEARER' if worse else ''}"
        print(f"{figure:10,.0f} instructions  {work.title}: {verdict}", flush=True)
    if update and not failed:
        baselines[key()] = {name: round(figure) for name, figure in counted.items()}
        unfinished = BASELINE.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(baselines, indent=1) + "\n")
        unfinished.rename(BASELINE)
        print(f"written: {BASELINE}")
    return int(failed)
