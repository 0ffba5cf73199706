"""The numbers are a promise: their ranges say what a client should do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from protocol.errors import CloseCode, ErrorCode, ProtocolError, malformed, should_reconnect

ROOT = Path(__file__).parents[2]
SPECIFICATION = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")


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


# --- The documentation ----------------------------------------------------------------------------

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_the_specification_says_what_each_error_means_and_its_status() -> None:
    listed = re.findall(r"^\| (\d+) \| `(\w+)` \| (\d{3}) \| (.+) \|$", SPECIFICATION, re.MULTILINE)
    assert listed == [(str(int(code)), code.name, str(code.status), code.meaning) for code in ErrorCode]


def test_the_specification_says_when_each_close_code_is_used() -> None:
    listed = re.findall(r"^\| (\d+) \| `(\w+)` \| (?:yes|no) \| (.+) \|$", SPECIFICATION, re.MULTILINE)
    assert listed == [(str(int(code)), code.name, code.meaning) for code in CloseCode]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_errors_that_there_are(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    numbers = re.findall(r"\berrors? (\d{3})\b", text)
    numbers += re.findall(r"\berrors? \d{3} (?:and|or) (\d{3})\b", text)
    numbers += re.findall(r"(?<!HTTP )\b(\d{3}) \(?`[A-Z_]{5,}`", text)
    assert {int(number) for number in numbers} <= set(ErrorCode)
    for number, name in re.findall(r"\b(\d{3,4}) \(?`([A-Z_]{5,})`", text):
        known = {int(code): code.name for codes in (ErrorCode, CloseCode) for code in codes}
        assert known.get(int(number)) == name


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_a_status_says_the_same_as_the_range(code: ErrorCode) -> None:
    assert ErrorCode(int(code)) is code
    assert code.meaning and code.meaning == code.meaning.strip(" .")
    ranges = {1: {400, 404, 409, 422, 501}, 2: {401, 403}, 3: {429, 503}, 4: {409, 413, 429, 503}, 5: {500}}
    assert code.status in ranges[code // 100]
