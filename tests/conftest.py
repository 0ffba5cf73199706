"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.negotiation import CODECS
from tests.support import start_gateway


@pytest.fixture
async def gateway(nursery: trio.Nursery) -> AsyncIterator[Gateway]:
    """A running gateway on a free port, in the test's own Trio loop."""
    yield await start_gateway(nursery)


@pytest.fixture(params=CODECS.values(), ids=lambda codec: codec.name)
def codec(request: pytest.FixtureRequest) -> Codec:
    """Each codec in turn."""
    found: Codec = request.param
    return found


@pytest.fixture
def clock() -> MockClock:
    """A virtual clock that jumps whenever nothing else can be done; a test that takes it runs on it."""
    return MockClock(autojump_threshold=0)
