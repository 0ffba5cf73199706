"""Issuing, refreshing, tickets and revocation over REST."""

from __future__ import annotations

import time

import jwt
import pytest
import trio
import trio_websocket

from gateway.app import Gateway
from protocol.errors import CloseCode
from tests.rest.api import ADMIN, Api, problem, success
from tests.support import connected, url

# --- issue ------------------------------------------------------------------------------------------


async def test_a_service_issues_a_token_of_its_organisation(api: Api) -> None:
    begun = int(time.time())
    issued = success(await api.post("/auth/token", {"user": "bob", "rooms": {"chat:*": ["join"]}, "ttl": 60}))
    identity = await api.gateway.auth.verify(issued["token"])
    assert (identity.org, identity.user, identity.jti) == ("acme", "bob", issued["jti"])
    assert identity.expires is not None
    assert issued["expires"] == identity.expires * 1000
    assert begun + 60 <= identity.expires <= time.time() + 61
    assert [pattern for pattern, _ in identity.grants.rules] == ["chat:*"]


async def test_a_member_may_not_issue(api: Api) -> None:
    problem(await api.post("/auth/token", {"user": "bob"}, claims={"user": "alice"}), 403, 202)


async def test_a_service_may_not_make_an_admin_but_an_admin_may(api: Api) -> None:
    problem(await api.post("/auth/token", {"roles": ["admin"]}), 403, 202)
    issued = success(await api.post("/auth/token", {"roles": ["admin"]}, claims=ADMIN))
    assert (await api.gateway.auth.verify(issued["token"])).is_admin


async def test_a_service_makes_tokens_with_roles_of_the_application(api: Api) -> None:
    issued = success(await api.post("/auth/token", {"user": "bob", "roles": ["lead", "member"]}))
    identity = await api.gateway.auth.verify(issued["token"])
    assert (identity.roles, identity.is_service) == ({"lead", "member"}, False)
    problem(await api.post("/auth/token", {"user": "eve"}, token=issued["token"]), 403, 202)
    renewed = success(await api.post("/auth/refresh", token=issued["token"]))
    assert (await api.gateway.auth.verify(renewed["token"])).roles == {"lead", "member"}
    for roles in (["x" * 201], [""], ["a\nb"], ["r"] * 33, [7], "lead"):
        problem(await api.post("/auth/token", {"user": "bob", "roles": roles}), 400, 104)


@pytest.mark.parametrize("place", ["body", "query"])
async def test_only_an_admin_issues_for_another_organisation(api: Api, place: str) -> None:
    query, body = ("", {"org": "globex"}) if place == "body" else ("?org=globex", {})
    problem(await api.post(f"/auth/token{query}", body), 403, 204)
    issued = success(await api.post(f"/auth/token{query}", body, claims=ADMIN))
    assert (await api.gateway.auth.verify(issued["token"])).org == "globex"


async def test_organisations_that_disagree_are_refused(api: Api) -> None:
    detail = problem(await api.post("/auth/token?org=acme", {"org": "globex"}, claims=ADMIN), 400, 104)
    assert "org" in detail


async def test_a_lifetime_beyond_the_limit_is_refused(api: Api) -> None:
    detail = problem(await api.post("/auth/token", {"ttl": 10.0**12}), 400, 104)
    assert "ttl" in detail


# --- refresh ----------------------------------------------------------------------------------------


async def test_a_refreshed_token_says_the_same_and_lives_on(api: Api) -> None:
    claims = {"user": "alice", "roles": ["member"], "rooms": {"chat:*": ["join", "history"]}, "ttl": 30}
    old = api.token(**claims)
    await trio.sleep(1.1)
    refreshed = success(await api.post("/auth/refresh", token=old))
    before, after = await api.gateway.auth.verify(old), await api.gateway.auth.verify(refreshed["token"])
    assert (after.org, after.user, after.roles) == (before.org, before.user, before.roles)
    assert after.grants is before.grants
    assert after.jti != before.jti
    assert before.expires is not None
    assert before.expires < refreshed["expires"] / 1000 <= time.time() + 31


async def test_a_refresh_can_ask_for_a_lifetime(api: Api) -> None:
    begun = int(time.time())
    refreshed = success(await api.post("/auth/refresh", {"ttl": 120}, claims={"user": "alice"}))
    assert begun + 119 <= refreshed["expires"] / 1000 <= time.time() + 121


async def test_a_refresh_does_not_pin_the_default_permissions(api: Api) -> None:
    old = api.token(user="alice")
    refreshed = success(await api.post("/auth/refresh", token=old))
    rooms = refreshed["token"].split(".")[1]
    claims = jwt.decode(refreshed["token"], options={"verify_signature": False})
    assert "rooms" not in claims
    assert rooms != old.split(".")[1]


async def test_a_refresh_is_worth_no_more_than_the_first_token(api: Api) -> None:
    token, longest = api.token(user="alice", ttl=60), 0.0
    for ttl in (3600, 60, None):
        refreshed = success(await api.post("/auth/refresh", {"ttl": ttl} if ttl else {}, token=token))
        token, longest = refreshed["token"], max(longest, refreshed["expires"] / 1000 - time.time())
    assert 50 < longest <= 61


async def test_what_was_refreshed_from_a_revoked_token_is_revoked(api: Api) -> None:
    first = api.gateway.auth.issue(org="acme", user="alice")
    chain = [(first.token, first.jti)]
    for _ in range(3):
        refreshed = success(await api.post("/auth/refresh", token=chain[-1][0]))
        chain.append((refreshed["token"], refreshed["jti"]))
    success(await api.post("/auth/revoke", {"jti": chain[1][1]}))
    statuses = [(await api.get("/stats", token=token)).status_code for token, _ in chain]
    assert statuses == [200, 401, 401, 401]


# --- tickets ----------------------------------------------------------------------------------------


async def test_a_ticket_opens_one_connection(api: Api, gateway: Gateway) -> None:
    issued = success(await api.post("/auth/ticket", claims={"user": "alice"}))
    assert issued["expires_in"] == gateway.settings.auth.ticket_ttl
    address = url(gateway, ticket=issued["ticket"])
    async with trio_websocket.open_websocket_url(address) as socket:
        assert '"user":"alice"' in await socket.get_message()
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    refused = await api.client.get(address.replace("ws:", "http:"), headers=upgrade)
    assert (refused.status_code, refused.json()["code"]) == (401, 200)


# --- revoke -----------------------------------------------------------------------------------------


async def closed_with(socket: trio_websocket.WebSocketConnection) -> int:
    with trio.fail_after(60), pytest.raises(trio_websocket.ConnectionClosed) as closed:
        while True:
            await socket.get_message()
    return int(closed.value.reason.code)


async def test_revoking_a_user_closes_all_its_connections_and_no_other(api: Api, gateway: Gateway) -> None:
    async with (
        connected(gateway, user="alice") as first,
        connected(gateway, user="alice") as second,
        connected(gateway, user="bob") as bob,
        connected(gateway, org="globex", user="alice") as other,
    ):
        assert success(await api.post("/auth/revoke", {"user": "alice"})) == {"closed": 2}
        assert await closed_with(first.socket) == CloseCode.POLICY_VIOLATION
        assert await closed_with(second.socket) == CloseCode.POLICY_VIOLATION
        assert (await bob.ask("ping")).t == "pong"
        assert (await other.ask("ping")).t == "pong"


async def test_revoking_an_id_refuses_that_token_only(api: Api, gateway: Gateway) -> None:
    issued, kept = (gateway.auth.issue(org="acme", user="alice") for _ in range(2))
    assert success(await api.get("/stats", token=issued.token))
    assert success(await api.post("/auth/revoke", {"jti": issued.jti})) == {"closed": 0}
    problem(await api.get("/stats", token=issued.token), 401, 203)
    assert success(await api.get("/stats", token=kept.token))


async def test_revoking_an_organisation_is_for_its_service_or_an_admin(api: Api, gateway: Gateway) -> None:
    problem(await api.post("/auth/revoke", {"org": "acme"}, claims={"user": "alice"}), 403, 202)
    problem(await api.post("/auth/revoke", {"org": "globex"}), 403, 204)
    async with connected(gateway, org="globex") as globex, connected(gateway) as acme:
        assert success(await api.post("/auth/revoke", {"org": "globex"}, claims=ADMIN)) == {"closed": 1}
        assert await closed_with(globex.socket) == CloseCode.POLICY_VIOLATION
        assert (await acme.ask("ping")).t == "pong"


async def test_an_id_of_another_organisation_is_not_revoked(api: Api, gateway: Gateway) -> None:
    foreign = gateway.auth.issue(org="globex", user="bob")
    success(await api.post("/auth/revoke", {"jti": foreign.jti}))
    assert (await gateway.auth.verify(foreign.token)).user == "bob"


async def test_members_revoke_their_own_tokens_only(api: Api, gateway: Gateway) -> None:
    mine = gateway.auth.issue(org="acme", user="alice")
    problem(await api.post("/auth/revoke", {"user": "bob"}, token=mine.token), 403, 202)
    problem(await api.post("/auth/revoke", {"jti": "another"}, token=mine.token), 403, 202)
    problem(await api.post("/auth/revoke", {"jti": "another", "user": "alice"}, token=mine.token), 403, 202)
    assert success(await api.post("/auth/revoke", {"jti": mine.jti}, token=mine.token)) == {"closed": 0}
    problem(await api.get("/stats", token=mine.token), 401, 203)


async def test_a_revocation_of_nothing_is_refused(api: Api) -> None:
    detail = problem(await api.post("/auth/revoke", {}), 400, 103)
    assert "jti" in detail
