"""Approvals that a client asks for: the wait outlasts connections and gateways."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.client import Backoff, Client, CommandError, Decision
from gateway.testing.node import run_node
from protocol.errors import ErrorCode
from tests.client.scripted import ScriptedGateway, beside

OPTIONS = {"reconnect": Backoff(base=0.01, maximum=0.1, tries=100)}


async def test_what_is_said_and_how_it_is_repeated(scripted: ScriptedGateway, clock: MockClock) -> None:
    async with scripted.connect() as client:
        first = await scripted.peer()
        asked = []

        async def serve() -> None:
            asked.append(await first.receive())
            await first.drop()
            second = await scripted.peer()
            asked.append(await second.answer(data={"status": "pending"}))
            asked.append(await second.answer("error", code=305, message="away", data={"retry_after": 2.0}))
            asked.append(await second.answer(data={"status": "pending"}))
            await second.receive()
            await second.drop()
            third = await scripted.peer()
            done = {"choice": "reject", "user": "bob", "comment": "no", "at": 7}
            asked.append(await third.answer(data={"status": "decided", "decision": done}))

        async with beside(serve):
            decision = await client.ask("Delete it?", users=["bob"], deadline=600, fallback="reject")
        id = asked[0].data["id"]
        assert decision == Decision(id=id, status="decided", choice="reject", user="bob", comment="no", at=7)
        assert [each.event for each in asked] == ["approvals.create"] * 2 + ["approvals.get"] * 3
        assert (
            asked[0].data
            == asked[1].data
            == {
                "id": id,
                "title": "Delete it?",
                "users": ["bob"],
                "deadline": 600,
                "fallback": "reject",
            }
        )
        assert asked[2].data == {"id": id, "wait": 25.0}


async def test_refusals(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        with pytest.raises(ValueError, match="users or a role"):
            await client.ask("x")
        with pytest.raises(ValueError, match="users or a role"):
            await client.ask("x", users=["a"], role="b")
        peer = await scripted.peer()

        async def refuse() -> None:
            await peer.answer("error", code=202, message="only services")

        async with beside(refuse):
            with pytest.raises(CommandError, match="only services"):
                await client.ask("x", role="member")


async def test_a_decision_comes_through_cuts(tmp_path: Path) -> None:
    async with run_node(database=f"sqlite:///{tmp_path / 'data.db'}") as node:
        async with (
            node.client(user="agent", roles=["service"], options=OPTIONS) as agent,
            node.client(user="bob", options=OPTIONS) as bob,
        ):
            found: list[Decision] = []

            async def ask(client: Client) -> None:
                found.append(await client.ask("Deploy?", users=["bob"], data={"version": 3}, id="deploy-3"))

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, agent)
                    pending = await anext(bob)
                    while pending.event != "permission:pending":
                        pending = await anext(bob)
                    node.cut("agent")
                    decided = await bob.call(
                        "approvals.decide", {"id": "deploy-3", "choice": "approve", "comment": "go"}
                    )
                    assert decided["status"] == "decided"
            assert [(each.choice, each.user, each.comment) for each in found] == [("approve", "bob", "go")]
            # Asked again, as after a restart: the answer is there already.
            again = await agent.ask("Deploy?", users=["bob"], id="deploy-3")
            assert again == found[0]
            with pytest.raises(CommandError) as caught:
                await bob.ask("Deploy?", users=["agent"])
            assert caught.value.code == ErrorCode.FORBIDDEN
