"""A gateway on a real port in a thread of its own, for programs under test that do not run on Trio."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
import trio

from gateway.app import Gateway
from gateway.calls.registry import CallHandler
from gateway.config.settings import Settings
from gateway.testing.broker import FaultyBroker
from gateway.testing.settings import make_settings

__all__ = ["Server", "run_server"]

T = TypeVar("T")

_PATIENCE = 30.0
"""Seconds for a gateway to start or to stop."""


class Server:
    """The real gateway, in real time. Call its methods from any thread but the gateway's own."""

    def __init__(self, settings: Settings) -> None:
        self.broker = FaultyBroker(settings.history)
        """Outlives the gateway, as a broker on the network does."""
        self._settings = settings
        self._port = 0
        self._calls: dict[str, CallHandler] = {}
        self._gateway: Gateway | None = None
        self._trio: trio.lowlevel.TrioToken
        self._stop: trio.Event
        self._started = threading.Event()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """Its address: ``http://127.0.0.1:PORT``, for clients and publishers."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def gateway(self) -> Gateway:
        """The running gateway; access it through :meth:`run` only."""
        assert self._gateway is not None, "the server does not run"
        return self._gateway

    def start(self) -> None:
        """Run a gateway, on the same port as before."""
        assert self._gateway is None, "the server runs already"
        self._started, self._stopped = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="trireme-server", daemon=True).start()
        assert self._started.wait(_PATIENCE), "the gateway did not start"
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop as SIGTERM does."""
        self._trio.run_sync_soon(self._stop.set)
        assert self._stopped.wait(_PATIENCE), "the gateway did not stop"

    def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run ``await function(*args)`` in the gateway's loop, and return what it returns."""
        return trio.from_thread.run(function, *args, trio_token=self._trio)

    def run_sync(self, function: Callable[..., T], *args: Any) -> T:
        """As :meth:`run`, for a function that does not wait."""
        return trio.from_thread.run_sync(function, *args, trio_token=self._trio)

    def token(self, *, org: str = "acme", user: str | None = "alice", **claims: Any) -> str:
        """A token; ``claims`` are ``roles``, ``rooms``, ``ttl`` (seconds)."""
        return self.gateway.auth.issue(org=org, user=user, **claims).token

    def handle_call(self, name: str, handler: CallHandler) -> None:
        """Let ``handler``, which runs on Trio, answer the clients' calls of ``name``."""
        self._calls[name] = handler
        self.run_sync(self.gateway.handle_call, name, handler)

    def publish(self, room: str | None, event: str, data: Any = None, *, org: str = "acme") -> None:
        """Publish from inside, as a service."""

        async def publish() -> None:
            await self.gateway.hub.publish(org, room, event, data)

        self.run(publish)

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            self._failure = error
        finally:
            self._gateway = None
            self._started.set()
            self._stopped.set()

    async def _serve(self) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        settings = msgspec.structs.replace(self._settings, port=self._port)
        gateway = Gateway(settings, broker=self.broker)
        for name, handler in self._calls.items():
            gateway.handle_call(name, handler)
        async with trio.open_nursery() as nursery:
            await nursery.start(gateway.run)
            self._port = gateway.port
            self._gateway = gateway
            self._started.set()
            await self._stop.wait()
            gateway.stop()
            await gateway.finished.wait()
            nursery.cancel_scope.cancel()


@contextlib.contextmanager
def run_server(**changes: Any) -> Iterator[Server]:
    """A server for the length of the block; ``changes`` are settings, as of ``run_node``."""
    server = Server(make_settings(host="127.0.0.1", **changes))
    server.start()
    try:
        yield server
    finally:
        if server._gateway is not None:
            server.stop()
