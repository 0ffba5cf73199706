"""The command ``gateway`` as a process of its own, in a folder that holds nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jwt
import trio

__all__ = ["DEADLINE", "Folder", "Served", "lines_of", "process", "serving"]

COMMAND = str(Path(sys.executable).with_name("gateway"))
DEADLINE = 90.0
"""Seconds; a start takes about one on an idle machine."""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Folder:
    """Where commands run; of settings they get what is in ``environ``."""

    path: Path
    environ: dict[str, str]
    program: tuple[str, ...] = (COMMAND,)

    def of_release(self, wheel: Path) -> Folder:
        """The same, for commands of another release, with the dependencies of this one."""
        where = self.path / wheel.stem
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(where)
        program = (sys.executable, "-c", "from gateway.cli import main; main()")
        return Folder(self.path, {**self.environ, "PYTHONPATH": str(where)}, program)

    def options(self, **environ: str) -> dict[str, Any]:
        found = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
        clean = {**found, **self.environ, **environ}
        return {"cwd": self.path, "env": clean}

    async def run(self, *arguments: str, **environ: str) -> Result:
        with trio.fail_after(DEADLINE):
            done = await trio.run_process(
                [*self.program, *arguments],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                **self.options(**environ),
            )
        result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in result.err + result.out
        return result

    async def refused(self, *arguments: str, code: int = 2, **environ: str) -> str:
        """The one line on standard error of a command that fails."""
        result = await self.run(*arguments, **environ)
        assert (result.code, result.out) == (code, "")
        (line,) = result.err.splitlines()
        assert line.startswith("gateway: ")
        return line

    async def token(self, *arguments: str, **environ: str) -> dict[str, Any]:
        """The claims of the token that ``gateway token`` prints."""
        result = await self.run("token", *arguments, **environ)
        assert (result.code, result.err) == (0, "")
        secret = (
            self.environ.get("GATEWAY_AUTH_SECRET") or (self.path / "data" / "dev-secret").read_text().strip()
        )
        claims: dict[str, Any] = jwt.decode(result.out.strip(), secret, ["HS256"])
        return claims


class Served:
    """A running ``gateway serve``."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.port = 0
        self._ready = trio.Event()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def http(self) -> str:
        """The address for REST."""
        return f"http://127.0.0.1:{self.port}"

    async def read(self) -> None:
        """Keep the pipe empty, and note where the gateway listens."""
        assert self.process.stderr is not None
        async for line in lines_of(self.process.stderr):
            self.lines.append(line)
            if '"listening"' in line:
                self.port = json.loads(line)["port"]
                self._ready.set()
        self._ready.set()

    async def ready(self) -> None:
        with trio.fail_after(DEADLINE):
            await self._ready.wait()
        assert self.port, self.lines


async def lines_of(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    buffer = b""
    async for chunk in stream:
        *lines, buffer = (buffer + chunk).split(b"\n")
        for line in lines:
            yield line.decode()


@asynccontextmanager
async def process(folder: Folder, *arguments: str, **streams: Any) -> AsyncIterator[trio.Process]:
    """A command in the background; ended at the end of the block if it still runs."""
    running = await trio.lowlevel.open_process([*folder.program, *arguments], **streams, **folder.options())
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        with trio.CancelScope(shield=True):
            await running.wait()


@asynccontextmanager
async def serving(folder: Folder, *arguments: str, **environ: str) -> AsyncIterator[Served]:
    command = ("serve", "--port", "0", *arguments)
    folder = replace(folder, environ={**folder.environ, **environ})
    async with process(folder, *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        served = Served(running)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.read)
            await served.ready()
            yield served
            nursery.cancel_scope.cancel()
