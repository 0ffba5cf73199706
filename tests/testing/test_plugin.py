"""The pytest plugin, in a project of somebody else, as they would run it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

from tests.docs.markdown import file_of

ROOT = Path(__file__).parents[2]
LOADED = ["-p", "pytest_trio.plugin", "-p", "gateway.testing.plugin"]

SHOP, TESTS, THREADED = (
    file_of("docs/testing.md", name) for name in ("shop.py", "test_shop.py", "test_threaded.py")
)
"""An application and its tests, as the documentation prints them."""

MORE = """
import pytest
import trio

@pytest.mark.trireme(limits={"message_bytes": 1024})
class TestMarked:
    @pytest.mark.trireme(auth={"in_band": True})
    async def test_a_nearer_marker_adds_to_it(self, trireme):
        settings = trireme.gateway.settings
        assert settings.auth.in_band and settings.limits.message_bytes == 1024


class TestWithItsOwn:
    @pytest.fixture
    def trireme_settings(self):
        return {"node": "mine"}

    async def test_settings(self, trireme):
        assert trireme.gateway.node == "mine"

    async def test_clock(self, trireme, mock_clock):
        assert trio.lowlevel.current_clock() is mock_clock
"""

BROKEN = """
import pytest


async def test_fails(trireme):
    async with trireme.raw() as client:
        assert (await client.ask("ping")).t == "no pong"


@pytest.mark.trireme(no_such_setting=1)
async def test_has_a_wrong_setting(trireme):
    pass
"""


def run(project: Path, *arguments: str) -> tuple[int, str]:
    """pytest in a process of its own, with no plugin but the two that are needed."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        "PYTHONPATH": f"{ROOT}{os.pathsep}{project}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def project(path: Path, **files: str) -> Path:
    (path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    for name, text in files.items():
        (path / f"{name}.py").write_text(text)
    return path


def test_a_project_tests_itself_with_the_kit(tmp_path: Path) -> None:
    code, said = run(
        project(tmp_path, shop=SHOP, test_shop=TESTS, test_threaded=THREADED, test_more=MORE),
        *LOADED,
        "--strict-markers",
    )
    assert code == 0 and "8 passed" in said, said


def test_what_fails_says_what_failed(tmp_path: Path) -> None:
    code, said = run(project(tmp_path, test_broken=BROKEN), *LOADED)
    assert code == 1 and "2 failed" in said, said
    assert "assert 'pong' == 'no pong'" in said and "no_such_setting" in said


def test_who_has_no_pytest_trio_is_told_so_when_it_is_needed(tmp_path: Path) -> None:
    hidden = "import importlib.util as util; found = util.find_spec\n"
    hidden += "util.find_spec = lambda name: None if name == 'pytest_trio' else found(name)\n"
    tests = "def test_plain(): pass\n\n\ndef test_kit(trireme): pass\n"
    where = project(tmp_path, hidden=hidden, test_kit=tests)
    code, said = run(where, "-p", "hidden", "-p", "gateway.testing.plugin")
    assert code == 1 and "1 passed, 1 error" in said, said
    assert "pip install 'trireme-gateway[testing]'" in said


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert described["entry-points"]["pytest11"] == {"trireme": "gateway.testing.plugin"}
    assert import_module("gateway.testing.plugin").trireme
    assert "pytest-trio" in " ".join(described["optional-dependencies"]["testing"])


def test_loading_the_plugin_loads_nothing_of_the_gateway() -> None:
    """It is loaded in every test run of everybody who has the gateway installed."""
    program = (
        "import sys, gateway.testing.plugin; print({'gateway.app', 'protocol.envelope'} & {*sys.modules})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert said.strip() == "set()"
