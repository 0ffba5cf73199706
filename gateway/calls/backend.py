"""A backend that answers calls over HTTP: one POST each, signed as Standard Webhooks.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import datetime
import math
from collections import Counter
from typing import Any, Final

import httpcore
import msgspec
import structlog
import trio
from standardwebhooks.webhooks import Webhook

from gateway.calls.breaker import Breaker, State
from gateway.calls.egress import CheckedNetwork, ForbiddenAddress
from gateway.config.settings import CallSettings
from protocol.errors import ErrorCode, ProtocolError
from protocol.values import check_value

__all__ = ["Backend", "CallerInfo", "Request"]

log = structlog.get_logger(__name__)

_RETRIES: Final = 2
"""Further attempts where the backend is idempotent."""
_BACKOFF: Final = 0.1
_MAX_REASON: Final = 200


class CallerInfo(msgspec.Struct, frozen=True):
    """Who calls, as the backend is told."""

    org: str
    user: str | None
    connection: str | None
    roles: list[str]


class Request(msgspec.Struct, frozen=True):
    """The body of the POST."""

    call: str
    id: str
    data: Any
    caller: CallerInfo


class _Problem(msgspec.Struct):
    """What a refusal's JSON body may say (RFC 9457)."""

    detail: str | None = None
    message: str | None = None


class _Unanswered(Exception):
    """No usable answer; the message says why, without an address."""


class Backend:
    """One ``[calls."PATTERN"]`` of the settings. Its connections end with :meth:`aclose`."""

    def __init__(self, pattern: str, settings: CallSettings) -> None:
        self.pattern = pattern
        self.settings = settings
        self.breaker = Breaker(failures=settings.breaker_failures, pause=settings.breaker_pause)
        self.active = 0
        """Calls under way."""
        self.answered: Counter[str] = Counter()
        """Calls by outcome: ok, refused, failed, busy, open."""
        self._by_org: Counter[str] = Counter()
        self._webhook = Webhook(settings.secret) if settings.secret else None
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=settings.concurrency,
            max_keepalive_connections=settings.concurrency,
            keepalive_expiry=30.0,
            network_backend=CheckedNetwork(private=settings.private),
        )

    async def aclose(self) -> None:
        """Close the idle connections."""
        await self._pool.aclose()

    async def invoke(self, request: Request) -> Any:
        """Forward one call and return the reply's data.

        Raises ``ProtocolError``: CALL_REJECTED when the backend refuses (HTTP 4xx), OVERLOADED when too many
        calls are under way or the breaker is open, TIMEOUT, and INTERNAL when it answers with anything else.
        """
        org = request.caller.org
        if self.active >= self.settings.concurrency or self._by_org[org] >= self.settings.per_organisation:
            self.answered["busy"] += 1
            raise ProtocolError(ErrorCode.OVERLOADED, "too many calls are in progress", retry_after=1.0)
        wait = self.breaker.admit()
        if wait:
            self.answered["open"] += 1
            raise ProtocolError(ErrorCode.OVERLOADED, "the backend is failing", retry_after=wait)
        self.active += 1
        self._by_org[org] += 1
        settled = False
        try:
            answer = await self._within_deadline(request)
            settled = True
            return answer
        except ProtocolError:
            settled = True
            raise
        finally:
            self.active -= 1
            self._by_org[org] -= 1
            if not self._by_org[org]:
                del self._by_org[org]
            if not settled:
                self.breaker.abandoned()

    async def _within_deadline(self, request: Request) -> Any:
        with trio.move_on_after(self.settings.timeout):
            return await self._attempts(request)
        self.breaker.failed()
        self.answered["failed"] += 1
        raise ProtocolError(ErrorCode.TIMEOUT, "the backend did not answer in time", retry_after=1.0)

    async def _attempts(self, request: Request) -> Any:
        body = msgspec.json.encode(request)
        for attempt in range(1 + (_RETRIES if self.settings.idempotent else 0)):
            if attempt:
                await trio.sleep(_BACKOFF * 2**attempt)
            try:
                status, answer = await self._post(request.id, body)
            except _Unanswered as error:
                reason = str(error)
                continue
            if status >= 500:
                reason = f"HTTP {status}"
                continue
            return self._read(status, answer)
        raise self._failed(reason)

    def _read(self, status: int, answer: bytes) -> Any:
        """The data of an answer that the backend gave on purpose."""
        if 200 <= status < 300:
            try:
                data = check_value(msgspec.json.decode(answer)) if answer else None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ProtocolError):
                raise self._failed("the answer is not valid JSON") from None
            self.breaker.succeeded()
            self.answered["ok"] += 1
            return data
        if 400 <= status < 500:
            self.breaker.succeeded()
            self.answered["refused"] += 1
            reason = _reason(answer) or f"the backend refused with HTTP {status}"
            raise ProtocolError(ErrorCode.CALL_REJECTED, reason)
        raise self._failed(f"HTTP {status}")

    def _failed(self, reason: str) -> ProtocolError:
        """Count a failure; the client learns only that there was one."""
        self.breaker.failed()
        self.answered["failed"] += 1
        log.warning("call backend failed", calls=self.pattern, reason=reason)
        return ProtocolError(ErrorCode.INTERNAL, "the call backend failed")

    async def _post(self, id: str, body: bytes) -> tuple[int, bytes]:
        headers = [
            (b"content-type", b"application/json"),
            (b"accept", b"application/json"),
            *self._signed(id, body),
        ]
        limit = self.settings.answer_bytes
        timeout = {
            "connect": self.settings.timeout,
            "read": self.settings.timeout,
            "pool": self.settings.timeout,
        }
        received = bytearray()
        try:
            async with self._pool.stream(
                "POST", self.settings.url, headers=headers, content=body, extensions={"timeout": timeout}
            ) as response:
                # What is too much is read and dropped: the deadline bounds the time, the limit the memory.
                async for chunk in response.aiter_stream():
                    if len(received) <= limit:
                        received += chunk[: limit + 1 - len(received)]
                if len(received) > limit:
                    raise _Unanswered("the answer is too large")
                return response.status, bytes(received)
        except ForbiddenAddress as error:
            raise _Unanswered(str(error)) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise _Unanswered(f"{type(error).__name__}") from None

    def _signed(self, id: str, body: bytes) -> list[tuple[bytes, bytes]]:
        now = datetime.datetime.now(datetime.UTC)
        headers = [
            (b"webhook-id", id.encode()),
            (b"webhook-timestamp", str(math.floor(now.timestamp())).encode()),
        ]
        if self._webhook is not None:
            signature = self._webhook.sign(id, now, body.decode())
            headers.append((b"webhook-signature", signature.encode()))
        return headers

    @property
    def state(self) -> State:
        """The breaker's."""
        return self.breaker.state


def _reason(answer: bytes) -> str | None:
    """What a refusal says of itself, in a bounded form."""
    try:
        problem = msgspec.json.decode(answer, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    text = problem.detail or problem.message
    return (
        None if text is None else "".join(each for each in text[:_MAX_REASON] if each.isprintable()) or None
    )
