"""One measurement of a server that has its messages through Redis.

The server that is measured has a core for itself. Redis, and the node or process that publishes, are on
the core of the load.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench import redis
from bench.generator import Load, Plan
from bench.helper import Helper
from bench.machine import LOAD_CORE, SERVER_CORE, free_port
from bench.server import Command, Server
from bench.session import Session
from bench.subjects import Setting, Subject

Feeder = Callable[[Setting], Command]
"""How to start a process that publishes: ``bench/feeders``."""


class _Cluster:
    """Starts servers that know of each other."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.secret = secrets.token_hex(32)
        port = free_port()
        self.redis = self._start("redis", redis.command(port), port, LOAD_CORE)
        self.options = {"redis": redis.url(port)}

    def _start(self, name: str, command: Command, port: int, core: int) -> Server:
        return self.stack.enter_context(Server(command, port, self.folder_of(name), core=core))

    def folder_of(self, name: str) -> Path:
        """A folder of its own for each of them."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def node(self, name: str, subject: Subject, core: int) -> tuple[Server, int]:
        """A node of ``subject``, and its port."""
        port = free_port()
        setting = Setting(port, self.folder_of(name), self.secret, self.options)
        return self._start(name, subject.command(setting), port, core), port


@contextlib.contextmanager
def joined(subject: Subject, plan: Plan, *, second: bool = False) -> Iterator[Session]:
    """A node on Redis with the receivers; with ``second`` the publishers are on another one."""
    with _started() as cluster:
        server, port = cluster.node("node", subject, SERVER_CORE)
        beside = {"redis": cluster.redis.pid}
        if second:
            other, other_port = cluster.node("second", subject, LOAD_CORE)
            beside["second"] = other.pid
            plan = replace(plan, publisher_port=other_port)
        load = cluster.stack.enter_context(Load(plan, port, cluster.folder_of("load"), cluster.secret))
        yield Session(server, load, beside=beside)


@contextlib.contextmanager
def fed(
    subject: Subject, plan: Plan, feeder: Feeder, *, through: bool = False
) -> Iterator[tuple[Session, Helper]]:
    """A node on Redis with the receivers, and a process that publishes.

    It publishes straight into Redis, or ``through`` a second node.
    """
    with _started() as cluster:
        server, port = cluster.node("node", subject, SERVER_CORE)
        beside = {"redis": cluster.redis.pid}
        feeder_port = 0
        if through:
            other, feeder_port = cluster.node("second", subject, LOAD_CORE)
            beside["second"] = other.pid
        setting = Setting(feeder_port, cluster.folder_of("feeder"), cluster.secret, cluster.options)
        command = feeder(setting)
        helper = cluster.stack.enter_context(Helper(command.arguments, command.environment))
        beside["feeder"] = helper.pid
        load = cluster.stack.enter_context(Load(plan, port, cluster.folder_of("load"), cluster.secret))
        yield Session(server, load, beside=beside), helper


@contextlib.contextmanager
def _started() -> Iterator[_Cluster]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, contextlib.ExitStack() as stack:
        yield _Cluster(stack, Path(folder))
