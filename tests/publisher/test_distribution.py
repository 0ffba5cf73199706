"""The distribution of the clients alone: its files are enough, and so are the packages that it names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gateway.testing.server import Server
from gateway.version import VERSION

ROOT = Path(__file__).parents[2]
DESCRIBED = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text())

# What pip brings for the dependencies, with what those bring.
BASE = {
    *("anyio", "cbor2", "httpx", "msgspec", "websockets"),
    *("_cbor2", "certifi", "h11", "httpcore", "idna", "sniffio", "socksio", "typing_extensions"),
}
TRIO = {"trio", "trio_websocket", "wsproto", "outcome", "attr", "attrs", "sortedcontainers"}

GUARD = """
import os, sys
from importlib.abc import MetaPathFinder

class OnlyThese(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if path is None and top not in sys.stdlib_module_names and top not in ALLOWED:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

ALLOWED = {"gateway", "protocol", "__main__"} | set(os.environ["ALLOWED"].split())
sys.meta_path.insert(0, OnlyThese())
"""

PROGRAM = """
import os, anyio
from gateway.client import connect
from gateway.publisher import AsyncPublisher, Publisher

URL, TOKEN = os.environ["TRIREME"], os.environ["SERVICE"]

async def main():
    for transports in (["websocket"], ["sse"], ["poll"]):
        async with connect(URL, token=TOKEN, transports=transports) as client:
            await client.join("r")
            async with AsyncPublisher(URL, token=TOKEN) as publisher:
                place = await publisher.publish("r", "x", transports)
            event = await anext(client)
            assert (event.data, event.seq) == (transports, place.seq)
            print(client.transport)

anyio.run(main, backend=os.environ["LOOP"])
with Publisher(URL, token=TOKEN) as publisher:
    publisher.publish("r", "x")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the distribution would put into an environment."""
    folder = tmp_path_factory.mktemp("installed")
    tool = DESCRIBED["tool"]["setuptools"]
    assert tool["package-dir"] == {"": "../.."}
    for package in tool["packages"]:
        # As setuptools does: what lies directly in it, and no package below that is not named.
        source, target = ROOT / package.replace(".", "/"), folder / package.replace(".", "/")
        target.mkdir(parents=True, exist_ok=True)
        for file in source.glob("*.py"):
            shutil.copy(file, target / file.name)
    for module in tool["py-modules"]:
        name = f"{module.replace('.', '/')}.py"
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize("loop, allowed", [("asyncio", BASE), ("trio", BASE | TRIO)])
def test_it_works_with_nothing_else(
    server: Server, token: str, installed: Path, loop: str, allowed: set[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARD + PROGRAM],
        cwd=installed,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(installed),
            "ALLOWED": " ".join(allowed),
            "TRIREME": server.url,
            "SERVICE": token,
            "LOOP": loop,
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["websocket", "sse", "poll"]


def test_it_asks_for_what_the_gateway_asks_for() -> None:
    project, whole = DESCRIBED["project"], WHOLE["project"]
    assert project["version"] == whole["version"] == VERSION
    assert project["requires-python"] == whole["requires-python"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["trio"]}
    assert wanted <= set(whole["dependencies"])


def test_it_names_every_package() -> None:
    """An installation for development finds those that are missing; a wheel does not."""
    named = set(DESCRIBED["tool"]["setuptools"]["packages"])
    for package in named:
        for folder in (ROOT / package.replace(".", "/")).iterdir():
            if (folder / "__init__.py").exists():
                assert f"{package}.{folder.name}" in named
