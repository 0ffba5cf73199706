"""The publisher for programs with an event loop: asyncio or Trio."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AsyncExitStack
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

import anyio
import anyio.abc
import httpx

from gateway.publisher import calls
from gateway.publisher.calls import Call
from gateway.publisher.errors import PublisherClosed, PublisherError
from gateway.publisher.exchange import (
    Answer,
    Authorize,
    Failed,
    Pause,
    Request,
    Step,
    exchange,
    wait_for_approval,
)
from gateway.publisher.http import FAILURES, answer_of, content_of, failed
from gateway.publisher.methods import Common, describe
from gateway.publisher.options import PublisherOptions

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("gateway.publisher")

__all__ = ["AsyncPublisher"]


def _method(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncPublisher, P], Coroutine[Any, Any, T]]:
    """A method that carries out what ``make`` asks for."""

    async def method(self: AsyncPublisher, /, *args: P.args, **options: P.kwargs) -> T:
        return await self._do(make(*args, **options))

    describe(method, make)
    return method


class AsyncPublisher(Common):
    """Publishes from any number of tasks of one loop; an async context manager.

    Connections are created when they are first needed. Every method raises a
    :class:`~gateway.publisher.errors.PublisherError` if it fails.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], Awaitable[str]],
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Unpack[PublisherOptions],
    ) -> None:
        """``url`` is where the gateway is, such as ``http://127.0.0.1:8000``.

        ``token`` is a JWT with the role service, or a coroutine function that gives one: asked once, and
        again when the gateway refuses it. ``transport`` carries the requests in place of the network. The
        other options are those of :class:`~gateway.publisher.options.PublisherOptions`.
        """
        super().__init__(url, token, **options)
        self._source = token
        self._changed = anyio.Event()
        self._closing = False
        self._stack: AsyncExitStack | None = None
        self._client = httpx.AsyncClient(**self._http, transport=transport)

    async def __aenter__(self) -> AsyncPublisher:
        self._stack = AsyncExitStack()
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(self._send_queue)
        self._stack.callback(tasks.cancel_scope.cancel)
        self._stack.push_async_callback(self._finish)
        return self

    async def __aexit__(self, *exc: Any) -> None:
        assert self._stack is not None
        stack, self._stack = self._stack, None
        await stack.__aexit__(*exc)

    async def aclose(self) -> None:
        """Close the connections; only needed without the context manager, and then there is no queue."""
        self._closing = True
        await self._client.aclose()

    async def _finish(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await self.flush(self._close_timeout)
            except TimeoutError:
                pass  # what is left is given up, which on_error is told
            self._backlog.give_up_all(PublisherClosed())
            await self.aclose()

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until the queue is empty. Raises TimeoutError after ``timeout`` seconds."""
        with anyio.move_on_after(math.inf if timeout is None else timeout):
            while len(self._backlog):
                await self._changed.wait()
        if len(self._backlog):
            raise TimeoutError(f"{len(self._backlog)} events still wait")

    # What each of these takes, returns and raises stands in ``calls``.
    publish = _method(calls.publish)
    broadcast = _method(calls.broadcast)
    send_to_user = _method(calls.send_to_user)
    send_to_users = _method(calls.send_to_users)
    send_to_connection = _method(calls.send_to_connection)
    notify = _method(calls.notify)
    create_execution = _method(calls.create_execution)
    update_execution = _method(calls.update_execution)
    get_execution = _method(calls.get_execution)
    create_approval = _method(calls.create_approval)
    get_approval = _method(calls.get_approval)
    decide = _method(calls.decide)
    create_token = _method(calls.create_token)
    revoke = _method(calls.revoke)
    batch = _method(calls.batch)

    async def wait_for_approval(self, id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait until an approval is decided or expired, across restarts of the gateway; returns it.

        Raises TimeoutError after ``timeout`` seconds (None: never), Refused if waiting cannot help.
        """
        renewable = callable(self._source)
        return await self._carry_out(
            wait_for_approval(id, timeout, self._policy, self._now, renewable=renewable)
        )

    # ---- the queue ---------------------------------------------------------------------------------------

    def _enqueue(self, operation: Mapping[str, Any]) -> None:
        if self._stack is None:
            raise RuntimeError("the queue needs 'async with AsyncPublisher(…)'")
        self._backlog.put(operation)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _send_queue(self) -> None:
        while True:
            if not len(self._backlog):
                await self._changed.wait()
                continue
            batch = self._backlog.take()
            wait: float | None = None
            try:
                results = await self._do(calls.batch([each.operation for each in batch]))
            except PublisherError as error:
                log.warning("%d events could not be published: %s", len(batch), error)
                if self._backlog.unanswered(batch, error):
                    wait = self._policy.maximum
            else:
                wait = self._backlog.settled(batch, results)
            self._tell()
            if wait is not None:
                await anyio.sleep(wait)

    # ---- one call ----------------------------------------------------------------------------------------

    async def _do(self, call: Call[T]) -> T:
        return await self._carry_out(
            exchange(call, self._policy, self._now, renewable=callable(self._source))
        )

    async def _carry_out(self, steps: Generator[Step, Any, T]) -> T:
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            if self._closing:
                raise PublisherClosed
            outcome = None
            if isinstance(step, Authorize):
                outcome = await self._authorize(fresh=step.fresh)
            elif isinstance(step, Pause):
                await self._wait(step.seconds)
            else:
                outcome = await self._send(step)

    async def _authorize(self, *, fresh: bool) -> str | None:
        if callable(self._source) and (fresh or self._token is None):
            self._token = await self._source()
        return self._token

    async def _send(self, request: Request) -> Answer | Failed:
        try:
            return answer_of(await self._client.request(**content_of(request)))
        except FAILURES as error:
            return failed(error)

    def _now(self) -> float:
        return anyio.current_time()

    async def _wait(self, seconds: float) -> None:
        await anyio.sleep(seconds)
