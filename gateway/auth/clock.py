"""The clock that tickets and key sets live by."""

from __future__ import annotations

__all__ = ["running_time"]


def running_time() -> float:
    """Seconds of Trio's clock, which never go back; only inside ``trio.run``."""
    import trio  # here, because `gateway token` needs no event loop and would wait for its import

    return trio.current_time()
