"""``connect``: the one way to get a client."""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import anyio
import anyio.abc

from gateway.client.backoff import Backoff
from gateway.client.client import Client
from gateway.client.course import TRANSPORTS, TransportKind
from gateway.client.errors import ClientClosed, ReconnectFailed
from gateway.client.options import OpenHttp, Options, Token
from gateway.client.rooms import Rooms
from gateway.client.session import Session
from gateway.client.transport import Address, Sockets, Transport, parse_url
from gateway.version import VERSION
from protocol.cbor import CBOR
from protocol.json import JSON

if TYPE_CHECKING:
    import httpx

__all__ = ["connect"]


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: Token = None,
    codec: Literal["cbor", "json"] = "cbor",
    reconnect: Backoff | bool = True,
    reconnect_failed: Callable[[ReconnectFailed], object] | None = None,
    retry_first: bool = True,
    command_timeout: float = 10.0,
    connect_timeout: float = 10.0,
    close_timeout: float = 2.0,
    heartbeat: float = 25.0,
    heartbeat_timeout: float = 10.0,
    buffer: int = 1024,
    max_pending: int = 1024,
    max_message_bytes: int = 16 * 2**20,
    window: int = 1024,
    transports: Sequence[Literal["websocket", "sse", "poll"]] | None = None,
    websocket_retry: float = 30.0,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    dial: Callable[[Address], Awaitable[Any]] | None = None,
    http: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Client]:
    """Connect to a gateway and stay connected for the length of the block; times are in seconds.

    Works on Trio and on asyncio: it detects the running loop.

    Entering waits for the first connection. All tasks and sockets belong to the block: leaving it
    in any way closes everything. The close handshake may take ``close_timeout``, even if the block was
    cancelled.

    - ``url``: ``ws://``, ``wss://``, ``http://`` or ``https://``; without a path it is ``/ws``.
    - ``token``: a JWT, or an async callable that returns one. It is called before every connection, and
      shortly before the token of an open one expires (by the gateway's clock; again if that fails).
      An exception of the callable counts as a failed try. None if the URL has ``?token=`` or
      ``?ticket=`` (a ticket is valid for one connection only, so not with ``reconnect``).
    - ``reconnect``: False, or a :class:`Backoff` with other delays. The number of tries is unlimited, except
      with ``give_up``; the reason of the first failure is logged as a warning of ``gateway.client``. There
      is no retry after a refused token (HTTP 401, close code 1008) unless ``token`` is a callable, after a
      close code for which :func:`protocol.errors.should_reconnect` is false, or, before the first
      connection, after another HTTP 4xx (except 408 and 429) or an invalid certificate.
    - ``reconnect_failed`` is called with the error, the last reason as its ``__cause__``, when ``tries``
      further tries have failed; then the client keeps trying. An exception that it raises ends the block.
    - ``retry_first``: with False entering fails after the first try, which suits a command line; otherwise
      the first connection has the same tries as later ones.
    - ``command_timeout``: for each command, including its wait for a connection.
    - ``connect_timeout``: for one try of one transport, from requesting the token to the welcome.
    - ``heartbeat``: after this time without a byte the client pings the gateway;
      without an answer the connection is given up ``heartbeat_timeout`` later.
    - ``buffer``: events that may wait for the iteration. When it is full, nothing more is read, not
      even replies, until events are taken: if a task handles events and waits for commands while
      more than ``buffer`` events arrive, these commands time out. Send from another task, or raise this.
    - ``max_pending``: commands that may wait at the same time, for a connection or a reply.
    - ``max_message_bytes``: larger messages from the gateway close the connection with 1009.
    - ``window``: message ids that are remembered to drop duplicates; 0 remembers none.
    - ``transports``: those to try, best first; all three by default, only WebSocket with ``dial`` and
      without ``http``, or with a ticket. The next one is tried when the answer is not a gateway's, or there
      is none; after that, the one that worked is tried first. After ``websocket_retry`` seconds, and
      then less and less often, the best one is tried again, and used when it works. ``codec`` applies to
      WebSocket.
    - ``headers``: additional headers for the upgrade.
    - ``ssl_context``: for ``wss://``, instead of the system's certificates.
    - ``dial``: opens the connection instead of TCP, for tunnels and tests. It takes an ``Address`` and
      returns a ``trio.abc.Stream``, or on asyncio a connected socket.
    - ``http``: handles the requests of server-sent events and long-poll instead of the network.

    Raises ``ConnectionRefused``, ``ConnectionFailed`` or ``ReconnectFailed`` when there is no
    connection, ``ValueError`` for invalid parameters. Exceptions of the block pass unchanged.
    """
    if codec not in ("cbor", "json"):
        raise ValueError(f"codec must be 'cbor' or 'json', not {codec!r}")
    policy = reconnect if isinstance(reconnect, Backoff) else Backoff() if reconnect else None
    address = parse_url(url)
    options = Options(
        address=address,
        sockets=_sockets(dial, ssl_context),
        open_http=_http(address, ssl_context, http, connect_timeout, max_message_bytes),
        kinds=_kinds(address, transports, only_websocket=dial is not None and http is None),
        websocket_retry=websocket_retry,
        codec=CBOR if codec == "cbor" else JSON,
        headers={"User-Agent": f"trireme-gateway/{VERSION}", **(headers or {})},
        reconnect=policy,
        reconnect_failed=reconnect_failed,
        retry_first=retry_first,
        connect_timeout=connect_timeout,
        command_timeout=command_timeout,
        close_timeout=close_timeout,
        heartbeat=heartbeat,
        heartbeat_timeout=heartbeat_timeout,
        buffer=buffer,
        max_pending=max_pending,
        max_message_bytes=max_message_bytes,
        window=window,
    )
    session = Session(options, token)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.run)
            try:
                await session.started()
                yield Client(session)
            finally:
                session.fail(ClientClosed())
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = _own_error(group)
        if error is None:
            raise
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # not the group, which holds it
    finally:
        session.finish()


def _sockets(dial: Callable[[Address], Awaitable[Any]] | None, ssl_context: ssl.SSLContext | None) -> Sockets:
    """What opens WebSockets on the loop that runs here."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        from gateway.client.trio_socket import TrioSockets, tcp_dial

        return TrioSockets(dial or tcp_dial(ssl_context))
    from gateway.client.asyncio_socket import AsyncioSockets

    return AsyncioSockets(dial, ssl_context)


def _kinds(
    address: Address, wanted: Sequence[str] | None, *, only_websocket: bool
) -> tuple[TransportKind, ...]:
    if wanted is None:
        # A ticket opens one connection, and the other ways take several requests.
        only_websocket = only_websocket or "ticket=" in address.resource.partition("?")[2]
        return TRANSPORTS[:1] if only_websocket else TRANSPORTS
    kinds = tuple(TransportKind(each) for each in wanted)
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError("transports must name at least one transport, and none twice")
    return kinds


def _http(
    address: Address,
    ssl_context: ssl.SSLContext | None,
    transport: httpx.AsyncBaseTransport | None,
    timeout: float,
    max_message_bytes: int,
) -> OpenHttp:
    """What begins a connection over HTTP; httpx is imported only when it comes to that."""

    def open_http(
        tasks: anyio.abc.TaskGroup, kind: TransportKind, headers: Mapping[str, str], rooms: Rooms
    ) -> Transport:
        from gateway.client.http_transport import HttpDoor, HttpTransport

        door = HttpDoor(address, ssl_context, transport)
        opened = HttpTransport(
            kind, door, headers, rooms, timeout=timeout, max_message_bytes=max_message_bytes
        )
        opened.start(tasks)
        return opened

    return open_http


def _own_error(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The block's own error, when nothing but cancellation came with it.

    The task group is a detail that the caller did not open, so the group around it is one too.
    """
    errors = [error for error in group.exceptions if not _is_cancellation(error)]
    return errors[0] if len(errors) == 1 else None


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(anyio.get_cancelled_exc_class())[1] is None
    return isinstance(error, anyio.get_cancelled_exc_class())
