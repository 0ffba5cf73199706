"""A connection to one Redis server that comes back by itself.

A link connects, runs ``use`` for as long as the connection lasts, and begins again, after a pause that
doubles up to ``max_backoff``. A connection on which nothing comes for ``heartbeat`` seconds is asked
with a PING; no answer in ``timeout`` seconds means that it is dead, whatever TCP believes. Nothing is
sent again: of a command whose connection was lost, only the caller knows whether that is safe.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import structlog
import trio

from gateway.broker.redis import connection as redis_connection
from gateway.broker.redis.connection import (
    BaseConnection,
    ConnectionOptions,
    LinkLost,
    Location,
    NotNow,
    Refused,
    Replica,
    SocketLocation,
    UnknownScript,
    answer,
    live,
    make,
    why,
)
from gateway.broker.redis.counts import Counts
from gateway.broker.redis.scripts import Script
from gateway.config.settings import RedisSettings

__all__ = ["Link"]

log = structlog.get_logger(__name__)

_FIRST_PAUSE: Final = 0.05
_NEVER: Final = "not connected yet"


class Link:
    """A connection to the server that ``locate`` names; all calls are made by tasks of the same loop."""

    def __init__(
        self,
        name: str,
        locate: Callable[[], Awaitable[Location | SocketLocation]],
        options: ConnectionOptions,
        settings: RedisSettings,
        counts: Counts,
        *,
        use: Callable[[Link], Awaitable[None]] | None = None,
        primary: bool = False,
    ) -> None:
        """``use`` runs while connected; with ``primary`` a server that is a replica is not taken."""
        self.name = name
        self.reason = _NEVER
        """Why there is no connection, for people; empty while there is one."""
        self.away_since: float | None = trio.current_time()
        """Trio time since when there is no connection, or none that answers; None while all is well."""
        self.location: Location | SocketLocation | None = None
        self.generation = 0
        """Counts the connections."""
        self._locate = locate
        self._options = options
        self._settings = settings
        self._counts = counts
        self._use = use
        self._primary = primary
        self._connection: BaseConnection | None = None
        self._asked: dict[object, float] = {}
        self._dropped = ""
        self._held = False
        self._budget = anyio.CapacityLimiter(1)

    # --- life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep connected until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            begun = trio.current_time()
            reasons: list[str] = []
            try:
                async with trio.open_nursery() as nursery:
                    await self._session(nursery)
            except* LinkLost as lost:
                reasons = [why(lost)]
            self._away(self._dropped or (reasons or ["the connection was lost"])[0])
            self._dropped = ""
            if trio.current_time() - begun > self._settings.max_backoff:
                pause = _FIRST_PAUSE
            # Nodes that lost the same server at the same time do not all come back at the same time.
            await trio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, self._settings.max_backoff)

    async def _session(self, nursery: trio.Nursery) -> None:
        """One connection, from its beginning to its end; raises LinkLost."""
        connection = await self._connect(nursery)
        self._connection = connection
        self.generation += 1
        self._counts.connects += 1
        if self.generation > 1:
            log.info("broker connected", link=self.name, location=str(self.location))
        self.reason, self.away_since = "", None
        try:
            nursery.start_soon(self._beat, connection)
            if self._use is not None:
                await self._use(self)
            await trio.sleep_forever()
        finally:
            self._counts.disconnects += 1
            self._connection = None
            connection.invalidate()

    async def _connect(self, nursery: trio.Nursery) -> BaseConnection:
        timeout = self._settings.timeout
        try:
            with trio.fail_after(timeout):
                self.location = await self._locate()
                connection = make(self.location, self._options | {"processing_budget": self._budget})
                await nursery.start(live, connection)
                if self._primary and (await answer(connection, b"ROLE"))[0] != b"master":
                    raise LinkLost(f"{self.location} is a replica")
        except trio.TooSlowError:
            raise LinkLost(f"no answer within {timeout:g} seconds") from None
        except (NotNow, Refused) as error:
            raise LinkLost(str(error)) from None
        return connection

    def _away(self, reason: str) -> None:
        if self.away_since is None or self.reason == _NEVER:
            log.warning("broker unavailable", link=self.name, reason=reason)
        if self.away_since is None:
            self.away_since = trio.current_time()
        self.reason = reason

    async def _beat(self, connection: BaseConnection) -> None:
        heard = -1
        while True:
            await trio.sleep(self._settings.heartbeat)
            if connection.statistics.bytes_read == heard and not self._held:
                # An error (it is loading its data, say) is a sign of life as well.
                with contextlib.suppress(NotNow, Refused):
                    await self.call(b"PING")
            heard = connection.statistics.bytes_read

    def drop(self, reason: str) -> None:
        """Give the present connection up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._dropped = reason
            self._away(reason)
            connection.invalidate(reason)

    @property
    def usable(self) -> bool:
        """There is a connection."""
        return self._connection is not None

    def silent(self, seconds: float, now: float | None = None) -> str | None:
        """Why nothing can be done now, when that has been so for ``seconds``; ``now`` is Trio's time."""
        if self.away_since is None and not self._asked:
            return None
        if now is None:
            now = trio.current_time()
        if self.away_since is not None and now - self.away_since >= seconds:
            return self.reason
        oldest = next(iter(self._asked.values()), now)
        return f"no answer for {now - oldest:.1f} seconds" if now - oldest >= max(seconds, 0.5) else None

    # --- commands -----------------------------------------------------------------------------

    async def call(self, command: bytes, *words: bytes | str | int | float, asking: bool = False) -> Any:
        """Send one command and return its answer.

        Raises LinkLost, NotNow, Refused, and for a cluster MovedError and AskError.
        """
        connection = self._connection
        if connection is None:
            raise LinkLost(self.reason)
        token = object()
        begun = self._asked[token] = trio.current_time()
        try:
            with trio.fail_after(self._settings.timeout):
                if asking:
                    connection.create_request(b"ASKING")
                found = await answer(connection, command, *words)
            self._counts.round_trips += 1
            self._counts.round_trip_seconds += trio.current_time() - begun
            return found
        except trio.TooSlowError:
            self.drop(f"no answer within {self._settings.timeout:g} seconds")
            raise LinkLost(self.reason) from None
        except Replica as error:
            self.drop(str(error))
            raise LinkLost(str(error)) from None
        finally:
            self._asked.pop(token, None)

    async def run_script(
        self, script: Script, keys: list[str], words: list[bytes | str | int], *, asking: bool = False
    ) -> Any:
        """Call one of our scripts; raises as :meth:`call`."""
        try:
            return await self.call(b"EVALSHA", script.sha, len(keys), *keys, *words, asking=asking)
        except UnknownScript:
            # Somebody flushed the scripts; it was not run.
            await self.call(b"SCRIPT LOAD", script.source)
        try:
            return await self.call(b"EVALSHA", script.sha, len(keys), *keys, *words, asking=asking)
        except UnknownScript:
            raise NotNow("the scripts are being flushed") from None

    def tell(self, command: bytes, *words: bytes | str) -> None:
        """Send a command whose answer comes as a push (SUBSCRIBE and its like); raises LinkLost."""
        if self._connection is None:
            raise LinkLost(self.reason)
        try:
            self._connection.send_command(command, *words)
        except Exception as error:
            raise LinkLost(why(error)) from None

    # --- pushes -------------------------------------------------------------------------------

    async def pushes(self) -> list[list[Any]]:
        """Wait for what the server sends by itself; returns all of it that is there. Raises LinkLost."""
        if self._connection is None:
            raise LinkLost(self.reason)
        return await redis_connection.pushes(self._connection)

    async def hold(self, until: Callable[[], Awaitable[None]]) -> None:
        """Read nothing from the socket while ``until`` waits: the server has to keep it, or to cut us off."""
        async with self._budget:
            self._held = True
            try:
                await until()
            finally:
                self._held = False
