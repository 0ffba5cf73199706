"""What this node states in Redis: how many connections each user has with it, channel by channel.

It is stated as it *is*, not as it changed: twice, late, or anew after an outage is always right, and a
user who came and went in between costs nothing. Many channels go at the same time, each in steps of some
users.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

import trio

from gateway.broker.channels import Channel, stored_channel
from gateway.broker.redis.client import Client
from gateway.cluster.roster import Change
from gateway.cluster.scripts import SET, SetCall, pack
from protocol.errors import ProtocolError

__all__ = ["PresenceSync", "mine_key", "totals_key"]

_CHANNELS: Final = 64
"""Channels that are stated at the same time."""
_USERS: Final = 500
"""Users in one step; Redis serves nobody else meanwhile."""


def totals_key(client: Client, channel: Channel) -> str:
    """The key under which Redis adds up a channel."""
    return client.key("presence", channel)


def mine_key(client: Client, channel: Channel, lease: str) -> str:
    """The key of what the node with ``lease`` stated of a channel."""
    return f"{totals_key(client, channel)}:{lease}"


class PresenceSync:
    """Everything that is still to be stated: at most one entry for each user in each room of this node."""

    def __init__(
        self,
        client: Client,
        here: Mapping[Channel, Mapping[str, int]],
        changed: Callable[[Channel, list[Change]], None],
    ) -> None:
        """``here``: channel → user → connections, as it is now; ``changed`` passes on who came or went."""
        self._client = client
        self._here = here
        self._changed = changed
        self._lease = ""
        self._dirty: dict[Channel, dict[str, None]] = {}
        self._flying: dict[Channel, dict[str, None]] = {}
        self._indexed: set[Channel] = set()
        """Channels of which Redis knows that this lease has something in them."""
        self._leftovers: dict[str, set[Channel]] = {}
        """Of leases that this node has lost, the channels in which something may still be written."""
        self._wake = trio.Event()
        self._through = trio.Event()
        self._failure: ProtocolError | None = None

    def __len__(self) -> int:
        return sum(map(len, self._dirty.values())) + sum(map(len, self._flying.values()))

    def add(self, channel: Channel, user: str) -> None:
        """The number of a user's connections has changed."""
        self._dirty.setdefault(channel, {})[user] = None
        self._wake.set()

    def restate(self, lease: str) -> None:
        """State everything, under this lease."""
        if self._lease and self._lease != lease:
            self._leftovers[self._lease] = set(self._indexed)
        self._lease = lease
        self._indexed.clear()
        for channel, here in self._here.items():
            self._dirty.setdefault(channel, {}).update(dict.fromkeys(here))
        self._wake.set()

    async def settled(self, channel: Channel | None = None) -> None:
        """Wait until what is known here, of one channel or of all, is stated; raises BROKER_UNAVAILABLE."""
        while (
            (self._dirty or self._flying)
            if channel is None
            else (channel in self._dirty or channel in self._flying)
        ):
            if self._failure is not None:
                raise self._failure
            await self._through.wait()

    async def run(self) -> None:
        """State what changes until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._dirty and self._lease:
                await self._state_some()
                if self._failure is not None:
                    await trio.sleep(self._failure.retry_after or 1.0)

    async def _state_some(self) -> None:
        for channel in list(self._dirty)[:_CHANNELS]:
            self._flying[channel] = self._dirty.pop(channel)
        failures: list[ProtocolError] = []
        lease = self._lease
        try:
            await self._index(lease, self._flying.keys() - self._indexed)
            async with trio.open_nursery() as nursery:
                for channel in self._flying:
                    nursery.start_soon(self._state, channel, lease, failures)
        except ProtocolError as error:
            failures.append(error)
        finally:
            for channel, users in self._flying.items() if failures or lease != self._lease else ():
                self._dirty[channel] = users | self._dirty.get(channel, {})
            self._flying.clear()
        self._failure = failures[0] if failures else None
        self._through.set()
        self._through = trio.Event()

    async def _index(self, lease: str, channels: Collection[Channel]) -> None:
        if channels:
            key = self._client.key("places", lease)
            await self._client.call(key, b"SADD", key, *channels)
            if lease == self._lease:
                self._indexed |= set(channels)

    async def _state(self, channel: Channel, lease: str, failures: list[ProtocolError]) -> None:
        users = list(self._flying[channel])
        try:
            for start in range(0, len(users), _USERS):
                here = self._here.get(channel, {})
                await self._set(
                    channel, lease, {user: here.get(user, 0) for user in users[start : start + _USERS]}
                )
            if channel not in self._here and channel not in self._dirty:
                self._indexed.discard(channel)
                key = self._client.key("places", lease)
                await self._client.call(key, b"SREM", key, channel)
        except ProtocolError as error:
            failures.append(error)

    async def _set(self, channel: Channel, lease: str, counts: Mapping[str, int]) -> None:
        keys = [totals_key(self._client, channel), mine_key(self._client, channel, lease)]
        watched, *flat = await self._client.run_script(SET, keys, [pack(SetCall(list(counts.items())))])
        if watched and flat:
            triples = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
            self._changed(
                channel,
                [
                    Change(int(version), "join" if event == b"join" else "leave", user.decode())
                    for version, event, user in triples
                ],
            )

    async def remove(self, lease: str) -> None:
        """Take back what a dead node stated; raises BROKER_UNAVAILABLE, and may then be done again."""
        places = self._client.key("places", lease)
        if lease in self._leftovers:
            if self._flying:
                await self._through.wait()
            if self._leftovers[lease]:
                await self._client.call(places, b"SADD", places, *self._leftovers[lease])
            del self._leftovers[lease]
        while channels := await self._client.call(places, b"SRANDMEMBER", places, _CHANNELS):
            for channel in (stored_channel(each.decode()) for each in channels):
                mine = mine_key(self._client, channel, lease)
                users = [user.decode() for user in await self._client.call(mine, b"HKEYS", mine)]
                for start in range(0, len(users), _USERS):
                    await self._set(channel, lease, dict.fromkeys(users[start : start + _USERS], 0))
            await self._client.call(places, b"SREM", places, *channels)
