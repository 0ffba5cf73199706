"""nginx and HAProxy, real ones, with the configuration files of docs/deploy; only addresses are put in."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final, Literal, Self

import httpx
import trio

from tests.docs.markdown import ROOT
from tests.e2e.prerequisites import proxy
from tests.redis_server import free_port, mortal

__all__ = ["Balancer", "Kind", "balanced"]

Kind = Literal["nginx", "haproxy"]
FOLDER: Final = ROOT / "docs" / "deploy"
PATIENCE: Final = 20.0
"""Seconds for a balancer to begin or to end."""
_NODES: Final[Mapping[Kind, tuple[str, str]]] = {
    "nginx": ("node-1:8000", "node-2:8000"),
    "haproxy": ("10.0.0.11:8000", "10.0.0.12:8000"),
}
_RELOAD: Final[Mapping[Kind, signal.Signals]] = {"nginx": signal.SIGHUP, "haproxy": signal.SIGUSR2}


class Balancer:
    """One of them, on a port of its own, in front of two nodes."""

    def __init__(self, kind: Kind, folder: Path, nodes: tuple[int, int]) -> None:
        self.kind: Kind = kind
        self.port = free_port()
        self._folder = folder
        self._log = folder / f"{kind}.log"
        self._file = folder / f"{kind}.conf"
        self._file.write_text(self._configuration(nodes))
        self._process: subprocess.Popen[bytes] | None = None

    def _configuration(self, nodes: tuple[int, int]) -> str:
        """That of docs/deploy, with the addresses of this machine."""
        name = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[self.kind]
        places = dict(zip(_NODES[self.kind], (f"127.0.0.1:{port}" for port in nodes), strict=True))
        if self.kind == "nginx":
            places["listen 8080;"] = f"listen 127.0.0.1:{self.port};"
            places["/dev/stdout"] = str(self._log)
            # Where bodies and answers go that are too large for its memory: Debian's are root's.
            paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            own = " ".join(f"{path}_temp_path {self._folder / path};" for path in paths)
            places["http {\n"] = f"http {{ {own}\n"
        else:
            places["bind :8080"] = f"bind 127.0.0.1:{self.port}"
        text = (FOLDER / name).read_text()
        for shown, real in places.items():
            assert shown in text, f"{name} does not say {shown}"
            text = text.replace(shown, real)
        return text

    def _command(self) -> list[str]:
        if self.kind == "haproxy":
            return [proxy("haproxy"), "-W", "-n", "2000", "-f", str(self._file)]
        user = "user root; " if os.geteuid() == 0 else ""  # who may look into this folder
        directives = f"daemon off; {user}pid {self._folder / 'nginx.pid'};"
        return [proxy("nginx"), "-c", str(self._file), "-e", str(self._log), "-g", directives]

    async def start(self) -> Self:
        """Start, and wait until it lets through."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it has to outlive this loop
                [*mortal(), *self._command()], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        with trio.fail_after(PATIENCE):
            async with httpx.AsyncClient() as http:
                while True:
                    assert self._process.poll() is None, self._log.read_text()
                    with contextlib.suppress(httpx.TransportError):
                        if (await http.get(f"http://127.0.0.1:{self.port}/healthz")).status_code == 200:
                            return self
                    await trio.sleep(0.02)

    async def reload(self) -> None:
        """Have it read its configuration again; connections that are open stay with the old process."""
        assert self._process is not None
        before = self._workers()
        self._process.send_signal(_RELOAD[self.kind])
        with trio.fail_after(PATIENCE):
            while not self._workers() - before:  # noqa: ASYNC110 - a process of others
                await trio.sleep(0.02)

    def _workers(self) -> set[str]:
        assert self._process is not None
        pid = self._process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())

    async def stop(self) -> None:
        """End it, with all connections."""
        if self._process is not None:
            process, self._process = self._process, None
            process.terminate()
            await trio.to_thread.run_sync(process.wait)


@contextlib.asynccontextmanager
async def balanced(kind: Kind, folder: Path, nodes: tuple[int, int]) -> AsyncIterator[Balancer]:
    """A balancer for the length of the block."""
    balancer = Balancer(kind, folder, nodes)
    try:
        yield await balancer.start()
    finally:
        with trio.CancelScope(shield=True):
            await balancer.stop()
