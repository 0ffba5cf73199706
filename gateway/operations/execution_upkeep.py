"""Ends executions whose reporter has vanished, and removes old ones: by one node at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog
import trio

from protocol.errors import ProtocolError

if TYPE_CHECKING:
    from gateway.config.settings import ExecutionSettings
    from gateway.store import Store
    from gateway.store.executions import Executions

__all__ = ["Upkeep"]

log = structlog.get_logger(__name__)

_SOONEST: Final = 0.25
_LATEST: Final = 30.0
"""Seconds between two looks for stale executions: a fifth of ``executions.stale`` within these."""
_AT_ONCE: Final = 16
"""Executions that are ended at the same time."""


class Upkeep:
    """The job of one node."""

    def __init__(self, settings: ExecutionSettings) -> None:
        self._settings = settings
        self._every = _LATEST
        if settings.stale:
            self._every = min(max(settings.stale / 5, _SOONEST), _LATEST)
        self._stale = 0
        self._removed = 0

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics: name → what it is, and its value now; a name in ``_total`` is a counter's."""
        return {
            "executions_stale_total": ("Executions that this node ended as stale", self._stale),
            "executions_removed_total": ("Old executions and counts that this node removed", self._removed),
        }

    async def run(self, store: Store) -> None:
        """Do it until cancelled."""
        executions = store.executions
        while True:
            await trio.sleep(self._every)
            try:
                if await executions.upkeep.claim(3 * self._every):
                    await self._end_stale(executions)
                    self._removed += await executions.upkeep.remove(self._settings.keep)
            except ProtocolError as error:
                log.warning("maintenance of executions failed", reason=error.message)

    async def _end_stale(self, executions: Executions) -> None:
        if not self._settings.stale:
            return
        before = int((time.time() - self._settings.stale) * 1000)
        while found := await executions.upkeep.stale(before):
            limit = trio.CapacityLimiter(_AT_ONCE)
            async with trio.open_nursery() as nursery:
                for org, id in found:
                    nursery.start_soon(self._end, executions, org, id, before, limit)

    async def _end(
        self, executions: Executions, org: str, id: str, before: int, limit: trio.CapacityLimiter
    ) -> None:
        from gateway.store.executions import STALE, Change

        async with limit:
            await executions.change(org, id, Change(status="failed", error=STALE, stale_before=before))
        self._stale += 1
