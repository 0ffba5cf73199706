"""Terminals of somebody who types what a page prints, in a folder that holds what a fresh clone holds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import trio

from tests.docs.markdown import ROOT, Block
from tests.e2e.prerequisites import node

__all__ = ["MAKE_RUN", "Reader", "Shared", "reader", "shared_gateway", "typing_in"]

MAKE_RUN = "make run\n"

DEADLINE = 45.0
"""Seconds for one block; none takes more than two on an idle machine."""

# An HTTP error is a failure of the example, and a curl that hangs one of the test.
_PRELUDE = 'set -euo pipefail\ncurl() { command curl --fail-with-body --max-time 20 "$@"; echo; }\n'
_READY = re.compile(r"\b(listening|following|accept connections|serving|running on)\b", re.IGNORECASE)
_PORT = re.compile(r"(?<=[:= ])(8\d{3}|6379|9\d{3})\b")
_ORGANISATION = re.compile(r"\bacme\b")
_DONE = "--- the block ended with "


@dataclass(frozen=True)
class Shared:
    """A gateway in development mode that pages use in place of one of their own."""

    port: str
    data: Path
    """The folder with its key."""


@contextmanager
def shared_gateway(folder: Path) -> Iterator[Shared]:
    """What ``make run`` starts, for as long as the block lasts."""
    command = [Path(sys.executable).with_name("gateway"), "serve", "--dev", "--port", "0"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    process = subprocess.Popen(
        command, cwd=folder, env=clean, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise AssertionError(f"it does not start:\n{said}")
        reading = Thread(target=process.stdout.read)  # or it stops when the pipe is full
        reading.start()
        try:
            yield Shared(found[1], folder / "data")
        finally:
            process.kill()
            reading.join()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Terminal:
    """One shell; what it and its programs print is in ``output``."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = ""
        self.closed = trio.Event()
        self._news = trio.Event()

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for chunk in self.process.stdout:
            self._say(chunk.decode(errors="replace"))
        self.closed.set()
        self._say("")

    def _say(self, text: str) -> None:
        self.output += text
        self._news.set()
        self._news = trio.Event()

    async def until(self, pattern: re.Pattern[str], start: int = 0) -> re.Match[str]:
        """Wait for output that matches, which must come before the shell ends."""
        with trio.fail_after(DEADLINE):
            while not (found := pattern.search(self.output, start)):
                assert not self.closed.is_set(), f"ended:\n{self.output[start:]}"
                await self._news.wait()
        return found

    def end(self, number: int = signal.SIGKILL) -> None:
        """Everything that runs in it."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass


class Reader:
    """Types the blocks of one page."""

    def __init__(self, folder: Path, nursery: trio.Nursery, environ: dict[str, str]) -> None:
        self.folder = folder
        self.terminals: dict[str, Terminal] = {}
        self._nursery = nursery
        self._environ = environ
        self._ports: dict[str, str] = {}
        self._scripts = 0
        self._last = ("", 0)
        self._shared: Shared | None = None

    def use(self, gateway: Shared) -> None:
        """``make run`` starts nothing from now on: the page has an organisation of this gateway."""
        self._shared = gateway
        self._ports["8000"] = gateway.port
        (self.folder / "data").symlink_to(gateway.data)

    def typed(self, text: str) -> str:
        """``text`` with free ports in place of those that it names: others may run on this machine."""
        if self._shared is not None:
            text = _ORGANISATION.sub(f"acme-{self.folder.name}", text)
        return _PORT.sub(lambda found: self._port(found[1]), text)

    def _port(self, printed: str) -> str:
        if printed not in self._ports:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._ports[printed] = str(free.getsockname()[1])
        return self._ports[printed]

    async def follow(self, block: Block) -> None:
        """Save a file, run a script, or compare what is printed with what came."""
        try:
            if block.file:
                path = self.folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.typed(block.text))
            elif block.text == MAKE_RUN and self._shared is not None:
                return
            elif block.language in ("sh", "bash"):
                await self._run(block)
            elif block.language == "text":
                await self._compare(block)
        except (AssertionError, trio.TooSlowError) as error:
            raise AssertionError(f"{block.where}: {error or 'takes too long'}\n{self._printed()}") from error

    async def _run(self, block: Block) -> None:
        name = block.terminal
        if name and name in self.terminals:
            before = self.terminals.pop(name)
            before.end(signal.SIGINT)
            with trio.fail_after(DEADLINE):
                await before.closed.wait()
        if name not in self.terminals:
            self.terminals[name] = await self._open()
        terminal = self.terminals[name]
        self._scripts += 1
        script = self.folder / f".block-{self._scripts}"
        script.write_text(self.typed(block.text))
        start = len(terminal.output)
        self._last = (name, start)
        assert terminal.process.stdin is not None
        await terminal.process.stdin.send_all(f"source {script} </dev/null; echo '{_DONE}'$?\n".encode())
        if name:
            await terminal.until(_READY, start)
            return
        found = await terminal.until(re.compile(re.escape(_DONE) + r"(\d+)"), start)
        assert found[1] == "0", terminal.output[start:]
        if block.text.startswith("curl "):
            assert terminal.output[start : found.start()].strip(), "prints nothing"

    async def _compare(self, block: Block) -> None:
        """The lines come in this order; ``…`` is anything. A title names the terminal that shows them."""
        name, start = (block.terminal, 0) if block.terminal else self._last
        lines = (
            ".*".join(re.escape(part) for part in line.split("…")) for line in block.text.splitlines() if line
        )
        pattern = r"[^\n]*\n(?s:.*?)".join(line.replace(".*", "[^\\n]*") for line in lines)
        await self.terminals[name].until(re.compile(self.typed(pattern)), start)

    async def _open(self) -> Terminal:
        bash = shutil.which("bash")
        assert bash, "bash is needed to run what the pages print"
        kept = {"PATH", "LANG", "LD_LIBRARY_PATH"}
        process = await trio.lowlevel.open_process(
            [bash, "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env={
                **{name: value for name, value in os.environ.items() if name in kept},
                "PATH": f"{os.environ['PATH']}:{Path(node()).parent}",
                "HOME": str(self.folder),
                "PYTHONUNBUFFERED": "1",
                "GATEWAY_PORT": self._port("8000"),
                **self._environ,
            },
            start_new_session=True,
        )
        terminal = Terminal(process)
        self._nursery.start_soon(terminal.read)
        assert process.stdin is not None
        await process.stdin.send_all(_PRELUDE.encode())
        return terminal

    def _printed(self) -> str:
        return "\n".join(
            f"[{name or 'the shell'}]\n{terminal.output[-3000:]}" for name, terminal in self.terminals.items()
        )


def _clone(folder: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".run":
            (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv" / ".run").touch()  # `make` finds everything installed


@asynccontextmanager
async def reader(folder: Path, shared: Shared | None = None) -> AsyncIterator[Reader]:
    """Somebody in a fresh clone, whose ``.venv`` is the one that the tests run in; with ``shared`` beside a
    gateway that runs already."""
    _clone(folder)
    async with typing_in(folder) as someone:
        if shared is not None:
            someone.use(shared)
        yield someone


@asynccontextmanager
async def typing_in(folder: Path, **environ: str) -> AsyncIterator[Reader]:
    """Somebody with terminals in ``folder``; at the end everything that runs in them is killed."""
    async with trio.open_nursery() as nursery:
        someone = Reader(folder, nursery, environ)
        try:
            yield someone
        finally:
            for terminal in someone.terminals.values():
                terminal.end()
                with trio.CancelScope(shield=True):
                    await terminal.process.wait()
            nursery.cancel_scope.cancel()
