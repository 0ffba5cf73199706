"""What the claims of a well-signed HS256 token must say, and what they then mean."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest

from gateway.auth.identity import Grants, Permission
from gateway.auth.tokens import MAX_TOKEN, Authenticator
from gateway.config.settings import AuthSettings, SettingsError
from gateway.testing.settings import SECRET
from protocol.errors import ErrorCode, ProtocolError
from tests.auth.support import Clock, sign

EVERYTHING = Permission.JOIN | Permission.PUBLISH | Permission.PRESENCE | Permission.HISTORY


def sign_raw(payload: bytes) -> str:
    return jwt.PyJWS().encode(payload, SECRET, "HS256")


@pytest.fixture
def auth(now: Clock) -> Authenticator:
    return Authenticator(AuthSettings(secret=SECRET), now=now)


async def refusal(auth: Authenticator, token: str) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        await auth.verify(token)
    assert token not in caught.value.message or not token
    assert SECRET not in caught.value.message
    return caught.value


async def test_every_claim_reaches_the_identity(auth: Authenticator, now: Clock) -> None:
    identity = await auth.verify(
        sign(
            org="acme",
            sub="alice",
            roles=["member", "editor"],
            rooms={"chat:*": ["join", "publish"], "chat:42": ["history"], "news": []},
            exp=int(now()) + 60,
            iat=int(now()) - 5,
            jti="t1",
            unknown={"deep": [1]},
        )
    )
    assert (identity.org, identity.user, identity.jti) == ("acme", "alice", "t1")
    assert identity.roles == {"member", "editor"}
    assert (identity.expires, identity.issued_at) == (now() + 60, now() - 5)
    assert not identity.is_service and not identity.is_admin
    allows = identity.grants.allows
    assert allows("chat:1", Permission.JOIN | Permission.PUBLISH)
    assert not allows("chat:1", Permission.HISTORY)
    assert allows("chat:42", Permission.JOIN | Permission.HISTORY)
    assert not allows("chat:42", Permission.PRESENCE)
    assert not allows("news", Permission.JOIN)
    assert not allows("other", Permission.JOIN)


async def test_only_the_organisation_is_required(auth: Authenticator) -> None:
    identity = await auth.verify(sign(org="acme"))
    assert (identity.user, identity.expires, identity.jti, identity.issued_at) == (None, None, None, None)
    assert identity.roles == frozenset()
    assert identity.grants.allows("anything", EVERYTHING)


async def test_without_rooms_the_configured_ones_apply(now: Clock) -> None:
    auth = Authenticator(AuthSettings(secret=SECRET, default_rooms={"public:*": ["join"]}), now=now)
    grants = (await auth.verify(sign(org="acme"))).grants
    assert grants.allows("public:1", Permission.JOIN)
    assert not grants.allows("public:1", Permission.PUBLISH)
    assert not grants.allows("chat:1", Permission.JOIN)
    nothing = (await auth.verify(sign(org="acme", rooms={}))).grants
    assert not nothing.allows("public:1", Permission.JOIN)


@pytest.mark.parametrize(("role", "service", "admin"), [("service", True, False), ("admin", True, True)])
async def test_service_and_admin_may_do_everything(
    auth: Authenticator, role: str, service: bool, admin: bool
) -> None:
    identity = await auth.verify(sign(org="acme", roles=[role], rooms={"a": ["join"]}))
    assert identity.grants is Grants.ALL
    assert (identity.is_service, identity.is_admin) == (service, admin)
    assert identity.grants.allows("b", EVERYTHING)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({}, "names no organisation"),
        ({"org": ""}, "names no organisation"),
        ({"org": None}, "names no organisation"),
        ({"org": 5}, "$.org"),
        ({"org": "x" * 65}, "1 to 64 characters"),
        ({"org": "a\nb"}, "control characters"),
        ({"org": "a\x7fb"}, "control characters"),
        ({"org": "a", "sub": ""}, "sub must have"),
        ({"org": "a", "sub": 7}, "$.sub"),
        ({"org": "a", "sub": "a\x00"}, "control characters"),
        ({"org": "a", "roles": "admin"}, "$.roles"),
        ({"org": "a", "roles": [1]}, "$.roles"),
        ({"org": "a", "roles": ["r"] * 33}, "roles"),
        ({"org": "a", "rooms": ["chat"]}, "$.rooms"),
        ({"org": "a", "rooms": {"chat": "join"}}, "$.rooms"),
        ({"org": "a", "rooms": {"chat": ["join", "dance"]}}, "unknown permission 'dance'"),
        ({"org": "a", "rooms": {"": ["join"]}}, "rooms"),
        ({"org": "a", "rooms": {"x\x00": ["join"]}}, "rooms"),
        ({"org": "a", "rooms": {"x" * 201: ["join"]}}, "rooms"),
        ({"org": "a", "rooms": {str(i): [] for i in range(257)}}, "more than 256"),
        ({"org": "a", "exp": "tomorrow"}, "$.exp"),
        ({"org": "a", "exp": True}, "$.exp"),
        ({"org": "a", "exp": -1}, "exp is not a time"),
        ({"org": "a", "exp": 1760000000000}, "exp is not a time"),
        ({"org": "a", "exp": 1e308}, "exp is not a time"),
        ({"org": "a", "jti": 1}, "$.jti"),
        ({"org": "a", "jti": "x" * 201}, "jti must have"),
    ],
)
async def test_bad_claims_are_refused_with_a_reason(
    auth: Authenticator, claims: dict[str, Any], reason: str
) -> None:
    error = await refusal(auth, sign_raw(json.dumps(claims).encode()))
    assert error.code is ErrorCode.UNAUTHENTICATED
    assert reason in error.message


@pytest.mark.parametrize(
    "payload", [b"[]", b"5", b"", b"{", b'{"org":"\\ud800"}', b'{"org":"\xff"}', b'{"org":"a"' + b"[" * 5000]
)
async def test_claims_that_are_no_object_are_refused(auth: Authenticator, payload: bytes) -> None:
    assert (await refusal(auth, sign_raw(payload))).code is ErrorCode.UNAUTHENTICATED


async def test_expiry_counts_the_leeway(auth: Authenticator, now: Clock) -> None:
    token = sign(org="acme", exp=int(now()) + 10)
    now.now += 14.9
    await auth.verify(token)
    now.now += 0.1
    error = await refusal(auth, token)
    assert error.code is ErrorCode.TOKEN_EXPIRED
    assert "expired" in error.message


@pytest.mark.parametrize(("claim", "reason"), [("nbf", "not valid yet"), ("iat", "issued in the future")])
async def test_tokens_from_the_future_are_refused(
    auth: Authenticator, now: Clock, claim: str, reason: str
) -> None:
    token = sign(**{"org": "acme", claim: int(now()) + 10})
    error = await refusal(auth, token)
    assert error.code is ErrorCode.UNAUTHENTICATED and reason in error.message
    now.now += 5
    await auth.verify(token)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "us"}, "names no audience"),
        ({"iss": "us", "aud": "others"}, "wrong audience"),
        ({"iss": "us", "aud": ["x", "others"]}, "wrong audience"),
        ({"aud": "gateway"}, "names no issuer"),
        ({"aud": "gateway", "iss": "them"}, "wrong issuer"),
    ],
)
async def test_audience_and_issuer_are_checked_when_configured(
    now: Clock, claims: dict[str, Any], reason: str
) -> None:
    auth = Authenticator(AuthSettings(secret=SECRET, audience="gateway", issuer="us"), now=now)
    error = await refusal(auth, sign(org="acme", **claims))
    assert error.code is ErrorCode.UNAUTHENTICATED and reason in error.message
    await auth.verify(sign(org="acme", iss="us", aud="gateway"))
    await auth.verify(sign(org="acme", iss="us", aud=["x", "gateway"]))
    await auth.verify(auth.issue(org="acme").token)


async def test_audience_and_issuer_do_not_matter_otherwise(auth: Authenticator) -> None:
    assert (await auth.verify(sign(org="acme", aud="x", iss="y"))).org == "acme"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b",
        "a.b.c",
        "..",
        "....",
        "\ud800.b.c",
        "é.é.é",
        "a" * (MAX_TOKEN + 1),
        base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.x",
    ],
)
async def test_what_is_no_token_is_refused(auth: Authenticator, token: str) -> None:
    assert (await refusal(auth, token)).code is ErrorCode.UNAUTHENTICATED


async def test_a_token_that_is_too_long_is_not_even_read(auth: Authenticator) -> None:
    assert "longer than" in (await refusal(auth, sign(org="acme", padding="x" * MAX_TOKEN))).message


async def test_a_changed_token_is_refused(auth: Authenticator) -> None:
    token = sign(org="acme", sub="alice")
    head, _, signature = token.split(".")
    forged = base64.urlsafe_b64encode(b'{"org":"acme","sub":"bob"}').rstrip(b"=").decode()
    error = await refusal(auth, f"{head}.{forged}.{signature}")
    assert error.message == "the token's signature does not match"
    error = await refusal(auth, sign("another secret that is long enough too", org="acme"))
    assert error.message == "the token's signature does not match"
    await auth.verify(token)


async def test_equal_claims_share_grants_and_roles(auth: Authenticator) -> None:
    first = await auth.verify(
        sign(org="acme", sub="a", roles=["member"], rooms={"x:*": ["join"], "y": ["join"]})
    )
    second = await auth.verify(
        sign(org="b", sub="b", roles=["member"], rooms={"y": ["join"], "x:*": ["join"]})
    )
    assert first.grants is second.grants
    assert first.roles is second.roles
    assert not hasattr(first, "__dict__")


async def test_an_issued_token_says_what_was_asked(auth: Authenticator, now: Clock) -> None:
    now.now += 0.25
    issued = auth.issue(
        org="acme", user="alice", roles=["member"], rooms={"chat:*": ["join", "history"]}, ttl=90
    )
    identity = await auth.verify(issued.token)
    assert (identity.org, identity.user, identity.roles) == ("acme", "alice", {"member"})
    assert identity.grants.allows("chat:1", Permission.JOIN | Permission.HISTORY)
    assert not identity.grants.allows("chat:1", Permission.PUBLISH)
    assert identity.jti == issued.jti
    assert identity.expires == issued.expires
    assert 90 <= issued.expires - now() < 91
    assert identity.issued_at == now()
    assert issued.token not in repr(issued)
    assert jwt.decode(issued.token, SECRET, ["HS256"], options={"verify_iat": False})["org"] == "acme"


async def test_issued_tokens_live_for_token_ttl_and_have_their_own_ids(now: Clock) -> None:
    auth = Authenticator(AuthSettings(secret=SECRET, token_ttl=100), now=now)
    one, other = auth.issue(org="acme"), auth.issue(org="acme")
    assert one.expires == now() + 100
    assert one.jti != other.jti


@pytest.mark.parametrize(
    "asked",
    [
        {"org": ""},
        {"org": "x" * 65},
        {"org": "a", "user": ""},
        {"org": "a", "user": "a\n"},
        {"org": "a", "roles": ["lead\n"]},
        {"org": "a", "roles": ["x" * 201]},
        {"org": "a", "roles": [f"r{number}" for number in range(33)]},
        {"org": "a", "rooms": {"x": ["dance"]}},
        {"org": "a", "ttl": 0.5},
        {"org": "a", "ttl": 86400 * 31},
        {"org": "a", "ttl": float("nan")},
        {"org": "a", "ttl": float("inf")},
        {"org": "a", "rooms": {"x" * 190 + str(i): ["join"] for i in range(100)}},
    ],
)
def test_nothing_is_issued_that_would_be_refused(auth: Authenticator, asked: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        auth.issue(**asked)
    assert caught.value.code is ErrorCode.BAD_FIELD


def test_bad_default_rooms_stop_the_start() -> None:
    with pytest.raises(SettingsError, match=r"auth\.default_rooms"):
        Authenticator(AuthSettings(secret=SECRET, default_rooms={"": ["join"]}))
