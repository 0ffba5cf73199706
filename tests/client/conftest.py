"""Fixtures for the client's tests."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.client.scripted import ScriptedGateway


@pytest.fixture
def scripted(nursery: trio.Nursery) -> ScriptedGateway:
    """A gateway that says only what the test tells it to."""
    return ScriptedGateway(nursery)


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Trio's virtual clock, which jumps whenever everybody waits."""
    return autojump_clock
