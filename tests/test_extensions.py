"""Modules of the application in the gateway's process: the documented example, and what can be wrong."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.client import Backoff, Client, CommandFailed, connect
from gateway.testing.node import run_node
from gateway.testing.settings import SECRET
from protocol.errors import ErrorCode
from tests.docs.markdown import file_of
from tests.processes import DEADLINE, Folder, serving
from tests.redis_server import redis_server
from tests.test_workers import until_logged

QUICK = Backoff(base=0.05, maximum=0.5, tries=100)
COUNCIL = file_of("docs/extending.md", "council.py")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "council.py").write_text(COUNCIL)
    (tmp_path / "gateway.toml").write_text(file_of("docs/extending.md", "gateway.toml"))
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


REACH = """
async def reach(gateway, caller, data):
    sent = await gateway.send_to_user(caller.org, data["user"], "hello", data, sender=caller.user)
    await gateway.publish(caller.org, None, "greeted", data)
    return sent.connections


def setup(gateway):
    gateway.handle_call("reach", lambda caller, data: reach(gateway, caller, data))
"""


async def test_a_handler_reaches_users_of_all_workers(tmp_path: Path) -> None:
    """Two processes serve one port: whoever calls, and wherever the user is connected, the event comes."""
    (tmp_path / "reaching.py").write_text(REACH)
    environ = {"GATEWAY_AUTH_SECRET": SECRET, "GATEWAY_EXTENSIONS": '["reaching"]'}
    async with redis_server(tmp_path / "redis") as redis, contextlib.AsyncExitStack() as stack:
        folder = Folder(tmp_path, {**environ, "GATEWAY_BROKER": redis.url})
        served = await stack.enter_async_context(serving(folder, "--workers", "2"))
        await until_logged(served, "all workers listen")
        token = (await folder.run("token", "--org", "acme", "--user", "alice")).out.strip()
        clients: dict[str | None, Client] = {}
        for _ in range(100):  # the kernel spreads connections over the workers by its dice
            client = await stack.enter_async_context(connect(served.url, token=token, reconnect=QUICK))
            clients.setdefault(client.connection.node, client)
            if len(clients) == 2:
                break
        here, there = clients.values()
        opened = await here.call("reach", {"user": "alice"})
        with trio.fail_after(DEADLINE):
            for client in (here, there):
                heard = {(await anext(client)).event for _ in range(2)}
                assert heard == {"hello", "greeted"}
        assert opened >= 2


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
    (tmp_path / "council_in_a_test.py").write_text(COUNCIL)
    monkeypatch.syspath_prepend(tmp_path)
    async with run_node(extensions=["council_in_a_test"]) as node, node.client() as client:
        assert await client.call("pause_councilor", {"councilor": "cato"}) == {"paused": ["cato"]}
    del sys.modules["council_in_a_test"]
