"""Both publishers behind one face, so that one test holds for both."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.from_thread
import httpx

from gateway.publisher import AsyncPublisher, Publisher

__all__ = ["KINDS", "open_publisher"]

KINDS = ("threads", "asyncio", "trio")


@contextmanager
def open_publisher(kind: str, url: str, **options: Any) -> Iterator[Any]:
    """A publisher whose methods are called without ``await``, whichever it is."""
    if kind == "threads":
        with Publisher(url, **options) as publisher:
            yield publisher
        return
    with anyio.from_thread.start_blocking_portal(kind) as portal:
        source = options.get("token")
        if callable(source):

            async def token() -> str:
                return source()

            options["token"] = token

        @asynccontextmanager
        async def opened() -> AsyncIterator[AsyncPublisher]:
            async with AsyncPublisher(url, **options) as publisher:
                yield publisher

        manager: AbstractAsyncContextManager[AsyncPublisher] = opened()
        with portal.wrap_async_context_manager(manager) as publisher:
            yield _Waiting(portal, publisher)


class _Waiting:
    def __init__(self, portal: anyio.from_thread.BlockingPortal, publisher: AsyncPublisher) -> None:
        self._portal = portal
        self._publisher = publisher

    def __getattr__(self, name: str) -> Any:
        found = getattr(type(self._publisher), name)
        if not callable(found):
            return getattr(self._publisher, name)
        method = getattr(self._publisher, name)

        def call(*args: Any, **options: Any) -> Any:
            return self._portal.call(functools.partial(method, *args, **options))

        return call


class Script(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers requests as it is told, and notes them."""

    def __init__(
        self, *steps: Exception | httpx.Response | Callable[[httpx.Request], httpx.Response]
    ) -> None:
        self.steps = list(steps)
        self.requests: list[httpx.Request] = []
        self.asked = threading.Semaphore(0)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        self.asked.release()
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            if isinstance(step, httpx.RequestError):
                step.request = request
            raise step
        return step(request) if callable(step) else step

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return self.handle_request(request)
