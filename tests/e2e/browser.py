"""A real Chromium for tests, and a network cable that can be cut."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import outcome
import trio
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, sync_playwright

from gateway.app import Gateway
from tests.e2e.prerequisites import chromium

__all__ = [
    "CHROMIUM",
    "Cable",
    "call_in_trio",
    "console",
    "in_browser",
    "launch",
    "open_client",
    "open_page",
    "origin",
    "run_in_trio",
]

T = TypeVar("T")

_ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-gpu",
    "--disable-dev-shm-usage",
]
_TIMEOUT: Final = 15_000
"""Milliseconds that a page may take for one step; the machine may be busy."""

_OPEN: Final = """async ({ name, url, token, options }) => {
    const { Trireme } = await import("/client.js");
    const client = new Trireme(url, { token, ...options });
    window[name] = client;
    client.events = [];
    client.told = [];
    client.on("*", (event) => client.events.push(event));
    const own = ["connected", "disconnected", "reconnecting", "reconnect:failed", "error", "lost"];
    for (const what of [...own, "degraded", "login:refused"]) {
        client.on(what, (value) => client.told.push([what, value]));
    }
    return client.connect();
}"""


def launch(playwright: Playwright) -> Browser:
    """A Chromium without a window."""
    return playwright.chromium.launch(executable_path=chromium(), args=_ARGUMENTS)


class Chromium:
    """One that the tests of a process share, in a thread of its own: Playwright stays in its thread.

    It starts when it is first needed.
    """

    def __init__(self) -> None:
        self.token: trio.lowlevel.TrioToken
        """Of the test that is in the browser."""
        self._jobs: SimpleQueue[Callable[[Browser], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def carry_out(self, work: Callable[[BrowserContext], T]) -> T:
        """Run ``work`` in the thread, with a context that nobody had before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="chromium", daemon=True)
            self._thread.start()
        self.token = token = trio.lowlevel.current_trio_token()
        ended = trio.Event()
        found: list[outcome.Outcome[T]] = []

        def visit(browser: Browser) -> None:
            context = browser.new_context()
            context.set_default_timeout(_TIMEOUT)
            found.append(outcome.capture(work, context))
            for each in browser.contexts:
                each.close()

        def job(browser: Browser) -> None:
            try:
                visit(browser)
            except BaseException as error:  # the browser has gone, which is the test's failure
                found.append(outcome.Error(error))
            token.run_sync_soon(ended.set)

        self._jobs.put(job)
        await ended.wait()
        return found[0].unwrap()

    def _run(self) -> None:
        with sync_playwright() as playwright:
            browser = launch(playwright)
            while (job := self._jobs.get()) is not None:
                if not browser.is_connected():
                    browser = launch(playwright)
                job(browser)
            browser.close()

    def close(self) -> None:
        """End it, if it ever started."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None


CHROMIUM: Final = Chromium()


async def in_browser(work: Callable[[BrowserContext], T]) -> T:
    """Run ``work`` beside the test, in a Chromium that knows nothing of the tests before.

    It reaches the test's loop by :func:`run_in_trio` and :func:`call_in_trio`.
    """
    return await CHROMIUM.carry_out(work)


def run_in_trio(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """From within ``work``: run ``await function(*args)`` in the test's loop."""
    return trio.from_thread.run(function, *args, trio_token=CHROMIUM.token)


def call_in_trio(function: Callable[..., T], *args: Any) -> T:
    """From within ``work``: run ``function(*args)`` in the test's loop."""
    return trio.from_thread.run_sync(function, *args, trio_token=CHROMIUM.token)


def origin(gateway: Gateway) -> str:
    """Where a gateway's pages are."""
    return f"http://127.0.0.1:{gateway.port}"


def _is_wrong(message: ConsoleMessage) -> bool:
    """Errors, but that a gateway without a database has no inbox."""
    return message.type == "error" and not (
        "status of 404" in message.text and "/api/v1/" in message.location["url"]
    )


def console(context: BrowserContext, gateway: Gateway, **claims: Any) -> tuple[Page, list[str]]:
    """Open the console; returns the page and a list to which whatever goes wrong in it is added."""
    token = gateway.auth.issue(**{"org": "acme", "user": "alice", **claims}).token
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if _is_wrong(message) else None)
    own = urlsplit(origin(gateway)).netloc
    page.on("request", lambda r: wrong.append(r.url) if urlsplit(r.url).netloc not in {own, ""} else None)
    page.goto(f"{origin(gateway)}/#token={token}")
    return page, wrong


def open_client(
    page: Page,
    gateway: Gateway,
    *,
    name: str = "client",
    port: int | None = None,
    org: str = "acme",
    **options: Any,
) -> Any:
    """Connect a client of the page as ``window[name]``; returns its welcome.

    What it hears is in its ``events``, and its own events are in ``told``.
    """
    user = options.pop("user", "alice")
    given = {
        "name": name,
        "url": f"ws://127.0.0.1:{port or gateway.port}/ws",
        "token": gateway.auth.issue(org=org, user=user).token,
        "options": options,
    }
    if not page.url.startswith(origin(gateway)):
        page.goto(f"{origin(gateway)}/assets/icon.svg")
    return page.evaluate(_OPEN, given)


def open_page(page: Page, base: str, token: str, **options: Any) -> Any:
    """Connect a client as ``window.client`` in a page that comes from ``base``; returns its welcome."""
    page.goto(f"{base}/assets/icon.svg")
    url = f"{base.replace('http', 'ws', 1)}/ws"
    return page.evaluate(_OPEN, {"name": "client", "url": url, "token": token, "options": options})


class Cable:
    """Forwards TCP connections to a port; while it is cut, there are none."""

    def __init__(self, target: int) -> None:
        self.port: int
        self._target = target
        self._cut = False
        self._plugged: set[trio.CancelScope] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward until cancelled; ``port`` is known when it has started."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self._forward, listeners, task_status=task_status)  # type: ignore[arg-type]

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        self._cut = True
        for scope in self._plugged:
            scope.cancel()

    def mend(self) -> None:
        """Let connections through again."""
        self._cut = False

    async def _forward(self, near: trio.SocketStream) -> None:
        if self._cut:
            await near.aclose()
            return
        with trio.CancelScope() as scope:
            self._plugged.add(scope)
            try:
                far = await trio.open_tcp_stream("127.0.0.1", self._target)
                async with near, far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, near, far, scope)
                    nursery.start_soon(self._copy, far, near, scope)
            finally:
                self._plugged.discard(scope)

    @staticmethod
    async def _copy(source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for chunk in source:
                await sink.send_all(chunk)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
