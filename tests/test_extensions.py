"""Modules of the application in the gateway's process: the documented example, and what can be wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.client import CommandFailed, connect
from gateway.testing.node import run_node
from protocol.errors import ErrorCode
from tests.processes import SECRET, Folder, serving

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "council.py").write_text(BLOCKS["python"])
    (tmp_path / "gateway.toml").write_text(BLOCKS["toml"])
    return Folder(tmp_path, {"GATEWAY_AUTH_SECRET": SECRET})


async def test_the_example_of_the_documentation(folder: Folder) -> None:
    token = (await folder.run("token", "--org", "acme", "--user", "alice")).out.strip()
    async with serving(folder) as served, connect(served.url, token=token) as client:
        await client.join("council")
        assert await client.call("pause_councilor", {"councilor": "cicero"}) == {"paused": ["cicero"]}
        event = await client.__anext__()
        assert (event.event, event.sender, event.data) == (
            "councilor_paused",
            "alice",
            {"councilor": "cicero"},
        )
        for data, code in (
            ({"councilor": "cicero"}, ErrorCode.CALL_REJECTED),
            ({"councilor": 5}, ErrorCode.BAD_FIELD),
        ):
            with pytest.raises(CommandFailed) as refused:
                await client.call("pause_councilor", data)
            assert refused.value.code == code


async def test_check_finds_them(folder: Folder) -> None:
    assert "extensions: ok: council\n" in (await folder.run("check")).out


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "extensions: 'wrong' cannot be imported: ModuleNotFoundError: No module named 'wrong'"),
        ("1 / 0", "extensions: 'wrong' cannot be imported: ZeroDivisionError: division by zero"),
        ("def", "extensions: 'wrong' cannot be imported: SyntaxError: invalid syntax (wrong.py, line 1)"),
        ("setup = 5", "extensions: 'wrong' has no function setup(gateway)"),
    ],
    ids=["missing", "raising", "syntax", "no setup"],
)
@pytest.mark.parametrize("command", ["serve", "check"])
async def test_what_cannot_be_used_is_one_line(
    command: str, source: str | None, expected: str, folder: Folder
) -> None:
    if source is not None:
        (folder.path / "wrong.py").write_text(source + "\n")
    environ = {"GATEWAY_EXTENSIONS": '["council", "wrong"]'}
    if command == "serve":
        assert await folder.refused("serve", "--port", "0", **environ) == f"gateway: {expected}"
    else:
        done = await folder.run("check", **environ)
        assert done.code == 1 and expected.replace("extensions:", "extensions: FAILED:") in done.out


async def test_the_test_kit_has_them_too(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "council_in_a_test.py").write_text(BLOCKS["python"])
    monkeypatch.syspath_prepend(tmp_path)
    async with run_node(extensions=["council_in_a_test"]) as node, node.client() as client:
        assert await client.call("pause_councilor", {"councilor": "cato"}) == {"paused": ["cato"]}
    del sys.modules["council_in_a_test"]


async def test_the_readmes_python_client(tmp_path: Path) -> None:
    """``hello.py`` works as it stands, but for the port."""
    readme = (ROOT / "README.md").read_text()
    (source,) = re.findall(r"^```python\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    folder = Folder(tmp_path, {"GATEWAY_AUTH_SECRET": SECRET})
    token = (await folder.run("token", "--org", "acme", "--user", "alice")).out.strip()
    async with serving(folder) as served:
        assert source.count("127.0.0.1:8000") == 1
        hello = source.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}")
        done = await trio.run_process(
            [sys.executable, "-c", hello],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            **folder.options(TOKEN=token),
        )
    assert done.stdout.decode() == "published as number 1\nchat:42 1 alice {'text': 'hello'}\n"
