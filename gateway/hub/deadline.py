"""A bound for every wait for the broker."""

from __future__ import annotations

from typing import Any

import trio

from protocol.errors import ErrorCode, ProtocolError

__all__ = ["deadline"]


class deadline:
    """``trio.fail_after`` that fails with a numbered error: TIMEOUT (303)."""

    def __init__(self, seconds: float) -> None:
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    def __enter__(self) -> None:
        self._scope.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        handled = self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise ProtocolError(ErrorCode.TIMEOUT, "the broker did not answer in time", retry_after=1.0)
        return handled
