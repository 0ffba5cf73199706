"""Names: the vectors say which are good; here is the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, ProtocolError
from protocol.names import check_event, check_mid, check_pattern, check_room

CHECKS = [
    (check_room, ErrorCode.BAD_ROOM, 200, "room"),
    (check_event, ErrorCode.BAD_EVENT, 100, "event"),
    (check_mid, ErrorCode.BAD_FIELD, 100, "mid"),
    (check_pattern, ErrorCode.BAD_FIELD, 100, "events"),
]
every_check = pytest.mark.parametrize("check, code, limit, field", CHECKS, ids=[row[3] for row in CHECKS])
Check = Callable[[object], str]


@every_check
@given(name=st.text(max_size=250) | st.text("é\n*", min_size=45, max_size=105))
def test_rules(check: Check, code: ErrorCode, limit: int, field: str, name: str) -> None:
    good = (
        0 < len(name.encode(errors="surrogatepass")) <= limit
        and not any(ord(character) < 0x20 or ord(character) == 0x7F for character in name)
        and not any(0xD800 <= ord(character) <= 0xDFFF for character in name)
        and ("*" not in name or check in (check_mid, check_pattern))
    )
    if good:
        assert check(name) is name
    else:
        with pytest.raises(ProtocolError, match=f"^{field}: ") as caught:
            check(name)
        assert caught.value.code is code
        assert caught.value.fatal is None


@every_check
@pytest.mark.parametrize("name", [7, True, b"a", ["a"], {"a": 1}, 1.5])
def test_what_is_not_text(check: Check, code: ErrorCode, limit: int, field: str, name: object) -> None:
    with pytest.raises(ProtocolError, match="must be text") as caught:
        check(name)
    assert caught.value.code is code


@every_check
def test_an_absent_name_is_a_missing_field(check: Check, code: ErrorCode, limit: int, field: str) -> None:
    with pytest.raises(ProtocolError, match=f"{field}: is missing") as caught:
        check(None)
    assert caught.value.code is ErrorCode.MISSING_FIELD


@every_check
@pytest.mark.parametrize(
    "name, problem",
    [("", "empty"), ("x" * 1000, "longer than"), ("a\x00", "control"), ("a\ud800", "surrogate")],
)
def test_the_message_names_the_problem_and_not_the_name(
    check: Check, code: ErrorCode, limit: int, field: str, name: str, problem: str
) -> None:
    with pytest.raises(ProtocolError, match=problem) as caught:
        check(name)
    assert len(caught.value.message) < 100


@pytest.mark.parametrize("check", [check_room, check_event])
def test_a_star_is_for_patterns(check: Check) -> None:
    with pytest.raises(ProtocolError, match=r"must not contain \*"):
        check("task:*")


def test_patterns_of_rooms_may_be_longer_and_have_their_own_field() -> None:
    assert check_pattern("r" * 199 + "*", field="rooms", max_bytes=200)
    with pytest.raises(ProtocolError, match=r"^rooms: .* 200 bytes"):
        check_pattern("r" * 201, field="rooms", max_bytes=200)
