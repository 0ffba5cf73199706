"""Gateways with other settings than the default ones."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from gateway.app import Gateway
from tests.support import start_gateway


@pytest.fixture
async def gateway_keeping_three(nursery: trio.Nursery) -> AsyncIterator[Gateway]:
    """A gateway that keeps the last three events of each room."""
    yield await start_gateway(nursery, history={"messages": 3})
