"""A REST client of a running gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.app import Gateway
from tests.rest.api import Api
from tests.rest.contract import Contract


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[Api]:
    """Requests to the gateway, as whoever the test names."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=10) as client:
        document = await client.get("/api/v1/openapi.json")
        yield Api(gateway, client, Contract.parse(document.content))
