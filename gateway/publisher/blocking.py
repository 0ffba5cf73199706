"""The publisher for programs with threads."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, Unpack

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

__all__ = ["Publisher"]

_PATH: Final = "/api/v1"


class Publisher(Emits):
    """Publishes from any number of threads; a context manager that closes it.

    Nothing is made before it is needed, and nothing is asked of the gateway but what a method says. Every
    method raises a :class:`~gateway.publisher.errors.PublisherError` when it did not succeed.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], str],
        timeout: float = 10.0,
        deadline: float = 30.0,
        tries: int = 5,
        connections: int = 10,
        queue_messages: int = 10_000,
        queue_bytes: int = 16 * 2**20,
        on_error: OnError | None = None,
        close_timeout: float = 5.0,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Times are in seconds.

        - ``url``: where the gateway is, such as ``http://127.0.0.1:8000``.
        - ``token``: a JWT with the role service, or a function that gives one: asked once, and
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
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._client = httpx.Client(
            base_url=url.rstrip("/") + _PATH,
            headers=headers,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            transport=transport,
        )

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Send what is in the queue, within ``close_timeout``, and close the connections."""
        try:
            self.flush(self._close_timeout)
        except TimeoutError:
            pass  # what is left is given up, which on_error is told
        with self._changed:
            self._closing.set()
            self._backlog.give_up_all(PublisherClosed())
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(self._close_timeout)
        self._client.close()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the queue is empty. Raises TimeoutError after ``timeout`` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: not len(self._backlog), timeout):
                raise TimeoutError(f"{len(self._backlog)} events still wait")

    def publish(
        self, room: str | None, event: str, data: Any = None, **options: Unpack[calls.PublishOptions]
    ) -> Published:
        """Publish to ``room``, or with None to the whole organisation; returns the place that the event got.

        Safe to repeat: give the same ``mid`` when you try again yourself.
        """
        return self._do(calls.publish(room, event, data, options))

    def broadcast(self, event: str, data: Any = None, **options: Unpack[calls.PublishOptions]) -> Published:
        """Publish to the whole organisation (role service or admin)."""
        return self._do(calls.publish(None, event, data, options))

    def send_to_user(
        self, user: str, event: str, data: Any = None, **options: Unpack[calls.SendOptions]
    ) -> SentTo:
        """Send to one user, on all their connections; kept for who comes later unless ``ephemeral``."""
        return self._do(calls.send_to_user(user, event, data, options))

    def send_to_users(
        self, users: Iterable[str], event: str, data: Any = None, **options: Unpack[calls.SendOptions]
    ) -> dict[str, Any]:
        """Send to up to 1,000 users; the answer is ``{mid, users: {user: {seq, epoch}}}``."""
        return self._do(calls.send_to_users(users, event, data, options))

    def send_to_connection(
        self, connection: str, event: str, data: Any = None, **options: Unpack[calls.SendOptions]
    ) -> SentTo:
        """Send to one connection; never repeated by itself once it may have arrived."""
        return self._do(calls.send_to_connection(connection, event, data, options))

    def notify(
        self,
        title: str,
        message: str,
        *,
        user: str | None = None,
        users: Iterable[str] | None = None,
        **options: Unpack[calls.NotifyOptions],
    ) -> dict[str, str]:
        """Create a notification for ``user``, or one for each of up to 1,000 ``users``; returns user → id."""
        return self._do(calls.notify(title, message, user, users, options))

    def create_execution(self, agent: str, **options: Unpack[calls.ExecutionOptions]) -> dict[str, Any]:
        """Report an execution that begins, or will; returns the row."""
        return self._do(calls.create_execution(agent, options))

    def update_execution(self, id: str, **changes: Unpack[calls.ExecutionChanges]) -> dict[str, Any]:
        """Report what has changed (nothing: a heartbeat); returns the row afterwards.

        Raises Refused with status 409, and the row as ``problem["execution"]``, for a transition that is not
        allowed and for a ``version`` that is not the latest.
        """
        return self._do(calls.update_execution(id, changes))

    def get_execution(self, id: str, *, org: str | None = None) -> dict[str, Any]:
        """Return one execution with its ``updates``."""
        return self._do(calls.get_execution(id, org))

    def create_approval(self, title: str, **options: Unpack[calls.ApprovalOptions]) -> dict[str, Any]:
        """Ask ``users``, or whoever has ``role``, for an approval; returns it as it stands, ``pending``."""
        return self._do(calls.create_approval(title, options))

    def get_approval(self, id: str, *, wait: float = 0.0, org: str | None = None) -> dict[str, Any]:
        """Return an approval as it stands, or as soon as it is decided, within ``wait`` (0 to 60) seconds."""
        return self._do(calls.get_approval(id, wait, org))

    def decide(self, id: str, choice: str, *, comment: str | None = None) -> dict[str, Any]:
        """Decide as the user of the token.

        Raises Refused with status 409, and the ``problem["decision"]``, when it was decided before.
        """
        return self._do(calls.decide(id, choice, comment))

    def create_token(self, **options: Unpack[calls.TokenOptions]) -> Token:
        """Issue a token (role service or admin)."""
        return self._do(calls.create_token(options))

    def revoke(
        self, *, jti: str | None = None, user: str | None = None, org: str | None = None
    ) -> dict[str, Any]:
        """Revoke a token by its ``jti``, or all of a user or an organisation; open connections are closed."""
        return self._do(calls.revoke(jti, user, org))

    def batch(self, operations: Sequence[Mapping[str, Any]]) -> list[BatchResult]:
        """Do up to 100 operations of ``POST /batch`` in one request: ``{"op": "broadcast", "event": …}``.

        One that fails does not stop the others: each has its own result.
        """
        return self._do(calls.batch(operations))

    def wait_for_approval(self, id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait until an approval is decided or expired, over restarts of the gateway; then return it.

        Raises TimeoutError after ``timeout`` seconds (None: never), Refused for what waiting cannot help.
        """
        end = math.inf if timeout is None else self._now() + timeout
        while True:
            wait = max(0.0, min(calls.LONGEST_WAIT, end - self._now()))
            try:
                approval = self.get_approval(id, wait=wait)
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and error.status < 500:
                    raise
                if self._now() >= end:
                    raise TimeoutError(f"approval {id}: not known to be decided") from error
                self._wait(min(1.0, max(0.0, end - self._now())))
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
        with self._changed:
            self._backlog.put(operation)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._send_queue, name="trireme-publisher", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def _send_queue(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._backlog) or self._closing.is_set())
                if self._closing.is_set():
                    return
                batch = self._backlog.take()
            wait: float | None = None
            try:
                results = self._do(calls.batch([each.operation for each in batch]))
            except PublisherError as error:
                log.warning("%d events could not be published: %s", len(batch), error)
                with self._changed:
                    if self._backlog.unanswered(batch, error):
                        wait = self._policy.maximum
                    self._changed.notify_all()
            else:
                with self._changed:
                    wait = self._backlog.settled(batch, results)
                    self._changed.notify_all()
            if wait is not None:
                self._closing.wait(wait)

    # ---- one call ----------------------------------------------------------------------------------------

    def _do(self, call: Call[T]) -> T:
        if self._closing.is_set():
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
                outcome = self._authorize(fresh=step.fresh)
            elif isinstance(step, Pause):
                self._wait(step.seconds)
            else:
                outcome = self._send(step)

    def _authorize(self, *, fresh: bool) -> str | None:
        if callable(self._source) and (fresh or self._token is None):
            self._token = self._source()
        return self._token

    def _send(self, request: Request) -> Answer | Failed:
        try:
            return answer_of(self._client.request(**content_of(request)))
        except FAILURES as error:
            return failed(error)

    def _now(self) -> float:
        return time.monotonic()

    def _wait(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            raise PublisherClosed
