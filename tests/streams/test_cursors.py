"""What cursors say, and to whom."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.identity import Grants, Identity
from gateway.broker.base import Since
from gateway.config.settings import AuthSettings
from gateway.transports.cursor import ORGANISATION, USER, Cursors, order_of, packed
from protocol.errors import ErrorCode, ProtocolError

CURSORS = Cursors(AuthSettings(secret="s" * 40))
EPOCHS = st.one_of(
    st.from_regex(r"[0-9a-f]{12}", fullmatch=True), st.text(st.characters(codec="ascii"), max_size=100)
)
PLACES = st.builds(Since, EPOCHS, st.integers(0, 2**63 - 1))
ORDERS = st.one_of(st.sampled_from([ORGANISATION, USER]), st.text(min_size=1, max_size=20))


def identity(org: str = "acme", user: str | None = "alice") -> Identity:
    return Identity(org, user, frozenset(), Grants.ALL)


@given(places=st.dictionaries(ORDERS, PLACES, max_size=34))
def test_what_is_written_is_read_again(places: dict[str, Since]) -> None:
    read = CURSORS.read(CURSORS.write(places, "acme", "alice"), identity())
    assert {order: read.of(order) for order in places} == places


@given(everybody=PLACES, room=PLACES, own=PLACES, later=PLACES)
def test_a_shared_and_a_personal_part_count_as_one(
    everybody: Since, room: Since, own: Since, later: Since
) -> None:
    stands = [packed(order_of(ORGANISATION), *everybody), packed(order_of("chat:1"), *room)]
    shared = CURSORS.write_shared(stands, "acme").decode()
    personal = CURSORS.write({USER: own}, "acme", "alice")
    read = CURSORS.read(f"{personal}.{shared}", identity())
    assert (read.of(ORGANISATION), read.of("chat:1"), read.of(USER)) == (everybody, room, own)
    assert read.of("chat:2") is None
    again = CURSORS.read(CURSORS.rewrite(shared, {"chat:1": later}, "acme", "alice"), identity())
    assert (again.of(ORGANISATION), again.of("chat:1")) == (everybody, later)


def test_the_cursor_of_an_event_is_short() -> None:
    """It stands behind each event of a stream."""
    ours = Since("59ec62db48ec", 1234)
    stands = [packed(order_of(ORGANISATION), *ours), packed(order_of("chat:1"), *ours)]
    assert len(CURSORS.write_shared(stands, "acme")) <= 50
    assert len(CURSORS.write({USER: ours}, "acme", "alice")) <= 30


@given(place=PLACES, bit=st.integers(0, 10**9))
def test_no_other_bit_and_nobody_else(place: Since, bit: int) -> None:
    cursor = CURSORS.write({"chat:1": place, USER: place}, "acme", "alice")
    data = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    changed = base64.urlsafe_b64encode(data).decode().rstrip("=")
    for told, who in (
        (changed, identity()),
        (cursor, identity("other")),
        (cursor, identity(user="bob")),
        (cursor, identity(user=None)),
    ):
        with pytest.raises(ProtocolError) as refused:
            CURSORS.read(told, who)
        assert refused.value.code == ErrorCode.BAD_FIELD
