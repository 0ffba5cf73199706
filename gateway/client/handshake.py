"""From an address to a connection that the gateway has welcomed."""

from __future__ import annotations

from typing import NamedTuple

import anyio
import anyio.abc
import msgspec

from gateway.client.course import TransportKind
from gateway.client.ended import Ended
from gateway.client.errors import ConnectionFailed
from gateway.client.messages import ConnectionInfo
from gateway.client.options import Options, Token
from gateway.client.rooms import Rooms
from gateway.client.transport import Asked, SocketClosed, Transport
from protocol.codec import Codec
from protocol.errors import CloseCode, ProtocolError, should_reconnect
from protocol.json import JSON

__all__ = ["Welcome", "establish"]


class Welcome(NamedTuple):
    """A connection that the gateway has welcomed."""

    kind: TransportKind
    transport: Transport
    codec: Codec
    info: ConnectionInfo
    now: int | None
    """The gateway's time, in milliseconds since 1970 UTC."""


async def establish(
    tasks: anyio.abc.TaskGroup, options: Options, token: Token, kind: TransportKind, rooms: Rooms
) -> Welcome:
    """Dial, ask with a (fresh) token, and wait for ``connected``, all within ``connect_timeout``.

    The caller closes the transport, whose tasks live in ``tasks``. Raises
    :class:`~gateway.client.errors.ConnectError`.
    """
    codec: Codec = options.codec if kind is TransportKind.WEBSOCKET else JSON
    try:
        with anyio.fail_after(options.connect_timeout):
            headers = dict(options.headers)
            bearer = await _bearer(token)
            if bearer is not None:
                headers["Authorization"] = f"Bearer {bearer}"
            if kind is TransportKind.WEBSOCKET:
                asked = Asked(
                    options.address,
                    subprotocol=codec.subprotocol,
                    binary=codec.binary,
                    headers=headers,
                    max_message_bytes=options.max_message_bytes,
                )
                transport = await options.sockets.open(tasks, asked)
            else:
                transport = options.open_http(tasks, kind, headers, rooms)
            try:
                return Welcome(kind, transport, codec, *await _welcome(transport, codec))
            except BaseException:
                await transport.aclose(CloseCode.NORMAL, options.close_timeout)
                raise
    except TimeoutError:
        where = options.address.authority
        raise ConnectionFailed(f"no connection to {where} within {options.connect_timeout:g} s") from None


async def _bearer(token: Token) -> str | None:
    if token is None or isinstance(token, str):
        return token
    try:
        return await token()
    except Exception as error:
        # Whoever gives out tokens may be away for the same reason as the gateway: another try can help.
        raise ConnectionFailed(f"no token: {error!r}", reached=False) from error


async def _welcome(transport: Transport, codec: Codec) -> tuple[ConnectionInfo, int | None]:
    """The first message: ``connected``, or ``closing`` when the gateway thinks better of it."""
    try:
        envelope = codec.decode(await transport.receive())
        if envelope.t == "connected":
            return msgspec.convert(envelope.data, ConnectionInfo), envelope.ts
        if envelope.t == "closing":
            ended = Ended.announced(envelope)
            raise ConnectionFailed(
                f"closed before the welcome: {ended.reason}",
                retry=ended.reconnect,
                retry_after=ended.retry_after,
                token=ended.code == CloseCode.POLICY_VIOLATION,
            )
    except SocketClosed as closed:
        reason = f"closed with code {closed.code} before the welcome: {closed.reason}"
        refused = closed.code == CloseCode.POLICY_VIOLATION
        raise ConnectionFailed(reason, retry=should_reconnect(closed.code), token=refused) from None
    except (ProtocolError, msgspec.ValidationError) as error:
        raise ConnectionFailed(f"the welcome is invalid: {error}", retry=False) from error
    raise ConnectionFailed(f"the gateway said {envelope.t!r} instead of a welcome", retry=False)
