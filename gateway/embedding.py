"""A gateway inside another Trio program."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import trio

from gateway.app import Gateway
from gateway.config.settings import Settings

__all__ = ["open_gateway"]


@contextlib.asynccontextmanager
async def open_gateway(settings: Settings, *, app: Any = None) -> AsyncIterator[Gateway]:
    """A gateway that listens for the length of the block; ``gateway.port`` is the bound port.

    ``app`` is an ASGI application for Trio (Quart-Trio; others on anyio) on the same port: it answers HTTP
    requests for all paths but those of the gateway, which are ``/ws``, ``/api/v1/``, ``/healthz``,
    ``/readyz``, ``/metrics`` and ``/client.js``. Its lifespan is that of the gateway. It gets no WebSockets.

    At the end of the block it stops as SIGTERM makes it: clients are asked to leave, queues are flushed, and
    what is open after ``drain.timeout`` and ``shutdown_timeout`` is cut off. A block that raises or is
    cancelled cuts everything off at once. One process serves, whatever ``settings.workers`` says.

    Raises ``SettingsError`` when the configuration cannot be used, OSError when the port is taken.
    """
    gateway = Gateway(settings, app=app)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(gateway.run)
            yield gateway
            gateway.stop()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None
