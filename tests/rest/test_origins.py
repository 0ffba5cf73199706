"""Pages of other origins: the same may ask over REST that may connect."""

from __future__ import annotations

import httpx
import pytest

from gateway.app import Gateway
from tests.rest.api import Api
from tests.support import running_gateway

OURS, THEIRS = "https://app.example.com", "https://evil.example.com"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


async def ask(gateway: Gateway, method: str, path: str, origin: str) -> httpx.Headers:
    headers = {"Origin": origin, **(PREFLIGHT if method == "OPTIONS" else {})}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as client:
        return (await client.request(method, path, headers=headers)).headers


@pytest.mark.parametrize("path", ["/client.js", "/api/v1/stats", "/nothing"])
async def test_every_origin_may_ask_when_none_is_named(gateway: Gateway, path: str) -> None:
    assert (await ask(gateway, "GET", path, THEIRS))["Access-Control-Allow-Origin"] == "*"


async def test_only_named_origins_may_ask() -> None:
    async with running_gateway(allowed_origins=[OURS]) as gateway:
        for path in ("/docs", "/api/v1/stats"):
            ours = await ask(gateway, "GET", path, OURS)
            assert ours["Access-Control-Allow-Origin"] == OURS and "Origin" in ours["Vary"].split(", ")
            theirs = await ask(gateway, "GET", path, THEIRS)
            assert "Access-Control-Allow-Origin" not in theirs
            assert "Origin" in theirs["Vary"].split(", ")
        assert (await ask(gateway, "GET", "/client.js", THEIRS))["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Methods" not in await ask(gateway, "OPTIONS", "/api/v1/stats", THEIRS)


async def test_a_preflight_allows_what_a_page_needs(gateway: Gateway) -> None:
    headers = await ask(gateway, "OPTIONS", "/api/v1/broadcast", OURS)
    assert "POST" in headers["Access-Control-Allow-Methods"].split(", ")
    allowed = headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert {"authorization", "content-type"} <= set(allowed)
    assert "Access-Control-Allow-Credentials" not in headers


async def test_answers_without_an_origin_stay_as_they_are(api: Api) -> None:
    assert "Vary" not in (await api.get("/stats")).headers
