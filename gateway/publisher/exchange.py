"""From a call to its result over failures: what is sent, for how long is waited, when it is over. Pure.

A generator that yields what is to be done and is sent what came of it, so that one text serves programs with
threads and with an event loop.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from gateway.publisher.calls import LONGEST_WAIT, Call, get_approval
from gateway.publisher.errors import PublisherError, Refused, Unreachable
from gateway.publisher.results import problem

__all__ = [
    "Answer",
    "Authorize",
    "Failed",
    "Pause",
    "Policy",
    "Request",
    "Step",
    "exchange",
    "wait_for_approval",
]

T = TypeVar("T")

_NOT_DONE: Final = frozenset({408, 429, 503})
"""The gateway did not do it, unless the number says that nobody knows."""
_UNKNOWN: Final = frozenset({500, 502, 504})
"""Of proxies mostly: it may have been done."""
_TIMEOUT: Final = 303
_AWAY: Final = 401
_CONFLICT: Final = 409


@dataclass(frozen=True, slots=True)
class Policy:
    """How long and how often."""

    timeout: float = 10.0
    """Seconds for one request, beside its own patience."""
    deadline: float = 30.0
    """Seconds for all tries of a call together; no pause begins that would end behind it."""
    tries: int = 5
    base: float = 0.1
    """Upper bound of the first pause, in seconds; each next one is twice as long."""
    maximum: float = 5.0
    jitter: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if not (self.timeout > 0 and self.deadline > 0 and self.tries >= 1 and self.base > 0):
            raise ValueError("timeout, deadline, tries and base must be positive")

    def pause(self, failures: int, retry_after: float | None) -> float:
        """Seconds to wait after so many failures in a row."""
        return (retry_after or 0.0) + self.jitter() * min(
            self.maximum, self.base * 2.0 ** min(failures - 1, 20)
        )


@dataclass(frozen=True, slots=True)
class Authorize:
    """Get the token; ``fresh``: the last one was refused."""

    fresh: bool


@dataclass(frozen=True, slots=True)
class Request:
    """Send it; answered by :class:`Answer` or :class:`Failed`."""

    call: Call[Any]
    body: bytes | None
    token: str | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    body: bytes
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer; ``sent``: the request may have arrived."""

    reason: str
    sent: bool


Step = Authorize | Request | Pause


def exchange(
    call: Call[T], policy: Policy, now: Callable[[], float], *, renewable: bool
) -> Generator[Step, Any, T]:
    """Carry out ``call``. ``renewable``: another token can be had when one was refused.

    ValueError for data that is no JSON; else a PublisherError when it did not succeed.
    """
    body = None if call.body is None else _encode(call.body)
    end = now() + policy.deadline + call.patience
    failures = 0
    doubtful = False
    renewed = False
    token = yield Authorize(False)
    while True:
        outcome = yield Request(call, body, token, policy.timeout + call.patience)
        error: PublisherError
        retry_after = None
        if isinstance(outcome, Failed):
            doubtful = doubtful or outcome.sent
            error, again = Unreachable(outcome.reason, sent=doubtful), call.repeatable or not outcome.sent
        else:
            assert isinstance(outcome, Answer)
            if 200 <= outcome.status < 300:
                return _read(call, outcome)
            document = _decode(outcome.body)
            error = problem(outcome.status, document, outcome.body.decode(errors="replace"))
            if outcome.status == _CONFLICT and doubtful and call.conflict is not None:
                found = call.conflict(error.problem)
                if found is not None:
                    return call.read(found)
            if outcome.status == _AWAY and renewable and not renewed:
                renewed = True
                token = yield Authorize(True)
                continue
            again, unknown = _again(error, call)
            doubtful = doubtful or unknown
            retry_after = error.retry_after
            if retry_after is None and outcome.retry_after and outcome.retry_after.isdigit():
                retry_after = float(outcome.retry_after)
        failures += 1
        pause = policy.pause(failures, retry_after)
        if not again or failures >= policy.tries or now() + pause >= end:
            raise error
        yield Pause(pause)


def wait_for_approval(
    id: str, timeout: float | None, policy: Policy, now: Callable[[], float], *, renewable: bool
) -> Generator[Step, Any, dict[str, Any]]:
    """Ask until it is decided or expired, for ``timeout`` seconds (None: for ever); a gateway that is away is
    asked again. Raises TimeoutError, and Refused for what waiting cannot help."""
    end = math.inf if timeout is None else now() + timeout
    while True:
        wait = max(0.0, min(LONGEST_WAIT, end - now()))
        try:
            approval = yield from exchange(get_approval(id, wait=wait), policy, now, renewable=renewable)
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.status < 500:
                raise
            if now() >= end:
                raise TimeoutError(f"approval {id}: not known to be decided") from error
            yield Pause(min(1.0, max(0.0, end - now())))
            continue
        if approval["status"] != "pending":
            return approval
        if now() >= end:
            raise TimeoutError(f"approval {id}: not decided yet")


def _again(error: Refused, call: Call[Any]) -> tuple[bool, bool]:
    """Whether another try makes sense, and whether it may have been done."""
    if error.status in _NOT_DONE:
        unknown = error.code == _TIMEOUT
        return (call.repeatable or not unknown), unknown
    if error.status in _UNKNOWN:
        return call.repeatable, True
    return False, False


def _read(call: Call[T], answer: Answer) -> T:
    try:
        return call.read(_decode(answer.body))
    except (msgspec.ValidationError, AttributeError, KeyError, TypeError) as error:
        raise Unreachable(f"the answer to {call.path} cannot be understood: {error}", sent=True) from error


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _encode(body: Any) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"the data is not JSON: {error}") from None
