"""``gateway serve --reload``: the gateway in a process of its own, started again when a file changes.

For development. A start that fails is not repeated: the next change is waited for.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog
import trio
import watchfiles

__all__ = ["serve_again"]

log = structlog.get_logger(__name__)

_PATIENCE: Final = 5.0
"""Seconds that the old process has to end; then it is killed."""


def serve_again(arguments: Sequence[str], folder: Path) -> int:
    """Run ``gateway`` with ``arguments``, again and again, until SIGINT or SIGTERM; returns the exit code."""
    script = ["-m", "gateway"] if Path(sys.argv[0]).name != "gateway" else [sys.argv[0]]
    return trio.run(_run, [sys.executable, *script, *arguments], folder)


async def _run(command: list[str], folder: Path) -> int:
    process = await trio.lowlevel.open_process(command)
    async with trio.open_nursery() as nursery:
        await nursery.start(_end_on_signal, nursery.cancel_scope)
        try:
            watched = watchfiles.PythonFilter(extra_extensions=(".toml",))
            async for changes in watchfiles.awatch(folder, watch_filter=watched, raise_interrupt=False):
                names = sorted(str(Path(name).relative_to(folder)) for _, name in changes)
                log.info("files changed; restarting", files=names[:5])
                await _end(process)
                process = await trio.lowlevel.open_process(command)
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
    return 0


async def _end(process: trio.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGTERM):  # the second one: do not wait for clients
        if process.poll() is None:
            process.send_signal(number)
            with trio.move_on_after(_PATIENCE / 2):
                await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()


async def _end_on_signal(
    scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
