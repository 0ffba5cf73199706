"""The publisher for programs with threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

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

__all__ = ["Publisher"]


def _method(make: Callable[P, Call[T]]) -> Callable[Concatenate[Publisher, P], T]:
    """A method that carries out what ``make`` asks for."""

    def method(self: Publisher, /, *args: P.args, **options: P.kwargs) -> T:
        return self._do(make(*args, **options))

    describe(method, make)
    return method


class Publisher(Common):
    """Publishes from any number of threads; a context manager that closes it.

    Connections and the queue's thread are created when they are first needed. Every method raises a
    :class:`~gateway.publisher.errors.PublisherError` if it fails.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[], str],
        transport: httpx.BaseTransport | None = None,
        **options: Unpack[PublisherOptions],
    ) -> None:
        """``url`` is where the gateway is, such as ``http://127.0.0.1:8000``.

        ``token`` is a JWT with the role service, or a function that gives one: asked once, and again
        when the gateway refuses it. ``transport`` carries the requests in place of the network. The other
        options are those of :class:`~gateway.publisher.options.PublisherOptions`.
        """
        super().__init__(url, token, **options)
        self._source = token
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._client = httpx.Client(**self._http, transport=transport)

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

    def wait_for_approval(self, id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait until an approval is decided or expired, across restarts of the gateway; returns it.

        Raises TimeoutError after ``timeout`` seconds (None: never), Refused if waiting cannot help.
        """
        renewable = callable(self._source)
        return self._carry_out(wait_for_approval(id, timeout, self._policy, self._now, renewable=renewable))

    # ---- the queue ---------------------------------------------------------------------------------------

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
        return self._carry_out(exchange(call, self._policy, self._now, renewable=callable(self._source)))

    def _carry_out(self, steps: Generator[Step, Any, T]) -> T:
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            if self._closing.is_set():
                raise PublisherClosed
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
