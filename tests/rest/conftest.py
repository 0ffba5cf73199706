"""A REST client of a running gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.app import Gateway
from tests.rest.api import Api, asking


@pytest.fixture
async def api(gateway: Gateway) -> AsyncIterator[Api]:
    """Requests to the gateway, as whoever the test names."""
    async with asking(gateway) as found:
        yield found


@pytest.fixture
def openapi(api: Api) -> dict[str, Any]:
    """The OpenAPI document."""
    return api.contract.document
