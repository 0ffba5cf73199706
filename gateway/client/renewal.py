"""Renewing the token of an open connection before it expires, by the gateway's clock."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from gateway.client.backoff import Backoff

__all__ = ["Renewal"]

_EARLIEST: Final = 60.0
"""Seconds before the end of a token of five minutes or more; of a shorter one it is a fifth of its time."""
_PAUSE: Final = 1.0
"""Seconds between two renewals at least, however short the tokens are."""

log = logging.getLogger("gateway.client")


class Renewal:
    """When the token of one connection has to be renewed. Uses Trio's clock, which nobody sets."""

    def __init__(self, now: int, expires: int | None) -> None:
        """``now`` is what the gateway's clock shows, ``expires`` when the token ends (None: never).

        Both are in milliseconds since 1970 UTC.
        """
        self._offset = now / 1000 - anyio.current_time()
        self._changed = anyio.Event()
        self._due: float | None
        self.renewed(expires)

    def renewed(self, expires: int | None) -> None:
        """The connection's token ends at ``expires`` now."""
        if expires is None:
            self._due = None
        else:
            left = expires / 1000 - self._offset - anyio.current_time()
            self._due = anyio.current_time() + max(_PAUSE, left - min(_EARLIEST, left / 5))
        self._changed.set()
        self._changed = anyio.Event()

    async def run(
        self,
        token: Callable[[], Awaitable[str]],
        refresh: Callable[[str], Awaitable[object]],
        timeout: float,
    ) -> None:
        """Renew for as long as the connection lives; ``token`` has ``timeout`` seconds, and another try."""
        policy = Backoff()
        failures = 0
        while True:
            await self._until_due()
            try:
                with anyio.fail_after(timeout):
                    fresh = await token()
                await refresh(fresh)
                failures = 0
            except Exception as error:
                # Whatever the callable raised, the token is still good for a while.
                failures += 1
                reason = f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else error
                log.warning("the token could not be renewed: %s", reason)
                self._due = anyio.current_time() + max(_PAUSE, policy.delay(failures))

    async def _until_due(self) -> None:
        while True:
            changed = self._changed
            with anyio.CancelScope() as scope:
                if self._due is not None:
                    scope.deadline = self._due
                await changed.wait()
            if scope.cancelled_caught:
                return
