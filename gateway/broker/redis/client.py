"""Redis for the other parts of a gateway: commands, scripts, and messages between nodes.

``RedisBroker.client`` is one of these, over the broker's own connections: there are no others, so what
is said of its reconnecting and its deadlines holds for all. It may be used from the moment that the broker
runs::

    await client.call(key, b"ZADD", key, expires, member)   # key: for the way in a cluster
    await client.run_script(SCRIPT, [key], [now, ttl])      # one step inside Redis; SCRIPT = Script("…")
    client.listen("node:n1", heard, joined)                 # heard(payload) for whatever is told
    count = await client.tell("node:n1", payload)           # how many nodes listened

Every key must have a hash tag (``client.key("presence", room)`` makes one), so that a cluster keeps those of
one script together. A command whose connection breaks is sent again until ``redis.timeout`` is over, so it
must be one that can be carried out twice; ``again=False`` sends it once. While Redis is away for longer than
``redis.patience`` every call fails at once with BROKER_UNAVAILABLE and its ``retry_after``.

What is told is not kept: a node that is not connected at that moment misses it. ``joined`` is called
whenever the server has confirmed a subscription, the first and every later one: after it nothing is missed,
before it something may have been.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import structlog
import trio

from gateway.broker.redis.connection import AskError, LinkLost, MovedError, NotNow, Refused, is_full
from gateway.broker.redis.scripts import Script
from gateway.broker.redis.servers import Servers, Shard, slot_of
from gateway.broker.redis.turns import Throttle
from gateway.config.settings import RedisSettings
from protocol.errors import ErrorCode, ProtocolError

if TYPE_CHECKING:
    from gateway.broker.redis.feed import Feed

__all__ = ["Client"]

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

_PAUSE: Final = 0.05


class Client:
    """See the module; all methods are for the task tree that runs the broker."""

    def __init__(self, servers: Servers, settings: RedisSettings, feed: Feed) -> None:
        self._servers = servers
        self._settings = settings
        self._feed = feed
        self._said = Throttle()

    def key(self, kind: str, name: str) -> str:
        """A key of this installation: ``<prefix>:<kind>:{<name>}``."""
        return f"{self._settings.prefix}:{kind}:{{{quote(name, safe=':@/!$,;=+')}}}"

    async def call(
        self, key: str, command: bytes, *words: bytes | str | int | float, again: bool = True
    ) -> Any:
        """The answer to one command about ``key``; raises BROKER_UNAVAILABLE."""
        return await self.ask(
            key, lambda shard, asking: shard.commands.call(command, *words, asking=asking), again=again
        )

    async def run_script(
        self, script: Script, keys: list[str], words: list[bytes | str | int], *, again: bool = True
    ) -> Any:
        """The answer of one script; all ``keys`` have the same hash tag. Raises BROKER_UNAVAILABLE."""
        return await self.ask(
            keys[0],
            lambda shard, asking: shard.commands.run_script(script, keys, words, asking=asking),
            again=again,
        )

    async def ask(
        self, key: str, ask: Callable[[Shard, bool], Awaitable[Answer]], *, again: bool = True
    ) -> Answer:
        """Ask the server that has ``key``, and again when a connection breaks; raises BROKER_UNAVAILABLE."""
        slot = slot_of(key)
        deadline = trio.current_time() + self._settings.timeout
        while True:
            shard = self._servers.of(slot)
            reason = self._servers.reason if shard is None else shard.commands.silent(self._settings.patience)
            if shard is not None and reason is None:
                try:
                    return await self._servers.follow(shard, ask)
                except Refused as error:
                    raise self.refused(str(error)) from None
                except (LinkLost, NotNow, MovedError, AskError) as error:
                    reason = str(error)
                    self._servers.moved()
                    # Only a lost connection leaves it open whether the command was carried out.
                    if (again or not isinstance(error, LinkLost)) and trio.current_time() < deadline:
                        await trio.sleep(_PAUSE)
                        continue
            raise self.unavailable(reason or "it does not answer")

    def unavailable(self, reason: str) -> ProtocolError:
        """What a user is told: not why, since that names servers; the log says it."""
        if self._said.may("unavailable"):
            log.warning("broker unavailable", reason=reason)
        return ProtocolError(
            ErrorCode.BROKER_UNAVAILABLE,
            "the broker is unavailable",
            retry_after=self._settings.retry_after,
        )

    def refused(self, reason: str) -> ProtocolError:
        """What a user is told when Redis refuses: not why, since that names keys; the log says it."""
        if self._said.may(reason):
            log.error("broker refused a command", reason=reason)
        return ProtocolError(
            ErrorCode.BROKER_UNAVAILABLE,
            "the broker is full" if is_full(reason) else "the broker refuses this",
            retry_after=self._settings.retry_after,
        )

    def listen(
        self, name: str, heard: Callable[[bytes], None], joined: Callable[[], None] = lambda: None
    ) -> None:
        """From now on, and as long as the broker runs, call ``heard`` with what is told to ``name``.

        Neither call may wait. Nodes that listen to one name all hear it.
        """
        self._feed.listen(name, heard, joined)

    async def tell(self, name: str, payload: bytes) -> int:
        """Have every node that listens to ``name`` hear ``payload``; returns how many these are.

        Raises BROKER_UNAVAILABLE, and then some may have heard it.
        """
        stream = self._feed.name_of_line(name)
        count: int = await self.call(stream, self._servers.publish.encode(), stream, payload, again=False)
        return count
