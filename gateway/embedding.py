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
    requests for all paths except those of the gateway: ``/ws``, ``/api/v1/``, ``/healthz``,
    ``/readyz``, ``/metrics`` and ``/client.js``. Its lifespan is that of the gateway. It receives no
    WebSocket requests.

    At the end of the block the gateway stops as on SIGTERM: clients are asked to leave, queues are flushed,
    and connections still open after ``drain.timeout`` and ``shutdown_timeout`` seconds are closed. If the
    block raises or is cancelled, everything is closed at once. ``settings.workers`` does not apply: one
    process serves.

    Raises ``SettingsError`` for an invalid configuration, OSError when the port is in use.
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
