"""One-use tickets."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.auth.identity import Grants, Identity
from gateway.auth.tickets import Tickets
from gateway.auth.tokens import Authenticator
from gateway.config.settings import AuthSettings
from gateway.testing.settings import SECRET
from protocol.errors import ErrorCode, ProtocolError
from tests.auth.support import Clock

ALICE = Identity("acme", "alice", frozenset(), Grants.ALL)
BOB = Identity("acme", "bob", frozenset(), Grants.ALL)


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(AuthSettings(ticket_ttl=30, max_tickets=3), clock)


def refused(tickets: Tickets, ticket: str) -> bool:
    with pytest.raises(ProtocolError) as caught:
        tickets.redeem(ticket)
    return caught.value.code is ErrorCode.UNAUTHENTICATED


def test_a_ticket_is_good_once(tickets: Tickets) -> None:
    one, other = tickets.issue(ALICE), tickets.issue(BOB)
    assert one != other
    assert len(one) * 6 >= 128
    assert tickets.redeem(other) is BOB
    assert tickets.redeem(one) is ALICE
    assert refused(tickets, one)
    assert refused(tickets, "made up")
    assert refused(tickets, "")


def test_a_ticket_expires(tickets: Tickets, clock: Clock) -> None:
    early, late = tickets.issue(ALICE), tickets.issue(BOB)
    clock.now += 29.9
    assert tickets.redeem(early) is ALICE
    clock.now += 0.1
    assert refused(tickets, late)


def test_too_many_open_tickets_are_refused_until_one_ends(tickets: Tickets, clock: Clock) -> None:
    first = tickets.issue(ALICE)
    clock.now += 10
    tickets.issue(ALICE)
    tickets.issue(ALICE)
    with pytest.raises(ProtocolError) as caught:
        tickets.issue(BOB)
    assert caught.value.code is ErrorCode.OVERLOADED
    assert caught.value.retry_after == pytest.approx(20)
    tickets.redeem(first)
    tickets.issue(BOB)
    assert len(tickets) == 3
    clock.now += 30
    for _ in range(3):
        tickets.issue(BOB)
    assert len(tickets) == 3


async def test_time_is_trios_own(autojump_clock: trio.testing.MockClock) -> None:
    tickets = Authenticator(AuthSettings(secret=SECRET)).tickets
    good, late = tickets.issue(ALICE), tickets.issue(ALICE)
    await trio.sleep(29)
    assert tickets.redeem(good) is ALICE
    await trio.sleep(2)
    assert refused(tickets, late)


async def test_a_ticket_of_a_token_that_ended_meanwhile_is_refused(now: Clock) -> None:
    auth = Authenticator(AuthSettings(secret=SECRET), now=now)
    identity = await auth.verify(auth.issue(org="acme", user="alice", ttl=10).token)
    good, revoked, expired = (auth.tickets.issue(identity) for _ in range(3))
    assert auth.tickets.redeem(good) is identity
    now.now += 15
    with pytest.raises(ProtocolError) as caught:
        auth.tickets.redeem(expired)
    assert caught.value.code is ErrorCode.TOKEN_EXPIRED
    now.now -= 10
    auth.revocations.revoke(jti=identity.jti)
    with pytest.raises(ProtocolError) as caught:
        auth.tickets.redeem(revoked)
    assert caught.value.code is ErrorCode.TOKEN_REVOKED


def test_no_organisation_uses_up_the_tickets_of_another(clock: Clock) -> None:
    tickets = Tickets(AuthSettings(ticket_ttl=30, max_tickets=2), clock)

    def issue(org: str) -> bool:
        try:
            tickets.issue(Identity(org, "alice", frozenset(), Grants.ALL))
        except ProtocolError as error:
            assert error.code is ErrorCode.OVERLOADED and error.retry_after == 30
            return False
        return True

    assert [issue("acme") for _ in range(4)] == [True, True, False, False]
    assert issue("other")
    assert sum(issue(f"o{number}") for number in range(100)) == 2 * 10 - 3  # all together are bounded, too
    clock.now += 30
    assert issue("acme") and len(tickets) == 1
