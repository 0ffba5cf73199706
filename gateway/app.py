"""The one place where the parts of a gateway are made and joined: the root nursery."""

from __future__ import annotations

import gc
import secrets
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
import trio

from gateway.auth.keys import with_signing_key
from gateway.auth.tokens import Authenticator
from gateway.broker.base import Broker, Position
from gateway.broker.memory import MemoryBroker
from gateway.calls.registry import CallHandler, Calls, arguments_of
from gateway.cluster.base import Cluster
from gateway.cluster.one import OneNode
from gateway.config.settings import Settings, SettingsError, TlsSettings
from gateway.extensions import load_extensions
from gateway.hub.hub import Hub, Sent
from gateway.hub.presence import Presence
from gateway.hub.trace import Tracer
from gateway.logs import configure
from gateway.operations.approval_calls import approval_calls
from gateway.operations.calls import call_handlers
from gateway.operations.execution_calls import execution_call_handlers
from gateway.operations.rules import service
from gateway.rest.app import OWN_PATHS, create_app
from gateway.rest.services import Services as RestServices
from gateway.session.drain import drain
from gateway.session.posted import PostedCommands
from gateway.session.services import Services
from gateway.session.session import Session
from gateway.transports.poll import Polls
from gateway.transports.sse import EventStreams
from gateway.transports.websocket import WebSocketUpgrade
from gateway.version import VERSION
from gateway.welcome import welcome
from gateway.wire.engine import Engine
from gateway.wire.http import HttpServer
from gateway.wire.listener import Listener
from protocol.cache import FAMILIES
from protocol.registry import emission

if TYPE_CHECKING:
    from gateway.broker.redis.client import Client
    from gateway.cluster.membership import Member

__all__ = ["Beside", "Gateway", "serve", "tune_interpreter"]

log = structlog.get_logger(__name__)

_SWITCH: Final = 0.0005
"""Seconds for which one thread may keep the interpreter while another wants it."""
_CLOSING: Final = 1.0
"""Seconds that closing the connections to backends may take."""

_Handler = TypeVar("_Handler", bound=CallHandler)


class Gateway:
    """One node: create it, :meth:`run` it in a nursery, :meth:`stop` it."""

    def __init__(
        self, settings: Settings, *, broker: Broker | None = None, listen: bool = True, app: Any = None
    ) -> None:
        """``broker`` replaces the one named in the settings; ``app`` is as for ``open_gateway``.

        Without ``listen`` no port is opened: connections are passed to ``listener.serve``. Raises
        ``SettingsError`` for an invalid configuration.
        """
        self.settings = settings = with_signing_key(settings)
        self.node = settings.node or f"n{secrets.token_hex(3)}"
        self.draining = False
        self._stop = trio.Event()
        self._siblings = False
        self.finished = trio.Event()
        """Set when :meth:`run` has ended."""
        self._engine = Engine()
        self._flusher = self._engine.flusher
        self.auth = Authenticator(settings.auth)
        self.broker = broker or _broker(settings)
        self._listen = listen
        self.id = self.node
        """Prefix of the ids of connections.

        Unlike ``node`` it is unique: nodes may share a name, at the same time or one after the other.
        """
        presence = Presence()
        redis = _redis_client(self.broker)
        if redis is not None:
            from gateway.cluster.presence import SharedPresence

            self.id = f"{self.node}-{secrets.token_hex(3)}"
            presence = shared = SharedPresence(redis, settings.cluster)
        self._agree = {
            **{
                f"history.{name}": repr(getattr(settings.history, name))
                for name in (
                    *("messages", "bytes", "age", "patterns", "organisation", "user", "total_bytes", "rooms"),
                )
            },
            **{f"redis.{name}": repr(getattr(settings.redis, name)) for name in ("tail", "window", "forget")},
            "cluster.lease": repr(settings.cluster.lease),
        }
        """Settings that the nodes of one Redis must share; they are compared when a node joins."""
        self.hub = Hub(
            self.broker,
            self._flusher,
            node=self.node,
            id=self.id,
            presence=presence,
            command_timeout=settings.connection.command_timeout,
            message_bytes=settings.limits.message_bytes,
            weights=settings.weights,
            tracer=Tracer(settings.trace) if settings.trace.messages else None,
        )
        self.cluster: Cluster = OneNode(self.hub, self.auth)
        if redis is not None:
            from gateway.cluster.many import ManyNodes

            self.cluster = ManyNodes(redis, settings, self.hub, self.auth, shared, self._describe)
        self.calls = Calls(settings.calls)
        """The handlers of clients' calls."""
        services = Services(settings, self.hub, self.auth, self.cluster, self.calls)
        operations = services.operations
        built_in = {
            **call_handlers(operations.notifications),
            **execution_call_handlers(operations.executions),
            **approval_calls(operations.approvals, within=0.8 * settings.connection.command_timeout),
        }
        for name, handler in built_in.items():
            self.calls.register(name, handler)
        self.guard = services.guard
        self.operations = services.operations
        """Everything that can be done with this gateway, with the rules that apply to all callers."""
        self.events = self.operations.types
        """The types of events: ``gateway.events.register(MyEvent)`` adds your own."""
        self.upgrade = WebSocketUpgrade(
            services,
            engine=self._engine,
            is_draining=lambda: self.draining,
        )
        beside = {
            "/api/v1/stream": EventStreams(
                services, self._engine, self.upgrade.sessions, is_draining=lambda: self.draining
            ).receive,
            "/api/v1/poll": Polls(
                services, self._engine, self.upgrade.sessions, is_draining=lambda: self.draining
            ).receive,
        }
        self._rest = RestServices(
            settings=settings,
            hub=self.hub,
            broker=self.broker,
            cluster=self.cluster,
            operations=self.operations,
            admission=services.admission,
            node=self.node,
            is_draining=lambda: self.draining,
            started_at=time.time(),
            guard=self.guard,
            calls=self.calls,
            commands=PostedCommands(services).run,
        )
        self.http = HttpServer(
            create_app(self._rest), settings, stream_paths=beside, guest=app, own_paths=OWN_PATHS
        )
        self.listener = Listener(
            websocket=self.upgrade.receive,
            http=self.http.serve_stream,
            streams=beside,
            head_bytes=settings.limits.head_bytes,
            head_timeout=settings.limits.head_timeout,
            keep_alive=settings.limits.keep_alive,
            max_connections=settings.limits.connections,
            door=self.guard,
            ssl_context=_ssl_context(settings.tls),
        )
        for setup in load_extensions(settings.extensions):
            setup(self)

    @property
    def sessions(self) -> set[Session]:
        """The open sessions."""
        return self.upgrade.sessions

    @property
    def port(self) -> int:
        """The bound port."""
        return self.listener.port

    def _describe(self) -> Member:
        """What other nodes know of this one."""
        from gateway.cluster.membership import Member

        return Member(
            id=self.id,
            node=self.node,
            address=f"{self.settings.host}:{self.settings.own_port or self.port}",
            version=VERSION,
            started=self.hub.started_at,
            agree=self._agree,
        )

    def handle_call(self, name: str, handler: CallHandler) -> None:
        """Let ``handler`` answer the clients' calls of ``name``, with their data as it is.

        Raises ValueError if the name has a handler. See :meth:`command` for typed arguments and roles.
        """
        self.calls.register(name, handler)

    def command(
        self, name: str, *, roles: Iterable[str] = (), arguments: Any = None
    ) -> Callable[[_Handler], _Handler]:
        """Decorate an ``async`` function of two parameters: it answers the clients' calls of ``name``.

        It gets a :class:`Caller` and the call's data, converted to the type that annotates the second
        parameter or that ``arguments`` names (a dataclass or a ``msgspec.Struct``); data that does not fit is
        refused with 103 or 104. With ``roles`` a caller needs one of these roles (otherwise 202).

        Raises ValueError if ``name`` has a handler, TypeError for a type that data cannot be converted to.
        """

        def register(handler: _Handler) -> _Handler:
            kind = arguments_of(handler) if arguments is None else arguments
            self.calls.register(name, handler, roles=roles, arguments=kind)
            return handler

        return register

    def census(self) -> dict[str, float]:
        """Count the objects held now, by walking over all of them: for tests and diagnosis, not hot paths.

        Tasks are those of the whole Trio run, bytes those that the bounds count. A node without clients has
        zeros in all but ``tasks``, ``broker.*``, ``cluster.*``, ``cache.*`` and ``hub.retired``.
        """
        return {
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "sessions": len(self.sessions),
            "accepted": self.listener.open,
            "http": self.http.connections,
            "calls": self.calls.active,
            "calls.bytes": self.calls.held,
            "approvals.waiting": self.operations.approvals.watch.waiting,
            **{f"engine.{name}": count for name, count in self._engine.census().items()},
            **{f"hub.{name}": count for name, count in self.hub.census().items()},
            **{f"guard.{name}": count for name, count in self.guard.census().items()},
            **{f"broker.{name}": value for name, (_, value) in self.broker.measures().items()},
            **{f"cluster.{name}": value for name, (_, value) in self.cluster.measures().items()},
            **{f"cache.{each.name}.bytes": each.census().bytes for each in FAMILIES},
        }

    async def publish(
        self,
        org: str,
        room: str | None,
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
        exclude: Collection[str] = (),
        critical: bool = False,
    ) -> Position:
        """Publish to a room, or with None to all of ``org``, as a service named ``sender``.

        Reaches members on all nodes. See :meth:`gateway.operations.events.Events.publish`.
        """
        return await self.operations.events.publish(
            service(org, sender), room, event, data, mid=mid, exclude=exclude, critical=critical
        )

    async def emit(
        self,
        org: str,
        event: Any,
        *,
        room: str | None = None,
        sender: str | None = None,
        mid: str | None = None,
    ) -> Position:
        """Publish a typed event: one of ``protocol.events``, or an object of your own type.

        With ``room`` None it goes to the room of its type. Raises what :meth:`publish` raises, and
        ``ProtocolError`` MISSING_FIELD or BAD_FIELD for an invalid event.
        """
        made = emission(event, room=room)
        return await self.publish(org, made.room, made.event, made.data, sender=sender, mid=mid)

    async def send_to_user(
        self,
        org: str,
        user: str,
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
    ) -> Sent:
        """Send to all connections of one user, on all nodes; the result has their number.

        See :meth:`gateway.operations.events.Events.send`.
        """
        return await self.operations.events.send(service(org, sender), event, data, user=user, mid=mid)

    async def send_to_connection(
        self,
        org: str,
        connection: str,
        event: str,
        data: Any = None,
        *,
        sender: str | None = None,
        mid: str | None = None,
    ) -> Sent:
        """Send to one connection, on any node; raises ``ProtocolError`` NOT_FOUND for an unknown one.

        See :meth:`gateway.operations.events.Events.send`.
        """
        return await self.operations.events.send(
            service(org, sender), event, data, connection=connection, mid=mid
        )

    def stop(self, *, siblings: bool = False) -> None:
        """Begin the graceful shutdown; :meth:`run` returns when it is done.

        With ``siblings`` other processes keep serving the port; this one leaves it at once.
        """
        self._siblings = siblings
        self._stop.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until :meth:`stop`, then until all clients have left (see ``gateway/session/drain.py``).

        The last client gets ``shutdown_timeout`` seconds; connections still open after that are closed.

        ``task_status.started`` is called when connections are accepted. Raises OSError when the port is in
        use, and ``SettingsError`` when the database or its schema is unusable; both in exception groups.
        """
        try:
            await self._run(task_status)
        finally:
            self.listener.close()
            with trio.move_on_after(_CLOSING, shield=True):
                await self.calls.aclose()
        self.finished.set()

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as background:
            await background.start(self.operations.notifications.inbox.run)
            background.start_soon(self.operations.approvals.watch.run)
            background.start_soon(self.broker.run)
            background.start_soon(self._engine.run)
            background.start_soon(self.guard.overload.run)
            background.start_soon(self._rest.metrics.lag.run)
            background.start_soon(self.hub.lingering.run)
            background.start_soon(self.hub.judging.run)
            if self._listen:
                await self._bind()
            # Without the others this node refuses whoever comes, so it does not wait for them for long.
            background.start_soon(self._join, joined := trio.Event())
            with trio.move_on_after(self.settings.redis.timeout):
                await joined.wait()
            async with trio.open_nursery() as connections:
                await connections.start(self.http.run)
                connections.start_soon(self.listener.run)
                task_status.started()
                await self._stop.wait()
                self.draining = True
                self.operations.approvals.watch.stop()
                log.info("shutting down", connections=len(self.hub.connections))
                # Whoever is half-way through its upgrade is refused from here on, so nobody is forgotten.
                # /readyz and /metrics are answered as long as there is somebody to leave.
                if self._siblings:
                    self.listener.stop_accepting()
                else:
                    await trio.sleep(self.settings.drain.delay)
                await drain(self.sessions, self.settings)
                self.listener.end()
                self.http.stop()
                connections.cancel_scope.deadline = trio.current_time() + self.settings.shutdown_timeout
            await self.cluster.leave()
            background.cancel_scope.cancel()

    async def _bind(self) -> None:
        settings = self.settings
        shared = settings.workers > 1
        await self.listener.bind(settings.host, settings.port, shared=shared)
        if settings.own_port:  # shared, too, with the worker that comes after this one
            await self.listener.bind(settings.host, settings.own_port, shared=shared)

    async def _join(self, joined: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.cluster.run)
            joined.set()


def _broker(settings: Settings) -> Broker:
    if settings.broker == "memory":
        return MemoryBroker(settings.history)
    from gateway.broker.redis.broker import RedisBroker

    return RedisBroker(settings.broker, settings.redis, settings.history)


def _redis_client(broker: Broker) -> Client | None:
    """What speaks to Redis, where the broker is one; imported only then, because that takes 0.2 seconds."""
    if isinstance(broker, MemoryBroker):
        return None
    from gateway.broker.redis.broker import RedisBroker

    return broker.client if isinstance(broker, RedisBroker) else None


def _ssl_context(tls: TlsSettings) -> ssl.SSLContext | None:
    if not tls.certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"tls.certificate, tls.key: cannot be used: {error}") from None
    return context


Beside = Callable[[Gateway], Awaitable[None]]
"""Runs beside a gateway from when it listens, and is cancelled at its end."""


def serve(settings: Settings, *, beside: Beside | None = None) -> int:
    """Run one gateway until SIGTERM, SIGINT or, without ``beside``, SIGHUP; returns the exit code."""
    configure(settings.log)
    try:
        gateway = Gateway(settings)
    except SettingsError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    exit_code = 0
    tune_interpreter()
    try:
        trio.run(_serve, gateway, beside)
    except* OSError as group:
        reason: BaseException = group
        while isinstance(reason, BaseExceptionGroup):  # one for every nursery on the way
            reason = reason.exceptions[0]
        print(f"gateway: cannot listen on {settings.host}:{settings.port}: {reason}", file=sys.stderr)
        exit_code = 1
    except* SettingsError as group:
        reason = group
        while isinstance(reason, BaseExceptionGroup):
            reason = reason.exceptions[0]
        print(f"gateway: {reason}", file=sys.stderr)
        exit_code = 2
    return exit_code


def tune_interpreter() -> None:
    """Set what Python does for a whole process that runs a gateway: its cycle collector, its threads.

    The collector runs seldom, and not over what never goes away. With the default thresholds it took a
    fifth of the processor during a fan-out to 500 (perf): it goes over every connection's objects again and
    again, and finds nothing, because what is made for a message is freed by its reference count. Cycles (of
    exceptions, mostly) wait longer now.

    Threads hand on the interpreter's lock after half a millisecond, not five: a commit of 200 rows gives it
    back at each row, and waited for a busy loop each time; the loop waited as long for the thread.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    sys.setswitchinterval(_SWITCH)


async def _serve(gateway: Gateway, beside: Beside | None) -> None:
    async with trio.open_nursery() as nursery:
        # Alone, a terminal that goes away is a reason to stop; a worker decides by itself.
        ends = (signal.SIGTERM, signal.SIGINT, *(() if beside else (signal.SIGHUP,)))
        nursery.start_soon(_stop_on_signal, gateway, nursery.cancel_scope, ends)
        await nursery.start(gateway.run)
        log.info("listening", host=gateway.settings.host, port=gateway.port, node=gateway.node)
        if beside is not None:
            nursery.start_soon(beside, gateway)
        elif gateway.settings.dev:
            welcome(gateway.settings, gateway.port)
        await gateway.finished.wait()
        nursery.cancel_scope.cancel()


async def _stop_on_signal(
    gateway: Gateway, scope: trio.CancelScope, ends: tuple[signal.Signals, ...]
) -> None:
    with trio.open_signal_receiver(*ends) as signals:
        async for _ in signals:
            if gateway.draining:
                scope.cancel()  # asked twice: do not wait for anybody
            gateway.stop()
