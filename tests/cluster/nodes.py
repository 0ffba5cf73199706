"""Nodes on one broker: in this process where that will do, or as processes, which can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from gateway.app import Gateway
from gateway.auth.tokens import Authenticator
from gateway.config.settings import AuthSettings
from gateway.testing.settings import SECRET
from tests.cluster.proxy import Proxy
from tests.redis_server import RedisServer, free_port, mortal, redis_server
from tests.secure import tls_settings
from tests.support import start_gateway

__all__ = ["HASTY", "Cluster", "Process", "cluster", "nodes_on", "processes", "workers"]

HASTY: Mapping[str, Any] = {
    "timeout": 1.0,
    "patience": 0.3,
    "retry_after": 0.1,
    "max_backoff": 0.2,
    "heartbeat": 0.5,
}
"""Settings of the broker with which short outages are long ones."""
NAMES = ("n1", "n2")
_HISTORY = {"messages": 100_000, "bytes": 2**30}
"""More than is published: a node that was away for a while is to find all of it."""


@dataclass
class Cluster:
    """Two nodes in this process, each behind a proxy of its own, and the broker."""

    server: RedisServer
    proxies: list[Proxy]
    nodes: list[Gateway]


@contextlib.asynccontextmanager
async def cluster(
    folder: Path,
    redis: Mapping[str, Any],
    *,
    persistent: bool = True,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[Cluster]:
    """For the length of the block; ``redis`` are the settings of that group, ``environ`` is the broker's."""
    async with (
        redis_server(folder, persistent=persistent, environ=environ) as server,
        trio.open_nursery() as nursery,
    ):
        proxies = [Proxy(server.port) for _ in NAMES]
        for proxy in proxies:
            await nursery.start(proxy.run)
        # Nodes end before their proxies: they write until the last moment.
        async with nodes_on([f"redis://127.0.0.1:{proxy.port}" for proxy in proxies], redis) as nodes:
            yield Cluster(server, proxies, nodes)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def nodes_on(brokers: Sequence[str], redis: Mapping[str, Any]) -> AsyncIterator[list[Gateway]]:
    """Two nodes in this process, each with its address of the broker."""
    async with trio.open_nursery() as nursery:
        yield [
            await start_gateway(nursery, node=name, broker=broker, redis=dict(redis), history=_HISTORY)
            for name, broker in zip(NAMES, brokers, strict=True)
        ]
        nursery.cancel_scope.cancel()


class Process:
    """A node as a process."""

    def __init__(
        self, name: str, broker: str, folder: Path, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.auth = Authenticator(AuthSettings(secret=SECRET))
        history = {f"GATEWAY_HISTORY_{key.upper()}": str(value) for key, value in _HISTORY.items()}
        environment = {**os.environ, "GATEWAY_AUTH_SECRET": SECRET, "GATEWAY_NODE": name, **history}
        tls = {f"GATEWAY_TLS_{key.upper()}": value for key, value in tls_settings().items()}
        environment |= {**tls, **(environ or {})}
        command = (
            *mortal(), str(Path(sys.executable).parent / "gateway"), "serve", "--port", str(self.port),
            "--broker", broker, "--database", f"sqlite:///{folder / name}.db", *arguments,
        )  # fmt: skip
        self.log = folder / f"{name}.log"
        self._log = self.log.open("wb")
        self._process = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )

    async def listening(self) -> None:
        """Wait until it takes connections."""
        while True:
            assert self._process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                await (await trio.open_tcp_stream("127.0.0.1", self.port)).aclose()
                return
            await trio.sleep(0.05)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind so far."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    async def until_logged(self, event: str, count: int = 1) -> None:
        """Wait for so many of them."""
        with trio.fail_after(120):
            while len(self.logged(event)) < count:  # noqa: ASYNC110 - another process writes it
                await trio.sleep(0.05)

    def reload(self) -> None:
        """Ask a supervisor to replace its workers."""
        self._process.send_signal(signal.SIGHUP)

    def pause(self) -> None:
        """It does nothing any more; its connections stay."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without notice."""
        self._process.kill()
        self._process.wait()
        self._log.close()


@contextlib.asynccontextmanager
async def processes(broker: str, folder: Path) -> AsyncIterator[list[Process]]:
    """Two nodes as processes."""
    nodes: list[Process] = []
    try:
        for name in NAMES:
            nodes.append(Process(name, broker, folder))
        with trio.fail_after(60):
            for node in nodes:
                await node.listening()
        yield nodes
    finally:
        for node in nodes:
            node.kill()


@contextlib.asynccontextmanager
async def workers(broker: str, folder: Path, **environ: str) -> AsyncIterator[Process]:
    """A supervisor with two workers on one port; killed, it takes them with it."""
    process = Process("w", broker, folder, "--workers", "2", environ=environ)
    try:
        await process.until_logged("all workers listen")
        yield process
    finally:
        process.kill()
