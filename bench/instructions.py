"""Counts the instructions of the hot paths, which a busy machine does not change.

``python -m bench instructions`` runs ``bench/paths.py`` under ``valgrind --tool=callgrind`` and counts
what each path takes per delivery, command or echo. The figures are held against
``bench/instructions.json``: more than TOLERANCE above it fails. ``--update`` writes them there, for this
Python on this processor family; another Python counts differently and has an entry of its own.

What the kernel does in send() and recv() is not counted; the other benchmarks show it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import build
from bench.machine import BenchError
from bench.paths import PASSES, PATHS

BASELINE = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.05
TIMEOUT = 120.0


def count() -> Iterator[tuple[str, float]]:
    """Name and instructions per message of every path; raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        output = Path(name) / "callgrind.out"
        tool = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}"]
        environment = {**os.environ, "PYTHONPATH": str(build.HERE.parent), "PYTHONHASHSEED": "0"}
        command = [*tool, sys.executable, "-m", "bench.paths", "--steps"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                for number, (name, path) in enumerate(PATHS.items(), 1):
                    _wait(process, f"begin {name}")
                    _control(process.pid, "--instr=on")
                    _control(process.pid, "--zero")
                    _go_on(process)
                    _wait(process, f"end {name}")
                    _control(process.pid, "--dump")
                    _control(process.pid, "--instr=off")
                    _go_on(process)
                    yield name, _counted(Path(f"{output}.{number}")) / PASSES / path.messages
            finally:
                process.kill()


def _wait(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    told = process.stdout.readline().strip()
    if told != line:
        raise BenchError(f"bench.paths said {told!r} where {line!r} was expected")


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _control(pid: int, argument: str) -> None:
    done = subprocess.run(
        ["callgrind_control", argument, str(pid)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode or "error" in done.stdout.lower():
        raise BenchError(f"callgrind_control {argument}: {done.stdout}{done.stderr}")


def _counted(dump: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    if found is None:
        raise BenchError("callgrind wrote no totals")
    return int(found[1])


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
    for name, figure in count():
        counted[name] = figure
        before = baseline.get(name)
        verdict = "no baseline"
        if before is not None:
            worse = figure > before * (1 + TOLERANCE)
            failed |= worse and not update
            verdict = f"{100 * (figure / before - 1):+.1f} % of {before:,.0f}{'  DEARER' if worse else ''}"
        print(f"{figure:10,.0f} instructions  {PATHS[name].title}: {verdict}", flush=True)
    if update and not failed:
        baselines[key()] = {name: round(figure) for name, figure in counted.items()}
        unfinished = BASELINE.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(baselines, indent=1) + "\n")
        unfinished.rename(BASELINE)
        print(f"written: {BASELINE}")
    return int(failed)
