"""Asking the REST side of a running gateway, with a token or without."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

from gateway.app import Gateway
from tests.rest.contract import Contract

SERVICE = {"roles": ["service"], "user": "backend"}
ADMIN = {"roles": ["admin"], "user": "root"}


class Api:
    """Requests under ``/api/v1`` with a token made of ``claims``, by default of the service of acme.

    Every answer is held against the OpenAPI document.
    """

    def __init__(self, gateway: Gateway, client: httpx.AsyncClient, contract: Contract) -> None:
        self.gateway = gateway
        self.client = client
        self.contract = contract

    def token(self, **claims: Any) -> str:
        return self.gateway.auth.issue(**{"org": "acme", **(claims or SERVICE)}).token

    async def request(
        self, method: str, path: str, *, token: str | None = None, headers: Any = None, **options: Any
    ) -> httpx.Response:
        claims = options.pop("claims", {})
        token = self.token(**claims) if token is None else token
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        response = await self.client.request(method, f"/api/v1{path}", headers=headers, **options)
        self.contract.check(response)
        return response

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        if json is not None:
            options["json"] = json
        return await self.request("POST", path, **options)


_contracts: list[Contract] = []
"""The document is the same for every gateway, and takes a while to make."""


@contextlib.asynccontextmanager
async def asking(gateway: Gateway) -> AsyncIterator[Api]:
    """Requests to ``gateway``, as whoever the test names."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=60) as client:
        if not _contracts:
            document = await client.get("/api/v1/openapi.json")
            _contracts.append(Contract.parse(document.content))
        yield Api(gateway, client, _contracts[0])


def problem(response: httpx.Response, status: int, code: int) -> str:
    """Check that ``response`` is the problem document of ``code``; returns its ``detail``."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["code"] == code
    assert document["type"] == f"/docs#error-{code}"
    assert document["title"]
    assert document["detail"]
    assert set(document) <= {"type", "title", "status", "detail", "code", "retry_after"}
    if status == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
    return str(document["detail"])


def success(response: httpx.Response) -> Any:
    """Check that ``response`` is a success; returns its content."""
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    return response.json()
