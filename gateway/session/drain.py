"""The drain: clients leave at a set pace, so that the other nodes can take them in.

All at once they would come back all at once, each with a handshake, a token to verify and rooms
to rejoin. So they are asked to leave one after the other, and each is told another time to wait.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Set

import structlog
import trio

from gateway.config.settings import Settings
from gateway.session.session import Session
from protocol.errors import CloseCode

__all__ = ["drain"]

log = structlog.get_logger(__name__)


async def drain(sessions: Set[Session], settings: Settings) -> None:
    """Ask every one of ``sessions`` to come back elsewhere; returns when the last one was asked.

    That takes at most ``drain.timeout`` seconds: when ``drain.pace`` is too slow for so many
    clients, they leave faster, evenly all the same. What is queued for a client has ``shutdown_timeout``
    to go out after it was asked. Nobody may be added to ``sessions`` once the first has left.
    """
    staying = deque(sessions)
    least = len(staying) / settings.drain.timeout
    pace = settings.drain.pace or math.inf
    if pace < least:
        log.warning("drain.pace is too slow for drain.timeout", pace=pace, needed=round(least, 1))
        pace = least
    due = trio.current_time()
    while staying:
        session = staying.popleft()
        if session in sessions:
            await trio.sleep_until(due)
            due += 1 / pace
            _ask_to_leave(session, settings)


def _ask_to_leave(session: Session, settings: Settings) -> None:
    if session.transport.closing:
        return
    session.services.hub.counters.drained += 1
    session.close(
        CloseCode.SERVICE_RESTART,
        "the gateway is shutting down",
        retry_after=round(settings.retry_after * random.uniform(1, 2), 3),
        flush_timeout=settings.shutdown_timeout,
    )
