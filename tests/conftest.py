"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from gateway.app import Gateway
from tests.support import start_gateway


@pytest.fixture
async def gateway(nursery: trio.Nursery) -> AsyncIterator[Gateway]:
    """A running gateway on a free port, in the test's own Trio loop."""
    yield await start_gateway(nursery)
