"""Compiles the C programs of the benchmarks at their first run.

Only the benchmarks need a C compiler (``cc``, or what ``$CC`` names); the gateway does not.
The result is kept under the hash of its sources, so that it is never stale.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from bench.machine import BenchError

HERE = Path(__file__).parent
RESULTS = HERE / "results"
_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


def _compile(name: str, sources: list[Path], headers: list[Path], *flags: str) -> Path:
    digest = hashlib.sha256(" ".join((*_FLAGS, *flags)).encode())
    for path in sources + headers:
        digest.update(path.read_bytes())
    program = RESULTS / "build" / f"{name}-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise BenchError(f"the benchmarks need a C compiler; {compiler!r} is not on PATH")
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [compiler, *_FLAGS, "-o", str(unfinished), *map(str, sources), *flags],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"{name} does not compile:\n{done.stderr}")
    unfinished.rename(program)
    return program


def load_generator(*, tls: bool = False) -> Path:
    """Return the compiled load generator; ``tls`` needs OpenSSL's headers (``libssl-dev``)."""
    folder = HERE / "load"
    sources, headers = sorted(folder.glob("*.c")), sorted(folder.glob("*.h"))
    if tls:
        return _compile("load-tls", sources, headers, "-DWITH_TLS", "-lssl", "-lcrypto")
    return _compile("load", sources, headers)


def limit() -> Path:
    """Return the compiled send loop of bench/peers/limit.c."""
    return _compile("limit", [HERE / "peers" / "limit.c"], [])
