"""Run ``pip install`` for the Makefile and show its progress in one line; pip's errors and exit code pass.

python3 install.py PYTHON ARGUMENTS…, where PYTHON is that of the environment to install into.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

_COLLECTING = re.compile(r"\s*Collecting ([\w.-]+)")
_INSTALLING = re.compile(r"Installing collected packages: (.*)")
_PAUSE = 0.3
"""Seconds between two looks at what is installed: pip prints nothing while it installs."""


class Line:
    """One line that is written over; where the output is no terminal, one line for each step."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._step = ""

    def show(self, step: str, detail: str) -> None:
        if self._terminal:
            print(f"\r\033[K{step} {detail}", end="", flush=True)
        elif step != self._step:
            print(step, flush=True)
        self._step = step

    def end(self) -> None:
        if self._terminal and self._step:
            print("\r\033[K", end="", flush=True)


def main(python: str, *arguments: str) -> int:
    """Returns pip's exit code."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line, found, said, done = Line(), 0, [], threading.Event()
    watching: threading.Thread | None = None
    for text in process.stdout:
        said.append(text)
        if name := _COLLECTING.match(text):
            found += 1
            line.show("[1/2] Finding and downloading packages:", f"{found} ({name[1]})")
        elif names := _INSTALLING.match(text):
            total = names[1].count(",") + 1
            watching = threading.Thread(target=_watch, args=(Path(python), total, line, done))
            watching.start()
    code = process.wait()
    done.set()
    if watching is not None:
        watching.join()
    line.end()
    if code:
        print("".join(said[-20:]), file=sys.stderr)
    return code


def _watch(python: Path, total: int, line: Line, done: threading.Event) -> None:
    def installed() -> int:
        return len(list(python.parents[1].glob("lib/python*/site-packages/*.dist-info")))

    before = installed()
    while True:
        line.show(f"[2/2] Installing {total} packages:", f"{max(installed() - before, 0)} of {total}")
        if done.wait(_PAUSE):
            return


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
