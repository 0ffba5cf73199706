"""Fixtures for the client's tests."""

from __future__ import annotations

import pytest
import trio

from tests.client.scripted import ScriptedGateway


@pytest.fixture
def scripted(nursery: trio.Nursery) -> ScriptedGateway:
    """A gateway that says only what the test tells it to."""
    return ScriptedGateway(nursery)
