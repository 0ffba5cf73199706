"""Fixtures of the hub's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.hub.lines import Node


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield made
    for each in made.sockets:
        each.close()
