"""The numbers are a promise: their ranges say what a client should do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protocol.errors import CloseCode, ErrorCode, ProtocolError, malformed, should_reconnect

SPECIFICATION = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


def test_data_says_when_to_try_again() -> None:
    assert ProtocolError(ErrorCode.RATE_LIMITED, "slow down", retry_after=0.5).data == {"retry_after": 0.5}
    assert ProtocolError(ErrorCode.BAD_FIELD, "no").data is None


def test_malformed_is_fatal() -> None:
    error = malformed("why")
    assert (error.code, error.fatal, str(error), error.message) == (100, 1007, "why", "why")


@pytest.mark.parametrize(
    "code, expected",
    [(1000, True), (1001, True), (1005, True), (1006, True), (1008, False), (1009, False),
     (1011, True), (1012, True), (1013, True), (4000, True), (4499, True), (4500, False), (4999, False)],
)  # fmt: skip
def test_reconnect_follows_the_range(code: int, expected: bool) -> None:
    assert should_reconnect(code) is expected


@pytest.mark.parametrize("numbers", [ErrorCode, CloseCode])
def test_the_specification_lists_every_number(numbers: type[ErrorCode] | type[CloseCode]) -> None:
    listed = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", SPECIFICATION, re.MULTILINE))
    for number in numbers:
        assert listed.get(str(int(number))) == number.name


def test_the_specification_lists_no_other_number() -> None:
    listed = set(re.findall(r"^\| (\d+) \| `(\w+)` \|", SPECIFICATION, re.MULTILINE))
    known = {(str(int(number)), number.name) for numbers in (ErrorCode, CloseCode) for number in numbers}
    assert listed == known


def test_the_specification_says_which_close_codes_to_reconnect_after() -> None:
    rows = re.findall(r"^\| (\d+) \| `\w+` \| (yes|no) \|", SPECIFICATION, re.MULTILINE)
    assert rows
    assert {int(code): answer == "yes" for code, answer in rows} == {
        int(code): should_reconnect(code) for code in CloseCode
    }
