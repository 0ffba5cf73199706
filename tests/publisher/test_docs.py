"""The programs of docs/client-python.md and docs/authentication.md, run as they are printed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import django
import httpx
import msgspec
import pytest
from django.conf import settings as django_settings
from django.test import RequestFactory
from django.urls import resolve

from gateway.auth.tokens import Claims
from gateway.client import connect
from gateway.testing.server import Server
from tests.e2e.prerequisites import FOLDER, install_packages, node

ROOT = Path(__file__).parents[2]
PAGES = ("docs/client-python.md", "docs/authentication.md")
BLOCK = re.compile(r"<!-- run: (\w+) -->\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROGRAMS: dict[str, str] = {
    name: text for page in PAGES for name, text in BLOCK.findall((ROOT / page).read_text())
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("TRIREME", server.url)
    monkeypatch.setenv("TOKEN", server.token(user="alice"))
    monkeypatch.setenv("SERVICE", server.token(user="backend", roles=["service"]))
    monkeypatch.setenv("SECRET", server.run_sync(lambda: server.gateway.settings.auth.secret))


def load(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    exec(compile(PROGRAMS[name], name, "exec"), module.__dict__)
    return module


def output(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    load(name)
    return capsys.readouterr().out.strip()


def test_the_asyncio_client(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"chat:42 \d+ alice \{'text': 'hello'\}", output("asyncio", capsys))


def test_asking(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    ready = threading.Event()

    async def decide() -> None:
        async with connect(server.url, token=server.token(user="alice")) as client:
            ready.set()
            async for event in client:
                if event.event == "permission:pending":
                    await client.call("approvals.decide", {"id": "job-7-delete", "choice": "approve"})
                    return

    import trio

    deciding = threading.Thread(target=trio.run, args=(decide,))
    deciding.start()
    assert ready.wait(30)
    assert output("ask", capsys) == "approve by alice"
    deciding.join()


def test_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert int(output("script", capsys)) >= 1


def test_fastapi() -> None:
    app = load("fastapi").app

    async def ask() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://backend") as client,
        ):
            return (await client.post("/tasks/7/done")).json()

    assert asyncio.run(ask())["seq"] >= 1


def test_flask() -> None:
    module = load("flask")
    with contextlib.closing(module.publisher):
        assert module.app.test_client().post("/tasks/7/done").json["seq"] >= 1


def test_django() -> None:
    django_settings.configure(ROOT_URLCONF="django_example", ALLOWED_HOSTS=["*"])
    django.setup()
    module = sys.modules["django_example"] = load("django")
    with contextlib.closing(module.publisher):
        found = resolve("/tasks/7/done")
        answer = found.func(RequestFactory().post("/tasks/7/done"), **found.kwargs)
        assert msgspec.json.decode(answer.content)["seq"] >= 1


def claims_of(server: Server, token: str) -> Any:
    return server.run(server.gateway.auth.verify, token)


def test_pyjwt(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    identity = claims_of(server, output("pyjwt", capsys))
    assert (identity.org, identity.user) == ("acme", "alice")
    rooms = identity.grants.rules
    made = subprocess.run(
        ["bash", "-c", PROGRAMS["cli"].replace(".venv/bin/", "")],
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "GATEWAY_AUTH_SECRET": os.environ["SECRET"],
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = claims_of(server, made.stdout.strip())
    assert (found.org, found.user, found.grants.rules) == ("acme", "alice", rooms)


def test_jose(server: Server, tmp_path: Path) -> None:
    install_packages()
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    (tmp_path / "mint.mjs").write_text(PROGRAMS["jose"])
    made = subprocess.run(
        [node(), "mint.mjs"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "SECRET": os.environ["SECRET"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    identity = claims_of(server, made.stdout.strip())
    assert (identity.org, identity.user) == ("acme", "alice")
    assert identity.expires - identity.issued_at == 3600


@pytest.mark.parametrize("name", ["ticket", "renewal"])
def test_tickets_and_renewal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(name, capsys) == "alice"


def test_every_claim_is_in_the_table() -> None:
    section = (ROOT / "docs/authentication.md").read_text().partition("## Claims")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert told == {field.name for field in msgspec.structs.fields(Claims)}


def test_every_program_is_run() -> None:
    text = Path(__file__).read_text()
    assert len(PROGRAMS) == 11
    for name in PROGRAMS:
        assert f'"{name}"' in text, name
