"""Tokens that are refused before they expire."""

from __future__ import annotations

import math

import pytest

from gateway.auth.identity import Grants, Identity
from gateway.auth.revocation import Revocations
from gateway.auth.tokens import Authenticator
from gateway.config.settings import AuthSettings
from gateway.testing.settings import SECRET
from protocol.errors import ErrorCode, ProtocolError
from tests.auth.support import Clock, sign

START = 1_000_000.0


def identity(
    org: str = "acme",
    user: str | None = "alice",
    *,
    issued: float | None = START,
    expires: float | None = START + 3600,
    jti: str | None = "t1",
) -> Identity:
    return Identity(org, user, frozenset(), Grants.ALL, expires=expires, jti=jti, issued_at=issued)


@pytest.fixture
def clock() -> Clock:
    return Clock(START + 1)


@pytest.fixture
def revocations(clock: Clock) -> Revocations:
    return Revocations(AuthSettings(max_token_ttl=7200, max_revocations=3), clock)


def test_a_token_by_its_id(revocations: Revocations) -> None:
    revocations.revoke(jti="t1")
    assert revocations.is_revoked(identity())
    assert revocations.is_revoked(identity("other"))
    assert not revocations.is_revoked(identity(jti="t2"))
    assert not revocations.is_revoked(identity(jti=None))


def test_a_token_by_its_id_in_one_organisation(revocations: Revocations) -> None:
    revocations.revoke(jti="t1", org="acme")
    assert revocations.is_revoked(identity())
    assert not revocations.is_revoked(identity("other"))


def test_a_user_of_one_organisation(revocations: Revocations, clock: Clock) -> None:
    revocations.revoke(org="acme", user="alice")
    assert revocations.is_revoked(identity())
    assert not revocations.is_revoked(identity(user="bob"))
    assert not revocations.is_revoked(identity(user=None))
    assert not revocations.is_revoked(identity("other"))
    assert not revocations.is_revoked(identity(issued=clock() + 0.01))


def test_a_whole_organisation(revocations: Revocations, clock: Clock) -> None:
    revocations.revoke(org="acme")
    assert revocations.is_revoked(identity())
    assert revocations.is_revoked(identity(user=None))
    assert not revocations.is_revoked(identity("other"))
    assert not revocations.is_revoked(identity(issued=clock() + 0.01))


def test_a_token_without_time_of_issue_counts_as_older(revocations: Revocations) -> None:
    assert not revocations.is_revoked(identity(issued=None))
    revocations.revoke(org="other")
    assert not revocations.is_revoked(identity(issued=None))
    revocations.revoke(org="acme", user="alice")
    assert revocations.is_revoked(identity(issued=None))
    assert not revocations.is_revoked(identity(issued=None, user="bob"))


def test_the_later_of_two_revocations_counts(revocations: Revocations, clock: Clock) -> None:
    revocations.revoke(org="acme")
    clock.now += 10
    later = identity(issued=clock())
    assert not revocations.is_revoked(later)
    revocations.revoke(org="acme")
    assert revocations.is_revoked(later)
    assert len(revocations) == 1


def test_nothing_to_revoke_is_refused(revocations: Revocations) -> None:
    for arguments, code in (
        ({}, ErrorCode.MISSING_FIELD),
        ({"user": "alice"}, ErrorCode.MISSING_FIELD),
        ({"jti": "t1", "org": "acme", "user": "alice"}, ErrorCode.BAD_FIELD),
    ):
        with pytest.raises(ProtocolError) as caught:
            revocations.revoke(**arguments)
        assert caught.value.code is code


def test_a_full_table_refuses_rather_than_forgets(revocations: Revocations, clock: Clock) -> None:
    for jti in ("t1", "t2", "t3"):
        revocations.revoke(jti=jti)
        clock.now += 1
    with pytest.raises(ProtocolError) as caught:
        revocations.revoke(jti="t4")
    assert caught.value.code is ErrorCode.OVERLOADED
    revocations.revoke(jti="t2")  # held already: no room needed
    assert all(revocations.is_revoked(identity(jti=jti)) for jti in ("t1", "t2", "t3"))
    assert not revocations.is_revoked(identity(jti="t4"))


def test_an_organisation_uses_up_its_own_share_only(revocations: Revocations) -> None:
    for jti in ("t1", "t2", "t3"):
        revocations.revoke(org="evil", jti=jti)
    with pytest.raises(ProtocolError):
        revocations.revoke(org="evil", jti="t4")
    revocations.revoke(org="acme", user="alice")
    assert revocations.is_revoked(identity())


@pytest.mark.parametrize("name", [{"jti": "x" * 201}, {"org": "acme", "user": "x" * 201}, {"org": "x" * 65}])
def test_names_that_no_token_has_are_not_kept(revocations: Revocations, name: dict[str, str]) -> None:
    with pytest.raises(ProtocolError) as caught:
        revocations.revoke(**name)
    assert caught.value.code is ErrorCode.BAD_FIELD
    assert len(revocations) == 0


@pytest.mark.parametrize("behind", [0.0, 0.4, 2.0, -2.0])
@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
def test_a_token_signed_after_a_revocation_is_good_by_any_clock(
    revocations: Revocations, clock: Clock, behind: float, fraction: float
) -> None:
    clock.now += fraction

    def signed() -> Identity:
        return identity(issued=math.floor(clock() - behind))

    assert not revocations.is_revoked(signed())
    old = signed()
    at = revocations.revoke(org="acme", user="alice")
    assert revocations.is_revoked(old)
    wait = revocations.settled("acme", at)
    assert wait <= 2.0
    clock.now += wait
    assert not revocations.is_revoked(signed())
    assert revocations.is_revoked(old)


def test_entries_go_when_every_token_they_hit_has_expired(revocations: Revocations, clock: Clock) -> None:
    revocations.revoke(jti="old")
    clock.now += 7199
    revocations.revoke(jti="new")
    assert len(revocations) == 2
    clock.now += 1
    revocations.revoke(jti="newer")
    assert len(revocations) == 2
    assert revocations.is_revoked(identity(jti="new"))


@pytest.mark.parametrize("expires", [None, START + 100_000])
def test_a_token_that_lives_longer_keeps_the_entries_longer(
    revocations: Revocations, clock: Clock, expires: float | None
) -> None:
    assert not revocations.is_revoked(identity(expires=expires))
    revocations.revoke(jti="t1")
    clock.now += 50_000
    revocations.revoke(jti="t2")
    assert revocations.is_revoked(identity(expires=expires))


async def test_verification_refuses_what_was_revoked() -> None:
    auth = Authenticator(AuthSettings(secret=SECRET))
    before, other = auth.issue(org="acme", user="alice"), auth.issue(org="acme", user="bob")
    auth.revocations.revoke(org="acme", user="alice")
    with pytest.raises(ProtocolError) as caught:
        await auth.verify(before.token)
    assert caught.value.code is ErrorCode.TOKEN_REVOKED
    await auth.verify(other.token)
    # A login in the same second works again, since the tokens made here tell fractions of it.
    await auth.verify(auth.issue(org="acme", user="alice").token)
    auth.revocations.revoke(jti=other.jti)
    with pytest.raises(ProtocolError) as caught:
        await auth.verify(other.token)
    assert caught.value.code is ErrorCode.TOKEN_REVOKED


async def test_whole_seconds_of_other_issuers_err_on_the_safe_side(now: Clock) -> None:
    auth = Authenticator(AuthSettings(secret=SECRET), now=now)
    token = sign(org="acme", iat=int(now()))
    now.now += 0.5
    auth.revocations.revoke(org="acme")
    with pytest.raises(ProtocolError):
        await auth.verify(token)
