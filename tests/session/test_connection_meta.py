"""The claim ``meta``: a map of the application's own, shown with the connection."""

from __future__ import annotations

import httpx
import jwt
import pytest

from gateway.app import Gateway
from gateway.testing.settings import SECRET
from tests.support import connected

META = {"device": "tablet", "seat": 7}


def token(user: str, **claims: object) -> str:
    return jwt.encode({"org": "acme", "sub": user, **claims}, SECRET, algorithm="HS256")


async def test_it_is_shown_to_oneself_and_to_services_and_kept_by_renewal(gateway: Gateway) -> None:
    async with connected(gateway, token=token("alice", meta=META)) as alice, httpx.AsyncClient() as http:
        assert (await alice.ask("info")).data["meta"] == META
        address = f"http://127.0.0.1:{gateway.port}/api/v1"

        async def listed(bearer: str) -> list[object]:
            answer = await http.get(f"{address}/connections", headers={"Authorization": f"Bearer {bearer}"})
            return [each.get("meta") for each in answer.json()["connections"]]

        assert await listed(token("root", roles=["service"])) == [META]
        assert await listed(token("bob", rooms={"*": ["presence"]})) == [None]
        answer = await http.post(
            f"{address}/auth/refresh",
            headers={"Authorization": f"Bearer {token('alice', meta=META)}"},
            json={},
        )
    async with connected(gateway, token=answer.json()["token"]) as again:
        assert (await again.ask("info")).data["meta"] == META


@pytest.mark.parametrize("meta", [{"x": "y" * 1024}, {"deep": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}, "text"])
async def test_one_that_cannot_be_shown_is_refused(gateway: Gateway, meta: object) -> None:
    async with httpx.AsyncClient() as http:
        answer = await http.get(
            f"http://127.0.0.1:{gateway.port}/api/v1/stats",
            headers={"Authorization": f"Bearer {token('alice', meta=meta)}"},
        )
    assert (answer.status_code, answer.json()["code"]) == (401, 200)
    assert "meta" in answer.json()["detail"]
