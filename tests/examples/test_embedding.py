"""A Quart-Trio application and a gateway on one port, by the public API alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trio
from quart_trio import QuartTrio

from gateway import Gateway, open_gateway
from gateway.client import connect
from gateway.rest.app import OWN_PATHS
from gateway.testing.settings import make_settings
from tests.examples.support import EXAMPLES, running
from tests.support import DEADLINE


async def test_the_example(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "embedded_quart.py")]
    async with running(command, cwd=tmp_path) as program:
        await program.listens()
        http = program.http
        assert "Trireme({ token })" in (await http.get("/")).text
        assert (await http.get("/client.js")).headers["Content-Type"].startswith("text/javascript")
        token = (await http.get("/login")).json()["token"]
        async with connect(f"ws://127.0.0.1:{program.port}", token=token) as client:
            await client.join("notes")
            answer = await http.post("/notes", json={"text": "buy milk"})
            assert (answer.status_code, answer.json()) == (201, {"seq": 1})
            with trio.fail_after(DEADLINE):
                event = await anext(client)
            assert (event.event, event.data) == ("note", {"text": "buy milk"})
            assert await client.call("notes.count") == 1


class Guest:
    """An application that notes its lifespan."""

    def __init__(self) -> None:
        self.app = QuartTrio("guest")
        self.said: list[str] = []
        self.app.before_serving(self.begin)
        self.app.after_serving(self.end)
        self.app.route("/<path:path>", methods=["GET", "POST"])(self.answer)
        self.app.route("/")(self.answer)

    async def begin(self) -> None:
        self.said.append("begin")

    async def end(self) -> None:
        self.said.append("end")

    async def answer(self, path: str = "") -> str:
        if path == "broken":
            raise RuntimeError("as the test wants it")
        return f"guest: /{path}"


@contextlib.asynccontextmanager
async def hosting(guest: Guest) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    async with open_gateway(make_settings(), app=guest.app) as gateway:
        base = f"http://127.0.0.1:{gateway.port}"
        async with httpx.AsyncClient(base_url=base, timeout=DEADLINE) as http:
            yield gateway, http


async def test_each_has_its_paths_and_its_life() -> None:
    guest = Guest()
    async with hosting(guest) as (_, http):
        assert guest.said == ["begin"]
        for path in ("/", "/docs", "/api/v2/stats", "/health", "/assets/a.js"):
            assert (await http.get(path)).text == f"guest: {path}"
        for path in ("/healthz", "/readyz", "/metrics", "/client.js", "/api/v1/openapi.json"):
            answer = await http.get(path)
            assert answer.status_code == 200 and "guest" not in answer.text
        assert (await http.get("/api/v1/nothing")).json()["code"] == 109
        assert (await http.get("/broken")).status_code == 500
        assert (await http.post("/form", content=b"x" * 100_000)).text == "guest: /form"
    assert guest.said == ["begin", "end"]


async def test_the_gateways_paths_are_all_its_own(gateway: Gateway) -> None:
    """But the console, its assets and the API's documentation, which give way."""
    document = await _get_openapi(gateway)
    assert document and all(path.startswith(OWN_PATHS) for path in document)


async def _get_openapi(gateway: Gateway) -> list[str]:
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{gateway.port}/api/v1/openapi.json")
        return list(answer.json()["paths"])


async def test_a_guest_that_cannot_start_stops_the_start() -> None:
    guest = Guest()

    async def fail() -> None:
        raise RuntimeError("no database")

    guest.app.before_serving(fail)
    with pytest.raises(BaseException) as caught:
        async with hosting(guest):
            raise AssertionError("this must not be reached")
    assert "this must not be reached" not in repr(caught.value)
