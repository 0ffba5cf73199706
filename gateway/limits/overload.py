"""Load shedding: when the node cannot keep up, the new and the unimportant are refused first.

The node is overloaded when its event loop comes late, or its memory grows above a bound.
Then new connections are refused with 503, and ordinary publishes with a numbered error that says
when to come again; critical publishes and everything else go on. It recovers by itself,
at half the bound and not before a second of calm, so that it does not flap.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import structlog
import trio

from gateway.config.settings import OverloadSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Overload"]

log = structlog.get_logger(__name__)

_INTERVAL: Final = 0.25
_CALM: Final = 4
"""Samples below half the bound before the node takes everything again."""
_STATM: Final = Path("/proc/self/statm")
_GROUP_BOUNDS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""As a container sees its own control group, of either version."""


class Overload:
    """Whether this node sheds load, and why."""

    def __init__(self, settings: OverloadSettings, *, workers: int = 1) -> None:
        """``workers`` processes share the memory of the machine."""
        self._settings = settings
        self._memory = settings.memory_bytes or int(settings.memory_share * available_bytes() / workers)
        self._calm = 0
        self.reason: str | None = None
        """Why load is shed; None while it is not."""
        self.refused = 0
        """Publishes and connections refused since the start."""

    @property
    def retry_after(self) -> float:
        """Seconds after which the refused may try again."""
        return self._settings.retry_after

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            due = trio.current_time() + _INTERVAL
            await trio.sleep_until(due)
            self.sample(trio.current_time() - due, resident_bytes())

    def sample(self, lag: float, memory: int) -> None:
        """Judge one sample of loop lag, in seconds, and resident memory, in bytes."""
        settings = self._settings
        load, reason = 0.0, ""
        if settings.loop_lag and lag / settings.loop_lag > load:
            load, reason = lag / settings.loop_lag, "the event loop lags"
        if self._memory and memory / self._memory > load:
            load, reason = memory / self._memory, "memory is short"
        if load >= 1:
            if self.reason is None:
                log.warning("shedding load", reason=reason, lag=round(lag, 3), memory=memory)
            self.reason = reason
            self._calm = 0
        elif self.reason is not None:
            # Memory seldom shrinks by half: for it, below nine tenths is calm.
            calm = load < (0.9 if self.reason == "memory is short" else 0.5)
            self._calm = self._calm + 1 if calm else 0
            if self._calm >= _CALM:
                log.info("accepting full load again")
                self.reason = None

    def refuse_publish(self) -> None:
        """Raise OVERLOADED, if load is shed."""
        if self.reason is not None:
            self.refused += 1
            raise ProtocolError(
                ErrorCode.OVERLOADED,
                f"the gateway is overloaded: {self.reason}",
                retry_after=self._settings.retry_after,
            )


def available_bytes() -> int:
    """Memory that this process may have: the machine's, or its control group's; 0 where nobody tells."""
    try:
        bounds = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (OSError, ValueError):
        return 0
    for file in _GROUP_BOUNDS:
        with contextlib.suppress(OSError, ValueError):  # there is none, or it says "max"
            bounds.append(int(file.read_text()))
    return min(bounds)


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
