"""The browser client's own tests under Node, and npm's ``ws`` as a foreign client of both subprotocols."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from gateway.app import Gateway
from protocol.errors import should_reconnect
from tests.e2e.prerequisites import FOLDER, node
from tests.support import until

DEADLINE = 50.0
"""Seconds that one run of Node may take."""

UNIT = sorted(FOLDER.glob("unit/*.test.mjs"))
LIVE = sorted(FOLDER.glob("live/*.test.mjs"))


async def run_node(*arguments: str, **environment: str) -> str:
    """Run Node and return what it printed; fails with that text when Node fails."""
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            [node(), *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=FOLDER,
            env={**os.environ, **environment},
        )
    text = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, text
    return text


@pytest.mark.parametrize("file", UNIT, ids=lambda file: file.name.removesuffix(".test.mjs"))
async def test_client_alone(file: Path) -> None:
    assert "# fail 0" in await run_node("--test", "--test-reporter=tap", str(file))


@pytest.mark.parametrize("file", LIVE, ids=lambda file: file.name.removesuffix(".test.mjs"))
async def test_client_and_foreign_clients_on_a_gateway(gateway: Gateway, file: Path) -> None:
    tokens = {user: gateway.auth.issue(org="acme", user=user).token for user in ("alice", "bob")}
    tokens["alice_later"] = gateway.auth.issue(org="acme", user="alice", ttl=7200).token
    tokens["alice_narrow"] = gateway.auth.issue(
        org="acme", user="alice", ttl=7300, rooms={"lobby": ["join"]}
    ).token
    tokens["backend"] = gateway.auth.issue(org="acme", user="backend", roles=["service"]).token
    output = await run_node(
        "--test",
        "--test-reporter=tap",
        str(file),
        TRIREME_WS=f"ws://127.0.0.1:{gateway.port}/ws",
        TRIREME_TOKENS=json.dumps(tokens),
    )
    assert "# fail 0" in output
    await until(lambda: not gateway.hub.connections)


async def test_client_comes_back_after_the_same_codes_as_everybody() -> None:
    client = FOLDER.parent.parent / "gateway" / "web" / "client.js"
    script = f"""
        import {{ shouldReconnect }} from {json.dumps(client.as_uri())};
        const codes = Array.from({{ length: 4000 }}, (_, n) => n + 1000);
        console.log(JSON.stringify(codes.filter(shouldReconnect)));
    """
    output = await run_node("--input-type=module", "--eval", script)
    assert json.loads(output) == [code for code in range(1000, 5000) if should_reconnect(code)]
