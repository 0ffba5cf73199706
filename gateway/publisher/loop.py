"""The publisher for programs with an event loop: asyncio or Trio."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar, Unpack

import anyio
import anyio.abc
import httpx

from gateway.publisher import calls
from gateway.publisher.backlog import Backlog, OnError
from gateway.publisher.calls import Call
from gateway.publisher.errors import PublisherClosed, PublisherError, Refused, Unreachable
from gateway.publisher.exchange import Answer, Authorize, Failed, Pause, Policy, Request, exchange
from gateway.publisher.http import FAILURES, answer_of, content_of, failed
from gateway.publisher.results import BatchResult, Published, SentTo, Token
from protocol.emits import Emits

T = TypeVar("T")
log = logging.getLogger("gateway.publisher")

__all__ = ["AsyncPublisher"]

_PATH: Final = "/api/v1"


class AsyncPublisher(Emits):
    """Publishes from any number of tasks of one loop; an async context manager.

    Nothing is made before it is needed, and nothing is asked of the gateway but what a method says. Every
    method raises a :class:`~gateway.publisher.errors.PublisherError` when it did not succeed.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], Awaitable[str]],
        timeout: float = 10.0,
        deadline: float = 30.0,
        tries: int = 5,
        connections: int = 10,
        queue_messages: int = 10_000,
        queue_bytes: int = 16 * 2**20,
        on_error: OnError | None = None,
        close_timeout: float = 5.0,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Times are in seconds.

        - ``url``: where the gateway is, such as ``http://127.0.0.1:8000``.
        - ``token``: a JWT with the role service, or a coroutine function that gives one: asked once, and
          again when the gateway refuses it.
        - ``timeout``: for one request; ``deadline``: for all tries of a call together, ``tries`` at most.
        - ``connections`` to the gateway are open at a time, and are kept.
        - ``queue_messages``, ``queue_bytes``: what waits in the queue at most; ``on_error`` is called with
          each operation that is given up, and why.
        - ``close_timeout``: what closing waits for the queue.
        - ``headers``: more headers; ``transport``: carries the requests in place of the network.
        """
        self._policy = Policy(timeout, deadline, tries)
        self._source = token
        self._token = token if isinstance(token, str) else None
        self._close_timeout = close_timeout
        self._backlog = Backlog(queue_messages, queue_bytes, tries, on_error)
        self._changed = anyio.Event()
        self._closing = False
        self._stack: AsyncExitStack | None = None
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/") + _PATH,
            headers=headers,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            transport=transport,
        )

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
        """Close the connections; for who does not use it as a context manager, and so has no queue."""
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

    async def publish(
        self, room: str | None, event: str, data: Any = None, **options: Unpack[calls.PublishOptions]
    ) -> Published:
        """Publish to ``room``, or with None to the whole organisation; returns the place that the event got.

        Safe to repeat: give the same ``mid`` when you try again yourself.
        """
        return await self._do(calls.publish(room, event, data, options))

    async def broadcast(
        self, event: str, data: Any = None, **options: Unpack[calls.PublishOptions]
    ) -> Published:
        """Publish to the whole organisation (role service or admin)."""
        return await self._do(calls.publish(None, event, data, options))

    async def send_to_user(
        self, user: str, event: str, data: Any = None, **options: Unpack[calls.SendOptions]
    ) -> SentTo:
        """Send to one user, on all their connections; kept for who comes later unless ``ephemeral``."""
        return await self._do(calls.send_to_user(user, event, data, options))

    async def send_to_users(
        self, users: Iterable[str], event: str, data: Any = None, **options: Unpack[calls.SendOptions]
    ) -> dict[str, Any]:
        """Send to up to 1,000 users; the answer is ``{mid, users: {user: {seq, epoch}}}``."""
        return await self._do(calls.send_to_users(users, event, data, options))

    async def send_to_connection(
        self, connection: str, event: str, data: Any = None, **options: Unpack[calls.SendOptions]
    ) -> SentTo:
        """Send to one connection; never repeated by itself once it may have arrived."""
        return await self._do(calls.send_to_connection(connection, event, data, options))

    async def notify(
        self,
        title: str,
        message: str,
        *,
        user: str | None = None,
        users: Iterable[str] | None = None,
        **options: Unpack[calls.NotifyOptions],
    ) -> dict[str, str]:
        """Create a notification for ``user``, or one for each of up to 1,000 ``users``; returns user → id."""
        return await self._do(calls.notify(title, message, user, users, options))

    async def create_execution(self, agent: str, **options: Unpack[calls.ExecutionOptions]) -> dict[str, Any]:
        """Report an execution that begins, or will; returns the row."""
        return await self._do(calls.create_execution(agent, options))

    async def update_execution(self, id: str, **changes: Unpack[calls.ExecutionChanges]) -> dict[str, Any]:
        """Report what has changed (nothing: a heartbeat); returns the row afterwards.

        Raises Refused with status 409, and the row as ``problem["execution"]``, for a transition that is not
        allowed and for a ``version`` that is not the latest.
        """
        return await self._do(calls.update_execution(id, changes))

    async def get_execution(self, id: str, *, org: str | None = None) -> dict[str, Any]:
        """Return one execution with its ``updates``."""
        return await self._do(calls.get_execution(id, org))

    async def create_approval(self, title: str, **options: Unpack[calls.ApprovalOptions]) -> dict[str, Any]:
        """Ask ``users``, or whoever has ``role``, for an approval; returns it as it stands, ``pending``."""
        return await self._do(calls.create_approval(title, options))

    async def get_approval(self, id: str, *, wait: float = 0.0, org: str | None = None) -> dict[str, Any]:
        """Return an approval as it stands, or as soon as it is decided, within ``wait`` (0 to 60) seconds."""
        return await self._do(calls.get_approval(id, wait, org))

    async def decide(self, id: str, choice: str, *, comment: str | None = None) -> dict[str, Any]:
        """Decide as the user of the token.

        Raises Refused with status 409, and the ``problem["decision"]``, when it was decided before.
        """
        return await self._do(calls.decide(id, choice, comment))

    async def create_token(self, **options: Unpack[calls.TokenOptions]) -> Token:
        """Issue a token (role service or admin)."""
        return await self._do(calls.create_token(options))

    async def revoke(
        self, *, jti: str | None = None, user: str | None = None, org: str | None = None
    ) -> dict[str, Any]:
        """Revoke a token by its ``jti``, or all of a user or an organisation; open connections are closed."""
        return await self._do(calls.revoke(jti, user, org))

    async def batch(self, operations: Sequence[Mapping[str, Any]]) -> list[BatchResult]:
        """Do up to 100 operations of ``POST /batch`` in one request: ``{"op": "broadcast", "event": …}``.

        One that fails does not stop the others: each has its own result.
        """
        return await self._do(calls.batch(operations))

    async def wait_for_approval(self, id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait until an approval is decided or expired, over restarts of the gateway; then return it.

        Raises TimeoutError after ``timeout`` seconds (None: never), Refused for what waiting cannot help.
        """
        end = math.inf if timeout is None else self._now() + timeout
        while True:
            wait = max(0.0, min(calls.LONGEST_WAIT, end - self._now()))
            try:
                approval = await self.get_approval(id, wait=wait)
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and error.status < 500:
                    raise
                if self._now() >= end:
                    raise TimeoutError(f"approval {id}: not known to be decided") from error
                await self._wait(min(1.0, max(0.0, end - self._now())))
                continue
            if approval["status"] != "pending":
                return approval
            if self._now() >= end:
                raise TimeoutError(f"approval {id}: not decided yet")

    # ---- the queue ---------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Events of the queue that are not sent yet."""
        return len(self._backlog)

    @property
    def dropped(self) -> int:
        """Events of the queue that were given up; ``on_error`` was told why."""
        return self._backlog.dropped

    def enqueue(
        self, room: str | None, event: str, data: Any = None, **options: Unpack[calls.PublishOptions]
    ) -> None:
        """Have it published soon, with others in one request; returns at once.

        Raises :class:`QueueFull` when the gateway does not keep up, ValueError for data that is no JSON.
        """
        self._enqueue(calls.operation_of_publish(room, event, data, options))

    def enqueue_to_user(
        self, user: str, event: str, data: Any = None, **options: Unpack[calls.SendOptions]
    ) -> None:
        """As :meth:`enqueue`, to a user."""
        self._enqueue(calls.operation_of_send(user, event, data, options))

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
        if self._closing:
            raise PublisherClosed
        steps = exchange(call, self._policy, self._now, renewable=callable(self._source))
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
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
