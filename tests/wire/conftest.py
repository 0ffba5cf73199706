"""Fixtures for the tests of the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from gateway.wire.connection import WireLimits
from tests.wire.conversations import LIMIT
from tests.wire.support import WireServer


@pytest.fixture
async def echo(nursery: trio.Nursery) -> AsyncIterator[WireServer]:
    """The benchmark's echo, with messages of at most ``LIMIT`` bytes."""
    server = WireServer(limits=WireLimits(message_bytes=LIMIT))
    await nursery.start(server.run)
    yield server
