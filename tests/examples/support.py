"""The programs of ``examples/``, run as they stand beside a gateway of the test."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx
import trio

from gateway.app import Gateway
from tests.processes import DEADLINE

__all__ = ["EXAMPLES", "Running", "bound", "fastapi", "running"]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
_ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Running:
    """A program that runs: what it has printed, and where it listens."""

    def __init__(self) -> None:
        self.printed = ""
        self.port = 0
        self.http = httpx.AsyncClient(timeout=DEADLINE)
        self._heard = trio.Event()

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        async for chunk in stream:
            self.printed += chunk.decode()
            self._heard.set()
            self._heard = trio.Event()
        self._heard.set()

    async def says(self, text: str) -> None:
        """Wait until it has printed ``text``."""
        with trio.fail_after(DEADLINE):
            while text not in self.printed:
                await self._heard.wait()

    async def listens(self) -> None:
        """Wait until it has printed where."""
        await self.says("http://127.0.0.1:")
        await self.says("\n")
        found = _ADDRESS.search(self.printed)
        assert found, self.printed
        self.port = int(found[1])
        self.http.base_url = httpx.URL(f"http://127.0.0.1:{self.port}")


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str],
    *,
    gateway: Gateway | None = None,
    cwd: Path = EXAMPLES,
    fds: Sequence[int] = (),
    **environ: str,
) -> AsyncIterator[Running]:
    """A program in the background, told where ``gateway`` is; it is ended at the end of the block."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PORT": "0", **environ}
    if gateway is not None:
        environ["TRIREME"] = f"http://127.0.0.1:{gateway.port}"
        environ["TOKEN"] = gateway.auth.issue(org="acme", user="backend", roles=["service"]).token
    process = await trio.lowlevel.open_process(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, env=environ, pass_fds=fds
    )
    program = Running()
    assert process.stdout is not None
    try:
        async with program.http, trio.open_nursery() as nursery:
            nursery.start_soon(program.read, process.stdout)
            try:
                yield program
            except BaseException:
                print(program.printed)
                raise
            nursery.cancel_scope.cancel()
    finally:
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@contextlib.contextmanager
def bound() -> Iterator[socket.socket]:
    """A listening socket, so that its port is known before who answers there has started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextlib.asynccontextmanager
async def fastapi(
    name: str, gateway: Gateway, listener: socket.socket | None = None, **environ: str
) -> AsyncIterator[Running]:
    """An example that uvicorn serves."""
    where = ["--port", "0"] if listener is None else ["--fd", str(listener.fileno())]
    fds = () if listener is None else (listener.fileno(),)
    command = [sys.executable, "-m", "uvicorn", f"{name}:app", "--no-access-log", *where]
    async with running(command, gateway=gateway, fds=fds, **environ) as program:
        await program.says("Uvicorn running on")
        if listener is None:
            await program.listens()
        else:
            program.http.base_url = httpx.URL(f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield program
