"""A REST client of a running gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.app import Gateway
from tests.rest.api import Api
from tests.rest.contract import Contract

_contracts: list[Contract] = []
"""The document is the same for every gateway, and takes a while to make."""


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[Api]:
    """Requests to the gateway, as whoever the test names."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=10) as client:
        if not _contracts:
            document = await client.get("/api/v1/openapi.json")
            _contracts.append(Contract.parse(document.content))
        yield Api(gateway, client, _contracts[0])


@pytest.fixture
def openapi(api: Api) -> dict[str, Any]:
    """The OpenAPI document."""
    return api.contract.document
