"""A process that the harness commands by lines, and that answers each with a line of JSON."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from bench.machine import LOAD_CORE, BenchError, pinned


class Helper:
    """A running helper on the core of the load; leaving the context ends it.

    It ends by itself when its standard input does.
    """

    name = "helper"
    """For messages."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """``environment`` is added to ours."""
        self._arguments = arguments
        self._environment = environment or {}

    def __enter__(self) -> Any:
        with pinned(LOAD_CORE):
            self._process = subprocess.Popen(
                self._arguments,
                env={**os.environ, **self._environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
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

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

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
                raise BenchError(f"{self.name} did not finish {text!r} within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self.name} ended during {text!r}")
        return line
