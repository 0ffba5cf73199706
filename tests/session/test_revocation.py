"""Revoked tokens: open connections are closed within a second, and nobody comes in with one again."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.errors import ErrorCode as E
from tests.rest.api import asking, success
from tests.support import DEADLINE, Raw, connected, until, url
from tests.upgrade import Answer, knock

PEOPLE = {
    "alice": {"org": "acme", "user": "alice"},
    "alice again": {"org": "acme", "user": "alice"},
    "bob": {"org": "acme", "user": "bob"},
    "nobody": {"org": "acme", "user": None},
    "other alice": {"org": "globex", "user": "alice"},
}


@pytest.mark.parametrize(
    ("what", "closed"),
    [
        ("jti", {"alice"}),
        ("user", {"alice", "alice again"}),
        ("org", {"alice", "alice again", "bob", "nobody"}),
    ],
)
async def test_open_connections_are_closed_within_a_second(
    gateway: Gateway, codec: Codec, what: str, closed: set[str]
) -> None:
    issued = {name: gateway.auth.issue(**claims) for name, claims in PEOPLE.items()}
    body: dict[str, Any] = {
        "jti": {"jti": issued["alice"].jti},
        "user": {"user": "alice"},
        "org": {"org": "acme"},
    }[what]
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, Raw] = {}
        for name, each in issued.items():
            clients[name] = await stack.enter_async_context(connected(gateway, token=each.token, codec=codec))
        ask = await stack.enter_async_context(asking(gateway))
        service = gateway.auth.issue(org="acme", user="root", roles=["service"]).token
        answer = success(await ask.post("/auth/revoke", body, token=service))
        assert answer["closed"] == len(closed)
        for name in closed:
            with trio.fail_after(DEADLINE):
                reason = await clients[name].closed()
            assert (reason.code, reason.reason) == (1008, "the token was revoked")
            closing = clients[name].events[-1]
            assert (closing.t, closing.data["reconnect"]) == ("closing", False)
        for name in set(PEOPLE) - closed:
            assert (await clients[name].ask("ping")).t == "pong", name
    for name, each in issued.items():
        again = await knock(gateway, f"/ws?token={each.token}")
        assert again.status == (401 if name in closed else 101), name
        if name in closed:
            assert again.problem["code"] == E.TOKEN_REVOKED


async def test_a_connection_is_known_by_its_present_token(gateway: Gateway) -> None:
    first, second = (gateway.auth.issue(org="acme", user="alice") for _ in range(2))
    async with connected(gateway, token=first.token) as alice, asking(gateway) as ask:
        assert (await alice.ask("refresh", data={"token": second.token})).t == "reply"
        assert success(await ask.post("/auth/revoke", {"jti": first.jti}))["closed"] == 0
        assert (await alice.ask("refresh", data={"token": first.token})).code == E.TOKEN_REVOKED
        assert success(await ask.post("/auth/revoke", {"jti": second.jti}))["closed"] == 1
        assert (await alice.closed()).code == 1008


async def test_a_ticket_cannot_be_replayed(gateway: Gateway) -> None:
    """Not even when two come with it at the same time."""
    async with asking(gateway) as ask:
        for _ in range(5):
            ticket = success(await ask.post("/auth/ticket"))["ticket"]
            answers: list[Answer] = []

            async def come(ticket: str = ticket, answers: list[Answer] = answers) -> None:
                answers.append(await knock(gateway, f"/ws?ticket={ticket}"))

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(come)
            assert sorted(answer.status for answer in answers) == [101, 401, 401, 401]
            assert (await knock(gateway, f"/ws?ticket={ticket}")).status == 401
        assert len(gateway.auth.tickets) == 0
    await until(lambda: not gateway.hub.connections)


async def test_a_ticket_of_a_token_that_was_revoked_meanwhile(gateway: Gateway) -> None:
    async with asking(gateway) as ask:
        token = gateway.auth.issue(org="acme", user="alice").token
        ticket = success(await ask.post("/auth/ticket", token=token))["ticket"]
        success(await ask.post("/auth/revoke", {"user": "alice"}))
    refused = await knock(gateway, url(gateway, ticket=ticket).partition(str(gateway.port))[2])
    assert (refused.status, refused.problem["code"]) == (401, E.TOKEN_REVOKED)
