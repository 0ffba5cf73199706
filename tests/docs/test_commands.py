"""The commands that pages print as JSON are answered with a reply, in their order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.config.settings import ConnectionSettings
from protocol.envelope import CLIENT_KINDS
from tests.docs.markdown import blocks_of
from tests.support import Raw, connected, running_gateway

PAGES = ["docs/approvals.md", "docs/executions.md", "docs/notifications.md"]
NOTIFICATION = "1845493760000000000"
"""The id of a notification on the page; in the test it is another one."""


def commands_of(page: str) -> list[dict[str, Any]]:
    lines = [
        line for block in blocks_of(page) if block.language == "json" for line in block.text.splitlines()
    ]
    found = [msgspec.json.decode(line) for line in lines if line.startswith('{"v": 1')]
    return [each for each in found if each["t"] in CLIENT_KINDS]


async def prepared(raw: Raw) -> str:
    """Make what the pages suppose: an execution at its fourth version, and a notification; returns its id."""
    fields = {"id": "nightly-7", "agent": "cicero", "status": "running"}
    await raw.ask("call", event="executions.create", data=fields)
    for progress in (10, 20, 40):
        await raw.ask("call", event="executions.update", data={"id": "nightly-7", "progress": progress})
    listed = await raw.ask("call", event="notifications.list", data={})
    return str(listed.data["notifications"][0]["id"])


@pytest.mark.parametrize("page", PAGES)
async def test_what_the_page_sends_is_answered(page: str) -> None:
    commands = commands_of(page)
    assert len(commands) >= 3
    # Four fifths of it bound the command that waits for a decision, which comes two commands later.
    settings = {"database": "sqlite:///:memory:", "connection": ConnectionSettings(command_timeout=60.0)}
    async with running_gateway(**settings) as gateway:
        service = gateway.auth.issue(org="acme", user="alice", roles=["service"]).token
        await gateway.operations.notifications.create(
            (await gateway.auth.verify(service)),
            users=["alice"],
            type="info",
            title="Hello",
            message="there",
        )
        async with connected(gateway, token=service) as raw:
            id = await prepared(raw)
            waiting: set[int] = set()
            for number, command in enumerate(commands, 1000):
                fields = {name: value for name, value in command.items() if name not in ("v", "t", "id")}
                fields = msgspec.json.decode(
                    msgspec.json.encode(fields).replace(NOTIFICATION.encode(), id.encode())
                )
                await raw.send(command["t"], id=number, **fields)
                waiting.add(number)
                while waiting and "wait" not in (command.get("data") or {}):
                    answer = await raw.receive()
                    if answer.id in waiting:
                        assert answer.t == "reply", (command, answer)
                        waiting.remove(answer.id)
                        if answer.id == number:
                            break
