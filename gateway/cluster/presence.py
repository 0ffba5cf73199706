"""Presence over all nodes: what this one knows goes to Redis, what changes comes back to the watchers.

Redis adds up what the nodes state (``presence_sync.py``), and the script that does so tells who has come or
gone, under a number. The node that ran it passes that on to the nodes where somebody watches the room.
That may be lost together with the node, which the numbers betray: then the room is read anew (``roster.py``).

While Redis is away rooms go on, and nobody is told who comes and goes; when it is back, all of it follows.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import trio

from gateway.broker.base import Channel, Event, Position, organisation_channel, presence_channel, room_channel
from gateway.broker.redis.client import Client
from gateway.cluster.presence_sync import PresenceSync, mine_key, totals_key
from gateway.cluster.roster import Change, Roster
from gateway.cluster.scripts import COUNT, READ, WHERE, ReadCall, pack
from gateway.config.settings import ClusterSettings
from gateway.hub.hub import Hub
from gateway.hub.peer import Member
from gateway.hub.presence import NOBODY, Presence
from gateway.hub.room import Room
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["SharedPresence"]

_AT_ONCE: Final = 64
"""Rooms that are asked for at the same time."""
_SWEEP: Final = 0.2
"""The numbers are compared this often, as a part of the lease."""
_WATCHED: Final = 1.0
"""For this part of the lease a room counts as watched, without being asked for again."""
_ATTEMPTS: Final = 20
_PAUSE: Final = 0.05


class _Watched:
    """A room that somebody here watches."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.loading = trio.Lock()
        self.loaded = False
        self.behind = 0
        """The last number that the roster lacked at the last sweep."""


class SharedPresence(Presence):
    """See the module. Counts in every room, since other nodes may ask at any time."""

    def __init__(self, client: Client, settings: ClusterSettings) -> None:
        super().__init__()
        self._client = client
        self._settings = settings
        self._hub: Hub
        self.sync = PresenceSync(client, self._here, self._pass_on)
        self._watched: dict[Channel, _Watched] = {}
        self.repairs = 0
        """Rooms read again because a change had not come."""

    def bind(self, hub: Hub) -> None:
        """Work for this hub."""
        self._hub = hub

    def restate(self, lease: str) -> None:
        """State everything, under this lease: nothing of it is in Redis."""
        self.sync.restate(lease)

    async def run(self) -> None:
        """State what changes, and look after what is watched, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sync.run)
            nursery.start_soon(self._sweep)

    # --- what happens on this node ----------------------------------------------------------------

    def entered(self, room: Room, connection: Member) -> None:
        """See :class:`~gateway.hub.presence.Presence`."""
        if room.name is not None:
            self._count_in(room.channel, connection.user, 1)

    def left(self, room: Room, connection: Member) -> None:
        """See :class:`~gateway.hub.presence.Presence`."""
        if room.name is not None:
            self.unwatch(room.channel, connection)
            self._count_in(room.channel, connection.user, -1)

    def linger(self, channel: Channel, user: str) -> None:
        """See :class:`~gateway.hub.presence.Presence`."""
        self._count_in(channel, user, 1)

    def gone(self, channel: Channel, user: str) -> None:
        """See :class:`~gateway.hub.presence.Presence`."""
        self._count_in(channel, user, -1)

    def connected(self, connection: Member) -> None:
        """See :class:`~gateway.hub.presence.Presence`. An organisation is counted like a room."""
        self._count_in(organisation_channel(connection.org), connection.user, 1)

    def disconnected(self, connection: Member) -> None:
        """See :class:`~gateway.hub.presence.Presence`."""
        self._count_in(organisation_channel(connection.org), connection.user, -1)

    def _count_in(self, channel: Channel, name: str | None, by: int) -> None:
        here = self._here.setdefault(channel, {})
        user = name or NOBODY
        here[user] = here.get(user, 0) + by
        if not here[user]:
            del here[user]
            if not here:
                del self._here[channel]
        self.sync.add(channel, user)

    async def settled(self, connection: Member) -> None:
        """See :class:`~gateway.hub.presence.Presence`."""
        await self.sync.settled(organisation_channel(connection.org))

    # --- asking -----------------------------------------------------------------------------------

    async def members(self, org: str, name: str) -> Mapping[str, int]:
        """See :class:`~gateway.hub.presence.Presence`."""
        channel = room_channel(org, name)
        await self.sync.settled(channel)
        watched = self._watched.get(channel)
        if watched is not None and watched.loaded:
            return await self._load(channel, watched)
        return (await self._read(channel))[1]

    async def count_users(self, channels: Iterable[Channel]) -> dict[Channel, int]:
        """How many users there are in each of these channels; raises BROKER_UNAVAILABLE."""
        found: dict[Channel, int] = {}
        failures: list[ProtocolError] = []

        async def count(channel: Channel) -> None:
            try:
                found[channel] = await self._client.run_script(COUNT, [totals_key(self._client, channel)], [])
            except ProtocolError as error:
                failures.append(error)

        wanted = list(channels)
        for start in range(0, len(wanted), _AT_ONCE):
            async with trio.open_nursery() as nursery:
                for channel in wanted[start : start + _AT_ONCE]:
                    nursery.start_soon(count, channel)
            if failures:
                raise failures[0]
        return found

    async def leases_of(self, org: str, user: str, leases: Iterable[str]) -> list[str]:
        """Of these leases, those under which the user has a connection; raises BROKER_UNAVAILABLE."""
        wanted = list(leases)
        if not wanted:
            return []
        keys = [mine_key(self._client, organisation_channel(org), lease) for lease in wanted]
        counts = await self._client.run_script(WHERE, keys, [user])
        return [lease for lease, count in zip(wanted, counts, strict=True) if count > 0]

    async def _read(self, channel: Channel, watch: float = 0.0) -> tuple[int, dict[str, int]]:
        version, *flat = await self._client.run_script(
            READ, [totals_key(self._client, channel)], [pack(ReadCall(int(watch * 1000), all=True))]
        )
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return int(version or 0), {user.decode(): int(count) for user, count in pairs}

    # --- watching ---------------------------------------------------------------------------------

    async def watch(self, connection: Member, name: str) -> None:
        """See :class:`~gateway.hub.presence.Presence`."""
        channel = room_channel(connection.org, name)
        self._watchers.setdefault(channel, {}).setdefault(connection, False)
        watched = self._watched.get(channel)
        if watched is None:
            watched = self._watched[channel] = _Watched()
            self._hub.listeners[presence_channel(channel)] = self._heard
        if not watched.loaded:
            await self._hub.broker.subscribe(presence_channel(channel))
            await self._load(channel, watched)

    def _released(self, channel: Channel) -> None:
        if self._watched.pop(channel, None) is not None:
            self._hub.broker.unsubscribe(presence_channel(channel))
            self._hub.listeners.pop(presence_channel(channel), None)

    def _known(self, channel: Channel) -> Collection[str]:
        watched = self._watched.get(channel)
        return () if watched is None else watched.roster.users

    async def _load(self, channel: Channel, watched: _Watched) -> Mapping[str, int]:
        """Read the room until what was read is not older than what the watchers were told."""
        async with watched.loading:
            for _ in range(_ATTEMPTS):
                version, counts = await self._read(channel, self._settings.lease * _WATCHED)
                changes = watched.roster.read(version, (user for user in counts if user != NOBODY))
                if changes is not None:
                    break
                await trio.sleep(_PAUSE)
            else:
                raise ProtocolError(
                    ErrorCode.BROKER_UNAVAILABLE, "presence is being restored", retry_after=_ATTEMPTS * _PAUSE
                )
        if watched.loaded:
            self._tell(channel, changes)
        watched.loaded = True
        return counts

    def _pass_on(self, channel: Channel, changes: list[Change]) -> None:
        """Let the nodes know where somebody watches; this one, too."""
        self._hub.broker.submit(
            Event(
                channel=presence_channel(channel),
                event="presence",
                mid=self._hub.new_mid(),
                ts=time.time_ns() // 1_000_000,
                data=[[change.version, change.event, change.user] for change in changes],
                ordered=False,
            ),
            _ignore,
        )

    def _heard(self, event: Event) -> None:
        channel = room_channel(event.channel.org, event.channel.name)
        watched = self._watched.get(channel)
        if watched is not None and watched.loaded:  # what is loaded later has it
            told = (Change(*change) for change in event.data)
            self._tell(channel, [change for change in told if watched.roster.take(change)])

    def _tell(self, channel: Channel, changes: list[Change]) -> None:
        for _version, event, user in changes:
            self.tell(channel, event, user)
        if changes:
            self._hub.flusher.wake()

    async def _sweep(self) -> None:
        """Ask on for what is watched, and look for changes that have not come."""
        while True:
            await trio.sleep(self._settings.lease * _SWEEP)
            watched = list(self._watched)
            for start in range(0, len(watched), _AT_ONCE):
                async with trio.open_nursery() as nursery:
                    for channel in watched[start : start + _AT_ONCE]:
                        nursery.start_soon(self._compare, channel)

    async def _compare(self, channel: Channel) -> None:
        watched = self._watched.get(channel)
        if watched is None or not watched.loaded:
            return
        wanted = int(self._settings.lease * _WATCHED * 1000)
        try:
            [version] = await self._client.run_script(
                READ, [totals_key(self._client, channel)], [pack(ReadCall(wanted, all=False))]
            )
            newest = int(version or 0)
            if newest <= watched.roster.known:
                watched.behind = 0
            elif watched.behind > watched.roster.known:
                # It was missing a sweep ago already, so it is not on its way.
                self.repairs += 1
                watched.behind = 0
                await self._load(channel, watched)
            else:
                watched.behind = newest
        except ProtocolError:
            return  # Redis is away; the next sweep will do it

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics."""
        return {
            "presence_unstated": (
                "Users whose presence is still to be stated in Redis",
                len(self.sync),
            ),
            "presence_watched_rooms": (
                "Rooms in which somebody is told who comes and goes",
                len(self._watched),
            ),
            "presence_repairs_total": ("Rooms read again because a change had not come", self.repairs),
        }


def _ignore(_result: Position | ProtocolError) -> None:
    """Who watches finds out by the numbers."""
