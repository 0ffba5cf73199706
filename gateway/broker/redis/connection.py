"""The only place that knows coredis: one connection to one server, and its errors as ours.

coredis' own client retries, pools and reconnects; that is not wanted here. Its retry made three
entries of one ``XADD``, and its pub/sub subscribes again without saying that something was missed. So
this uses its lower layer, ``coredis.connection``: a socket, a parser, and replies in order. What to do
when a connection is lost only the caller can know, who is told by ``LinkLost``.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import anyio
import trio
from coredis.connection import BaseConnection, TCPConnection, UnixDomainSocketConnection
from coredis.connection import TCPLocation as Location
from coredis.connection import UnixDomainSocketLocation as SocketLocation
from coredis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

__all__ = [
    "AskError",
    "BaseConnection",
    "ConnectionOptions",
    "LinkLost",
    "Location",
    "MovedError",
    "NotNow",
    "Refused",
    "Replica",
    "SocketLocation",
    "UnknownScript",
    "answer",
    "ask",
    "is_full",
    "is_over",
    "live",
    "make",
    "pushes",
    "why",
]

# It logs every failed attempt with a traceback; the link logs what matters, once for each outage.
logging.getLogger("coredis").setLevel(logging.CRITICAL)

_NOT_NOW: Final = (BusyLoadingError, ClusterDownError, TryAgainError)

ConnectionOptions = dict[str, Any]
"""What every connection to a server is made with."""


class LinkLost(Exception):
    """There is no connection, or it was lost before the answer: the command may have been carried out."""


class NotNow(Exception):
    """The server cannot do it at present (loading, a cluster in transition). Nothing was done."""


class Refused(Exception):
    """The server answered with an error of another kind. Nothing was done."""


class UnknownScript(Exception):
    """The server does not know this script (any more). Nothing was done."""


class Replica(Exception):
    """The server was a primary, and is a replica now. Nothing was done."""


def make(location: Location | SocketLocation, options: ConnectionOptions) -> BaseConnection:
    """A connection that :func:`live` will open."""
    if isinstance(location, SocketLocation):
        return UnixDomainSocketConnection(location, **options)
    return TCPConnection(location, **options)


async def live(
    connection: BaseConnection, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Connect, then run coredis' reader and writer; ends with LinkLost."""
    try:
        await connection.run(task_status=task_status)
    except Exception as error:
        raise LinkLost(why(error)) from None
    finally:
        # Not public: when coredis could not connect, it leaves these to the garbage collector.
        for buffer in (
            *(connection._push_message_buffer_in, connection._push_message_buffer_out),
            *(connection._streamed_message_buffer_in, connection._streamed_message_buffer_out),
            *(connection._write_buffer_in, connection._write_buffer_out),
        ):
            buffer.close()
    raise LinkLost("the connection was lost")


async def answer(connection: BaseConnection, command: bytes, *words: bytes | str | int | float) -> Any:
    """Send a command and await the reply; whatever coredis raises becomes one of our errors."""
    try:
        return await connection.create_request(command, *words)
    except NoScriptError:
        raise UnknownScript from None
    except ReadOnlyError as error:
        raise Replica(why(error)) from None
    except (MovedError, AskError):
        raise
    except _NOT_NOW as error:
        raise NotNow(why(error)) from None
    except ResponseError as error:
        raise Refused(why(error)) from None
    except Exception as error:
        # A lost connection shows as whatever ended its reader or writer.
        raise LinkLost(why(error)) from None


async def pushes(connection: BaseConnection) -> list[list[Any]]:
    """Wait for what the server sends by itself; returns all of it that is there. Raises LinkLost."""
    # Not public: the public generator costs a turn of the scheduler for every single message, so a busy
    # loop would fall behind. tests/broker/test_redis_link.py holds coredis to it.
    buffer = connection._push_message_buffer_out
    found: list[list[Any]] = []
    try:
        found.append(await buffer.receive())
        while True:
            found.append(buffer.receive_nowait())
    except anyio.WouldBlock:
        return found
    except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        if found:
            return found
        raise LinkLost("the connection was lost") from None


async def ask(
    location: Location | SocketLocation,
    options: ConnectionOptions,
    timeout: float,
    command: bytes,
    *words: str,
) -> Any:
    """Ask one server one thing, over a connection of its own; raises LinkLost."""
    answers: list[Any] = []
    with trio.move_on_after(timeout):
        try:
            async with trio.open_nursery() as nursery:
                connection = make(location, options)
                await nursery.start(live, connection)
                answers.append(await answer(connection, command, *words))
                nursery.cancel_scope.cancel()
        except* (LinkLost, NotNow, Refused, Replica) as group:
            raise LinkLost(f"{location}: {why(group)}") from None
    if not answers:
        raise LinkLost(f"{location} does not answer within {timeout:g} seconds")
    return answers[0]


def is_full(reason: str) -> bool:
    """Whether a server refused because it has no memory left ("OOM command not allowed …")."""
    return "OOM " in reason or "maxmemory" in reason


def is_over(info: bytes) -> bool:
    """Whether INFO memory says that the server uses all that it may, and drops nothing to make room."""
    found = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    limit = int(found.get("maxmemory", 0))
    return (
        bool(limit) and found.get("maxmemory_policy") == "noeviction" and int(found["used_memory"]) >= limit
    )


def why(error: BaseException) -> str:
    """One line for people."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    if cause is not None and str(cause) and str(cause) not in str(error):
        return f"{error}: {cause}"
    return str(error) or type(error).__name__
