"""What ``gateway publish`` and ``gateway tail`` do with a running gateway."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
import trio

from gateway.cli.arguments import Failed, UserError
from gateway.client import ClientError, Event, Lost, connect

__all__ = ["follow", "network", "publish", "render"]

Format = Literal["json", "pretty"]

PUBLISH_TIMEOUT: Final = 15.0
"""Seconds for connecting and publishing together."""


@contextmanager
def network(address: str) -> Iterator[None]:
    """Turn what may go wrong with ``publish`` and ``follow`` into ``Failed`` or ``UserError``.

    A fault of our own passes.
    """
    try:
        yield
    except Exception as exc:
        cause = _innermost(exc)
        if isinstance(cause, ClientError):
            raise Failed(f"{address}: {cause}") from exc
        if isinstance(cause, trio.TooSlowError):
            raise Failed(f"{address}: no answer in time") from exc
        if isinstance(cause, ValueError):  # an address or a name that cannot be
            raise UserError(str(cause)) from exc
        if isinstance(cause, BrokenPipeError):
            raise cause from exc
        raise


def _innermost(exc: BaseException) -> BaseException:
    """The one exception inside groups of one; a group of several as it is."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


async def publish(url: str, token: str, room: str | None, event: str, data: Any, form: Format) -> str:
    """Publish one event, without a room to the organisation, and return the reply as one line.

    Raises the client's ``ClientError``, ``ValueError`` for an address or name that cannot be, and
    ``trio.TooSlowError`` after ``PUBLISH_TIMEOUT`` seconds.
    """
    with trio.fail_after(PUBLISH_TIMEOUT):
        async with connect(url, token=token, reconnect=False) as client:
            reply = await client.publish(room, event, data)
    return _json(reply) if form == "json" else _visible(f"{reply.room or '*'} #{reply.seq}  {reply.mid}")


async def follow(
    url: str,
    token: str,
    rooms: Sequence[str],
    events: Sequence[str],
    form: Format,
    write: Callable[[str], None],
    begun: Callable[[], None],
) -> None:
    """Hand every event of ``rooms`` to ``write`` as one line, until SIGINT or SIGTERM.

    ``begun`` is called once, when nothing that comes from then on can be missed.

    Without rooms: what is sent to the organisation and to the token's user. Raises the client's
    ``ClientError`` when there is no connection any more, ``ValueError`` as ``publish`` does.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_signal, nursery.cancel_scope)
        # Coming back by itself is for later: what is wrong from the beginning is said at once.
        async with connect(url, token=token, reconnect=False):
            pass
        async with connect(url, token=token) as client:
            if events:
                await client.subscribe(*events)
            for room in rooms:
                await client.join(room)
            begun()
            async for event in client:
                write(render(event, form))
        nursery.cancel_scope.cancel()


def render(event: Event, form: Format) -> str:
    """``event`` as one line without control characters."""
    if form == "json":
        return _json(event)
    at = datetime.now(UTC) if event.ts is None else datetime.fromtimestamp(event.ts / 1000, UTC)
    where = event.room or "*"
    if isinstance(event, Lost):
        last = "now" if event.to_seq is None else event.to_seq
        what = [where, f"LOST {event.from_seq} to {last}: {event.reason}"]
    else:
        place = where if event.seq is None else f"{where} #{event.seq}"
        what = [place, event.event, *([event.sender] if event.sender else []), _json(event.data)]
    return _visible("  ".join([at.strftime("%H:%M:%S"), *what]))


async def _cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


def _visible(line: str) -> str:
    # Names and texts are a stranger's; some terminals obey characters that JSON leaves as they are.
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in line)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
