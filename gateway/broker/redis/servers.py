"""Which server has which channel: one server, the one that Sentinels name, or the primaries of a cluster.

A *shard* is a primary with our two connections to it: one for commands, one (the feed) on which it tells
what is published. Without a cluster there is exactly one. Who asks for a channel's shard gets what was
last heard; when that turns out to be wrong (a MOVED answer, a lost connection), ``moved`` has the
cluster asked again, soon, and ``changed`` is called with what was found.
"""

from __future__ import annotations

import binascii
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import structlog
import trio

from gateway.broker.redis.connection import (
    AskError,
    ConnectionOptions,
    LinkLost,
    Location,
    MovedError,
    NotNow,
    SocketLocation,
    ask,
)
from gateway.broker.redis.counts import Counts
from gateway.broker.redis.link import Link
from gateway.broker.redis.sentinels import Sentinels
from gateway.config.redis_address import Address, parse_address
from gateway.config.settings import RedisSettings, SettingsError

__all__ = ["Probed", "Servers", "Shard", "probe", "slot_of"]

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

SLOTS: Final = 16384
_ASK_AGAIN: Final = 0.1
"""At least this long between two questions about the layout of the cluster, in seconds."""
_ALL_SENTINELS: Final = 2 / 3
"""They answer within this part of ``redis.timeout``."""


def slot_of(key: str) -> int:
    """The slot of a key with a hash tag (Redis cluster specification, "Keys hash tags")."""
    tag = key[key.index("{") + 1 : key.index("}")]
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


class Shard:
    """One primary."""

    def __init__(self, name: str, commands: Link, feed: Link) -> None:
        self.name = name
        self.commands = commands
        self.feed = feed
        self.links = (commands, feed)
        self.scope = trio.CancelScope()

    def silent(self, seconds: float) -> str | None:
        """Why its channels cannot be reached, when that has been so for ``seconds``."""
        return next((reason for link in self.links if (reason := link.silent(seconds)) is not None), None)

    async def run(self) -> None:
        """Keep both connections until cancelled."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.commands.run)
                nursery.start_soon(self.feed.run)


class Servers:
    """All shards, and the way to each channel's. Made and used inside Trio."""

    def __init__(
        self,
        address: Address,
        settings: RedisSettings,
        *,
        use_commands: Callable[[Shard], Awaitable[None]] | None = None,
        use_feed: Callable[[Shard], Awaitable[None]] | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """The ``use`` functions run for as long as a connection of a shard lasts; raises SettingsError."""
        self.cluster = address.kind == "cluster"
        self.publish = "SPUBLISH" if self.cluster else "PUBLISH"
        """A cluster would send what is published in the plain way to every one of its nodes."""
        self.counts = Counts()
        self.shards: list[Shard] = []
        self._address = address
        self._settings = settings
        self.options = _options(address, settings)
        self._sentinels = Sentinels(
            address.hosts, address.service, _plain(self.options), _ALL_SENTINELS * settings.timeout
        )
        self._use_commands = use_commands
        self._use_feed = use_feed
        self._changed = changed
        self._slots: list[Shard | None] = []
        self._moved = trio.Event()
        self.reason = "the cluster was not found yet"
        """Why there are no shards, for people."""

    def of(self, slot: int) -> Shard | None:
        """The shard of a slot; None while a cluster's layout is not known."""
        if not self.cluster:
            return self.shards[0] if self.shards else None
        return self._slots[slot] if self._slots else None

    def at(self, host: str, port: int) -> Shard | None:
        """The shard at an address that a server named."""
        return next((shard for shard in self.shards if shard.name == f"{host}:{port}"), None)

    async def follow(self, shard: Shard, ask: Callable[[Shard, bool], Awaitable[Answer]]) -> Answer:
        """Ask a shard; when the key is on its way to another server and there already, ask that (``asking``).

        Raises as ``Link.call``, and NotNow while the other server is not known.
        """
        try:
            return await ask(shard, False)
        except AskError as asked:  # or MOVED, which is one, too
            if isinstance(asked, MovedError):
                self.moved()
            other = self.at(asked.host, asked.port)
            if other is None:
                self.moved()
                raise NotNow("the slot moves to a server that is not known yet") from None
            return await ask(other, True)

    def silent(self, seconds: float) -> str | None:
        """Why some channels cannot be reached, when that has been so for ``seconds``."""
        if not self.shards:
            return self.reason
        for shard in self.shards:
            reason = shard.silent(seconds)
            if reason is not None:
                return f"{shard.name}: {reason}" if self.cluster else reason
        return None

    def moved(self) -> None:
        """What ``of`` says is no longer right."""
        self._moved.set()

    async def run(self) -> None:
        """Keep the connections until cancelled."""
        async with trio.open_nursery() as nursery:
            if self.cluster:
                await self._follow(nursery)
            else:
                shard = self._shard("redis", self._locate)
                self.shards.append(shard)
                nursery.start_soon(shard.run)
                await self._watch(shard)

    async def find(self) -> Location | SocketLocation:
        """Where a primary is; raises LinkLost."""
        if not self.cluster:
            return await self._locate()
        _, _, host, port = (await self._layout())[0]
        return Location(host, port)

    # --- one server, or Sentinels ---------------------------------------------------------------

    async def _locate(self) -> Location | SocketLocation:
        address = self._address
        if address.path:
            return SocketLocation(address.path)
        if address.kind == "single":
            return Location(*address.hosts[0])
        return await self._sentinels.primary()

    async def _watch(self, shard: Shard) -> None:
        """Follow the Sentinels also when the old primary is still there, perhaps cut off with us."""
        while True:
            await trio.sleep(self._settings.sweep)
            if self._address.kind != "sentinel":
                continue
            try:
                location = await self._locate()
            except LinkLost:
                continue  # without Sentinels things stay as they are
            for link in shard.links:
                if link.usable and link.location != location:
                    link.drop(f"the Sentinels name {location}")

    # --- a cluster ------------------------------------------------------------------------------

    async def _follow(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                self._take(await self._layout(), nursery)
            except LinkLost as lost:
                self.reason = str(lost)
                self._moved.set()
            await trio.sleep(_ASK_AGAIN)
            with trio.move_on_after(self._settings.sweep):
                await self._moved.wait()
            self._moved = trio.Event()

    async def _layout(self) -> list[tuple[int, int, str, int]]:
        known = [shard.commands.location for shard in self.shards if shard.commands.usable]
        seeds = [Location(host, port) for host, port in self._address.hosts]
        reasons: list[str] = []
        found: list[tuple[int, list[tuple[int, int, str, int]]]] = []

        async def inquire(location: Location) -> None:
            timeout = self._settings.timeout / 3
            try:
                info = await ask(location, self.options, timeout, b"CLUSTER INFO")
                ranges = await ask(location, self.options, timeout, b"CLUSTER SLOTS")
            except LinkLost as lost:
                reasons.append(str(lost))
                return
            layout = [
                (first, last, (primary[0] or b"").decode() or location.host, primary[1])
                for first, last, primary, *_ in ranges
            ]
            if layout:
                found.append((_epoch_of(info), layout))
            else:
                reasons.append(f"{location} belongs to no cluster that works")

        # One that is cut off from its peers still answers, without what they have agreed on since.
        async with trio.open_nursery() as nursery:
            for location in dict.fromkeys((*known, *seeds)):
                if isinstance(location, Location):
                    nursery.start_soon(inquire, location)
        if not found:
            raise LinkLost(reasons[0] if reasons else "the cluster has no servers")
        return max(found, key=lambda each: each[0])[1]

    def _take(self, layout: list[tuple[int, int, str, int]], nursery: trio.Nursery) -> None:
        old = self._slots
        shards = {shard.name: shard for shard in self.shards}
        slots: list[Shard | None] = [None] * SLOTS
        for first, last, host, port in layout:
            name = f"{host}:{port}"
            shard = shards.get(name)
            if shard is None:
                shard = shards[name] = self._shard(name, partial(_constant, Location(host, port)))
                nursery.start_soon(shard.run)
            slots[first : last + 1] = [shard] * (last + 1 - first)
        used = set(slots)
        for name, shard in list(shards.items()):
            if shard not in used:
                shard.scope.cancel()
                del shards[name]
        self.shards = list(shards.values())
        self._slots = slots
        if slots != old:
            if old:
                log.info("cluster topology changed", primaries=sorted(shards))
            self._changed()

    def _shard(self, name: str, locate: Callable[[], Awaitable[Location | SocketLocation]]) -> Shard:
        async def use_commands(link: Link) -> None:
            if self._use_commands is not None:
                await self._use_commands(shard)

        async def use_feed(link: Link) -> None:
            if self._use_feed is not None:
                await self._use_feed(shard)

        make = partial(
            Link,
            locate=locate,
            options=self.options,
            settings=self._settings,
            counts=self.counts,
            primary=True,
        )
        shard = Shard(name, make(f"{name} commands", use=use_commands), make(f"{name} feed", use=use_feed))
        return shard


@dataclass(frozen=True, slots=True)
class Probed:
    """A server that can be used."""

    text: str
    """What it is, in one line."""
    risks: tuple[str, ...]
    """Settings of it that can lose data."""


async def probe(address: str, settings: RedisSettings) -> Probed:
    """Look at the server of ``address``; raises LinkLost when it cannot be used, SettingsError."""
    servers = Servers(parse_address(address), settings)
    found = await servers.find()
    options = servers.options
    role = await ask(found, options, settings.timeout, b"ROLE")
    if role[0] != b"master":
        raise LinkLost(f"{found} is a replica")
    text: bytes = await ask(found, options, settings.timeout, b"INFO")
    info = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    server = (
        f"valkey {info['valkey_version']}" if "valkey_version" in info else f"redis {info['redis_version']}"
    )
    policy = info.get("maxmemory_policy", "unknown")
    risks = []
    if policy not in ("noeviction", "unknown"):
        risks.append(f"maxmemory-policy is {policy}: evicted rooms lose order and history; use noeviction")
    if info["aof_enabled"] != "1":
        risks.append(
            "no append-only file: a restart loses the order and history of rooms; use appendonly yes"
        )
    return Probed(f"{server} at {found}", tuple(risks))


def _epoch_of(info: bytes) -> int:
    """The epoch of a cluster, as a server knows it (CLUSTER INFO): it grows with each fail-over."""
    for line in info.decode().splitlines():
        name, _, value = line.partition(":")
        if name == "cluster_current_epoch":
            return int(value)
    return 0


async def _constant(location: Location) -> Location:
    return location


def _options(address: Address, settings: RedisSettings) -> ConnectionOptions:
    options: ConnectionOptions = {"connect_timeout": settings.timeout, "db": address.database}
    if address.password is not None:
        options |= {"username": address.username or "default", "password": address.password}
    if address.tls:
        try:
            options["ssl_context"] = ssl.create_default_context(cafile=settings.ca_file or None)
        except OSError as error:
            raise SettingsError(f"redis.ca_file: {settings.ca_file} cannot be used: {error}") from None
    return options


def _plain(options: ConnectionOptions) -> dict[str, Any]:
    """For Sentinels, who know neither the users nor the databases of their servers."""
    return {name: value for name, value in options.items() if name not in ("username", "password", "db")}
