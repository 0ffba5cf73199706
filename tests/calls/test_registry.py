"""Who answers a call: handlers with typed arguments and roles, and their failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from gateway.auth.identity import Grants, Identity
from gateway.calls.caller import Caller
from gateway.calls.registry import Calls
from protocol.errors import ErrorCode, ProtocolError

OPERATOR = Caller("n1-1", Identity("acme", "alice", frozenset({"operator"}), Grants.of({})))
MEMBER = Caller("n1-2", Identity("acme", "bob", frozenset({"member"}), Grants.of({})))


class Pause(msgspec.Struct):
    councilor: str
    minutes: int = 5


@dataclass
class Paused:
    name: str
    minutes: int


async def pause(caller: Caller, data: Pause) -> Paused:
    if data.councilor == "nobody":
        raise ProtocolError(ErrorCode.CALL_REJECTED, "no such councilor")
    if data.councilor == "broken":
        raise ValueError("secret detail")
    return Paused(data.councilor, data.minutes)


@pytest.fixture
def calls() -> Calls:
    made = Calls()
    made.register("pause", pause, roles={"operator"}, arguments=Pause)
    return made


async def code_of(calls: Calls, data: Any, caller: Caller = OPERATOR, name: str = "pause") -> tuple[int, str]:
    with pytest.raises(ProtocolError) as caught:
        await calls.invoke(name, data, caller=caller)
    return caught.value.code, caught.value.message


async def test_arguments_are_typed_and_the_result_is_a_value(calls: Calls) -> None:
    answer = await calls.invoke("pause", {"councilor": "cicero"}, caller=OPERATOR)
    assert answer == {"name": "cicero", "minutes": 5}


async def test_refusals_are_numbered(calls: Calls) -> None:
    assert await code_of(calls, {}) == (ErrorCode.MISSING_FIELD, "data.councilor: is missing")
    assert (await code_of(calls, {"councilor": 1}))[0] == ErrorCode.BAD_FIELD
    assert (await code_of(calls, {"councilor": "nobody"})) == (ErrorCode.CALL_REJECTED, "no such councilor")
    assert (await code_of(calls, {"councilor": "x"}, MEMBER))[0] == ErrorCode.FORBIDDEN
    assert (await code_of(calls, None, name="unknown"))[0] == ErrorCode.UNKNOWN_CALL


async def test_a_failure_tells_no_details(calls: Calls) -> None:
    code, message = await code_of(calls, {"councilor": "broken"})
    assert code == ErrorCode.INTERNAL and "secret" not in message


async def test_a_result_that_cannot_be_sent_is_a_failure(calls: Calls) -> None:
    async def odd(caller: Caller, data: Any) -> Any:
        return {1: object()}

    calls.register("odd", odd)
    assert (await code_of(calls, None, name="odd"))[0] == ErrorCode.INTERNAL


def test_a_name_has_one_handler(calls: Calls) -> None:
    with pytest.raises(ValueError, match="already"):
        calls.register("pause", pause)
