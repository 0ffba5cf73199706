"""From an address to a connection that the gateway has welcomed."""

from __future__ import annotations

import msgspec
import anyio
import anyio.abc

from gateway.client.ended import Ended
from gateway.client.errors import ConnectionFailed
from gateway.client.messages import ConnectionInfo
from gateway.client.options import Options, Token
from gateway.client.transport import Asked, SocketClosed, Transport
from protocol.errors import CloseCode, ProtocolError, should_reconnect

__all__ = ["establish"]


async def establish(
    tasks: anyio.abc.TaskGroup, options: Options, token: Token
) -> tuple[Transport, ConnectionInfo, int | None]:
    """Dial, upgrade with a (fresh) token, and wait for ``connected``, all within ``connect_timeout``.

    Returns the gateway's time too, in milliseconds since 1970 UTC. The caller closes the transport, whose
    one task lives in ``tasks``. Raises :class:`~gateway.client.errors.ConnectError`.
    """
    try:
        with anyio.fail_after(options.connect_timeout):
            headers = dict(options.headers)
            bearer = await _bearer(token)
            if bearer is not None:
                headers["Authorization"] = f"Bearer {bearer}"
            transport = await options.sockets.open(
                tasks,
                Asked(
                    options.address,
                    subprotocol=options.codec.subprotocol,
                    binary=options.codec.binary,
                    headers=headers,
                    max_message_bytes=options.max_message_bytes,
                ),
            )
            try:
                return transport, *await _welcome(transport, options)
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
        raise ConnectionFailed(f"no token: {error!r}") from error


async def _welcome(transport: Transport, options: Options) -> tuple[ConnectionInfo, int | None]:
    """The first message: ``connected``, or ``closing`` when the gateway thinks better of it."""
    try:
        envelope = options.codec.decode(await transport.receive())
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
        raise ConnectionFailed(f"the welcome cannot be understood: {error}", retry=False) from error
    raise ConnectionFailed(f"the gateway said {envelope.t!r} instead of a welcome", retry=False)
