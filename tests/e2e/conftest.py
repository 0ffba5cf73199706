"""One Chromium for all tests, and a network cable between a test's gateway and its page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import trio

from gateway.app import Gateway
from tests.e2e.browser import CHROMIUM, Cable


@pytest.fixture(scope="session", autouse=True)
def chromium() -> Iterator[None]:
    """It ends with the tests."""
    yield
    CHROMIUM.close()


@pytest.fixture
async def cable(gateway: Gateway, nursery: trio.Nursery) -> AsyncIterator[Cable]:
    """Leads to the gateway."""
    cable = Cable(gateway.port)
    await nursery.start(cable.run)
    yield cable
