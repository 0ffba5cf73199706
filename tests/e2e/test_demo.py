"""``make demo``: every page has something to show, and Ctrl-C ends it."""

from __future__ import annotations

import functools
import re
import signal
import subprocess
import sys

import httpx
import trio

from tests.support import DEADLINE


async def _address(stdout: trio.abc.ReceiveStream) -> tuple[str, str]:
    """Where the console is, and the token for it."""
    text = ""
    async for chunk in stdout:
        text += chunk.decode()
        found = re.search(r"(http://\S+)/#token=(\S+)", text)
        if found and text.endswith("\n"):
            return found[1], found[2]
    raise AssertionError(f"it ended: {text}")


async def test_the_demonstration_has_life_and_ends(nursery: trio.Nursery) -> None:
    command = [sys.executable, "-m", "gateway.demo", "--port", "0", "--pace", "40"]
    run = functools.partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
    process: trio.Process = await nursery.start(run)
    assert process.stdout is not None
    with trio.fail_after(3 * DEADLINE):
        base, token = await _address(process.stdout)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=f"{base}/api/v1", headers=headers, timeout=DEADLINE) as rest:

            async def until(path: str, key: str) -> None:
                found: list[object] = []
                while not found:
                    found = (await rest.get(path)).json()[key]

            await until("/executions?status=completed", "executions")
            await until("/notifications", "notifications")
            await until("/approvals", "approvals")
            await until("/rooms/chat:42/history", "events")
            await until("/connections?user=bob", "connections")
        process.send_signal(signal.SIGINT)
        rest_of_it = b"".join([chunk async for chunk in process.stdout])
        assert await process.wait() == 0
    assert b"Stopping" in rest_of_it
