"""A token that is shown again is not verified again, and yet refused as soon as it is no longer good."""

from __future__ import annotations

import pytest

from gateway.auth.identity import Grants, Identity
from gateway.auth.tokens import Authenticator
from gateway.auth.verified import Verified
from gateway.config.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError

SOMEBODY = Identity("acme", "alice", frozenset(), Grants.ALL)


class Times:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def auth(times: Times) -> Authenticator:
    return Authenticator(AuthSettings(secret="s" * 40), now=lambda: times.now, clock=lambda: times.now)


async def refused(auth: Authenticator, token: str) -> ErrorCode:
    with pytest.raises(ProtocolError) as error:
        await auth.verify(token)
    return error.value.code


async def test_it_says_the_same_again(auth: Authenticator) -> None:
    token = auth.issue(org="acme", user="alice", rooms={"r": ["join"]}, meta={"a": 1}).token
    once = await auth.verify(token)
    again = await auth.verify(token)
    assert again == once and again is not once, "most tokens are shown once, and are not kept"
    assert await auth.verify(token) is again
    head, payload, signature = token.split(".")
    assert await refused(auth, f"{head}.{payload}.{signature[:-4]}AAAA") is ErrorCode.UNAUTHENTICATED
    assert await refused(auth, "\ud800") is ErrorCode.UNAUTHENTICATED


async def test_it_ends_and_is_revoked_as_if_it_were_new(auth: Authenticator, times: Times) -> None:
    lasting, short = (auth.issue(org="acme", user="alice", ttl=ttl) for ttl in (3000, 60))
    for token in (lasting.token, short.token):
        for _ in range(3):
            await auth.verify(token)
    times.now += 1000
    assert await refused(auth, short.token) is ErrorCode.TOKEN_EXPIRED
    auth.revocations.revoke(jti=lasting.jti, org="acme")
    assert await refused(auth, lasting.token) is ErrorCode.TOKEN_REVOKED


def test_it_is_good_for_the_key_it_was_verified_with() -> None:
    verified = Verified()
    old, new = object(), object()
    verified.keep("token", old, SOMEBODY)
    assert verified.find("token", old) is None and not len(verified), "it was shown once"
    verified.keep("token", old, SOMEBODY)
    assert verified.find("token", old) is SOMEBODY
    assert verified.find("token", new) is None, "the key was rotated"
    verified.keep("token", new, SOMEBODY)
    assert verified.find("token", old) is None
    assert len(verified) == 1


def test_it_is_bounded_and_keeps_what_is_in_use() -> None:
    verified = Verified(max_bytes=100_000)
    key = object()
    for _ in range(2):
        verified.keep("in use", key, SOMEBODY)
    for number in range(10_000):
        for _ in range(2):
            verified.keep(f"{number}" * (number % 7), key, SOMEBODY)
        verified.keep(f"once {number}", key, SOMEBODY)
        assert verified.find("in use", key) is SOMEBODY
        assert verified.bytes <= 100_000
    assert 10 < len(verified) < 200
    assert len(verified._once) <= 4096
