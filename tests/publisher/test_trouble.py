"""What is repeated and what is not, how long, and what a full queue says."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from gateway.publisher import (
    AsyncPublisher,
    Publisher,
    PublisherClosed,
    PublisherError,
    QueueFull,
    Refused,
    Unreachable,
)
from gateway.publisher.calls import create_execution, decide, publish, send_to_connection, update_execution
from gateway.publisher.exchange import Answer, Authorize, Failed, Pause, Policy, Request, exchange
from tests.publisher.both import KINDS, Script, open_publisher

URL = "http://gateway.example"
PLACE = {"mid": "m", "seq": 1, "epoch": "e"}
QUICK = Policy(jitter=lambda: 1.0)


def carry_out(
    call: Any, *outcomes: Any, policy: Policy = QUICK, renewable: bool = False
) -> tuple[Any, list[Any]]:
    """Run an exchange; what it ends with, and its steps."""
    left = list(outcomes)
    steps: list[Any] = []
    time = 0.0
    running = exchange(call, policy, lambda: time, renewable=renewable)
    outcome = None
    while True:
        try:
            step = running.send(outcome)
        except StopIteration as done:
            return done.value, steps
        except PublisherError as error:
            return error, steps
        steps.append(step)
        outcome = None
        if isinstance(step, Authorize):
            outcome = "fresh" if step.fresh else "token"
        elif isinstance(step, Pause):
            time += step.seconds
        else:
            outcome = left.pop(0)


def answer(status: int, **body: Any) -> Answer:
    return Answer(status, json.dumps(body).encode())


def pauses(steps: list[Any]) -> list[float]:
    return [step.seconds for step in steps if isinstance(step, Pause)]


def bodies(steps: list[Any]) -> set[bytes | None]:
    return {step.body for step in steps if isinstance(step, Request)}


EVENT = publish("r", "x", 1)
LOST = Failed("cut", sent=True)
AWAY = Failed("refused", sent=False)
BUSY = answer(503, code=301, detail="busy", retry_after=2)
UNKNOWN = answer(503, code=303, detail="too slow", retry_after=1)


@pytest.mark.parametrize("trouble", [LOST, AWAY, BUSY, UNKNOWN, answer(502), answer(429, code=300)])
def test_a_message_with_an_id_is_repeated_as_it_was(trouble: Any) -> None:
    result, steps = carry_out(EVENT, trouble, trouble, answer(200, **PLACE))
    assert result.seq == 1
    assert len(bodies(steps)) == 1
    asked = {BUSY: 2.0, UNKNOWN: 1.0}.get(trouble, 0.0) if isinstance(trouble, Answer) else 0.0
    assert pauses(steps) == [asked + 0.1, asked + 0.2]


@pytest.mark.parametrize("trouble", [LOST, UNKNOWN, answer(502), answer(500, code=500)])
def test_what_has_no_order_is_not_repeated_once_it_may_have_arrived(trouble: Any) -> None:
    result, steps = carry_out(send_to_connection("c", "x", 1), trouble)
    assert isinstance(result, Unreachable | Refused)
    assert pauses(steps) == []


@pytest.mark.parametrize("trouble", [AWAY, BUSY])
def test_it_is_repeated_when_it_surely_was_not_done(trouble: Any) -> None:
    result, _ = carry_out(send_to_connection("c", "x", 1), trouble, answer(200, mid="m", connections=1))
    assert result.connections == 1


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 422])
def test_what_another_try_cannot_change_is_said_at_once(status: int) -> None:
    result, steps = carry_out(EVENT, answer(status, code=104, detail="why"))
    assert isinstance(result, Refused)
    assert (result.status, result.code, result.reason) == (status, 104, "why")
    assert pauses(steps) == []


def test_tries_and_time_have_an_end() -> None:
    result, steps = carry_out(EVENT, *[AWAY] * 9)
    assert isinstance(result, Unreachable) and not result.sent
    assert pauses(steps) == [0.1, 0.2, 0.4, 0.8]
    slow = answer(503, code=301, retry_after=20)
    result, steps = carry_out(EVENT, *[slow] * 9)
    assert isinstance(result, Refused)
    assert len(pauses(steps)) == 1, "the second would end behind the deadline"


def test_a_token_is_renewed_once() -> None:
    expired = answer(401, code=201, detail="expired")
    result, steps = carry_out(EVENT, expired, answer(200, **PLACE), renewable=True)
    assert result.seq == 1
    assert [step.token for step in steps if isinstance(step, Request)] == ["token", "fresh"]
    result, _ = carry_out(EVENT, expired, expired, renewable=True)
    assert isinstance(result, Refused) and result.status == 401
    result, steps = carry_out(EVENT, expired)
    assert isinstance(result, Refused) and len(steps) == 2


def test_a_conflict_with_oneself_is_success() -> None:
    row = {"id": "e1", "agent": "writer", "status": "completed"}
    conflict = answer(409, code=111, detail="exists", execution=row)
    assert carry_out(create_execution("writer", id="e1"), LOST, conflict)[0] == row
    assert carry_out(update_execution("e1", status="completed"), LOST, conflict)[0] == row
    assert isinstance(carry_out(update_execution("e1", status="failed"), LOST, conflict)[0], Refused)
    assert isinstance(carry_out(create_execution("writer", id="e1"), conflict)[0], Refused)
    decided = answer(409, code=111, decision={"choice": "approve"}, approval={"id": "a"})
    assert carry_out(decide("a", "approve"), LOST, decided)[0] == {"id": "a"}
    assert isinstance(carry_out(decide("a", "reject"), LOST, decided)[0], Refused)


def test_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        carry_out(publish("r", "x", object()))
    result, _ = carry_out(EVENT, Answer(200, b"<html>"))
    assert isinstance(result, Unreachable) and "understood" in str(result)
    result, _ = carry_out(EVENT, Answer(403, b"<h1>no</h1>"))
    assert isinstance(result, Refused) and result.code is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_breaks(kind: str) -> None:
    script = Script(httpx.ReadError("cut"), httpx.ConnectError("away"), httpx.Response(200, json=PLACE))
    with open_publisher(kind, URL, token=lambda: "t", transport=script) as publisher:
        assert publisher.publish("r", "x", 1).seq == 1
    assert [json.loads(request.content)["event"] for request in script.requests] == ["x"] * 3
    assert len({request.content for request in script.requests}) == 1
    assert {request.headers["authorization"] for request in script.requests} == {"Bearer t"}
    assert script.requests[0].url == f"{URL}/api/v1/broadcast"


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_queue_says_so(kind: str) -> None:
    given_up: list[Mapping[str, Any]] = []
    script = Script(httpx.ConnectError("away"))
    options: dict[str, Any] = {
        "transport": script,
        "queue_messages": 3,
        "queue_bytes": 10_000,
        "tries": 1,
        "close_timeout": 0.01,
        "on_error": lambda operation, error: given_up.append(operation),
    }
    with open_publisher(kind, URL, token="t", **options) as publisher:
        with pytest.raises(QueueFull, match="bytes"):
            publisher.enqueue("r", "x", "a" * 20_000)
        with pytest.raises(ValueError, match="not JSON"):
            publisher.enqueue("r", "x", object())
        for number in range(3):
            publisher.enqueue("r", "x", number)
        with pytest.raises(QueueFull, match="3 events wait"):
            publisher.enqueue("r", "x", 4)
        assert script.asked.acquire(timeout=30)
        assert publisher.waiting == 3, "away is no reason to drop anything"
        with pytest.raises(TimeoutError):
            publisher.flush(0.01)
    assert [operation["data"] for operation in given_up] == [0, 1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_single_refusals_in_a_batch(kind: str) -> None:
    given_up: list[Any] = []

    def some(request: httpx.Request) -> httpx.Response:
        problem = {"status": 403, "code": 202, "detail": "no"}
        results = [
            {"status": 403, "problem": problem} if each["data"] == "bad" else {"status": 200, **PLACE}
            for each in json.loads(request.content)["operations"]
        ]
        return httpx.Response(200, json={"results": results})

    script = Script(some)
    with open_publisher(
        kind, URL, token="t", transport=script, on_error=lambda operation, error: given_up.append(error)
    ) as publisher:
        for data in ("good", "bad", "good"):
            publisher.enqueue("r", "x", data)
        publisher.flush(30)
        assert (publisher.waiting, publisher.dropped) == (0, 1)
    assert [error.code for error in given_up] == [202]


def test_a_closed_publisher() -> None:
    with open_publisher("threads", URL, token="t", transport=Script(httpx.Response(200, json=PLACE))) as one:
        pass
    with pytest.raises(PublisherClosed):
        one.publish("r", "x")
    with pytest.raises(PublisherClosed):
        one.enqueue("r", "x")


@pytest.mark.parametrize("options", [{"timeout": 0}, {"tries": 0}, {"queue_messages": 0}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"positive|at least"):
        with open_publisher("threads", URL, token="t", **options):
            pass


def test_both_take_and_say_the_same() -> None:
    own = {"aclose", "close"}
    methods = [
        {name: member for name, member in inspect.getmembers(kind, callable) if not name.startswith("_")}
        for kind in (Publisher, AsyncPublisher)
    ]
    assert set(methods[0]) - own == set(methods[1]) - own
    for name in set(methods[0]) - own:
        first, second = (each[name] for each in methods)
        assert first.__doc__ and first.__doc__ == second.__doc__, name
        assert list(inspect.signature(first).parameters) == list(inspect.signature(second).parameters), name
