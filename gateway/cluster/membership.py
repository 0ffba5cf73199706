"""Which nodes there are: each keeps a lease in Redis, and a node whose lease is over is gone.

``cluster.lease`` seconds after the death of a node nothing of it is left. For that a lease is good for six
tenths of it, is renewed every tenth, and the others look for dead ones as often; the rest is for clearing up.
One that could not be renewed in time is still good until another node has claimed it; from then on what it
stood for is being removed, and its node, if it lives after all, begins a new one and states everything again.

The same step brings what else every node has to know: revocations that it has not seen.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import msgspec
import structlog
import trio

from gateway.broker.redis.client import Client
from gateway.cluster.scripts import BEAT, BURY, LEAVE, BeatCall, pack
from gateway.config.settings import ClusterSettings
from protocol.errors import ProtocolError

__all__ = ["Member", "Membership"]

log = structlog.get_logger(__name__)

_GOOD: Final = 0.6
_EVERY: Final = 0.1
_QUIET: Final = 0.3
"""Nobody was heard of for this part of a lease: it was Redis that was away."""
_CLAIM: Final = 0.5
"""What a dead node left is another's to remove when the first one has not done it in this part of a lease."""
_REVOCATIONS: Final = 500


class Member(msgspec.Struct, frozen=True):
    """What the others know of a node."""

    id: str
    """Of this start of the process; begins the ids of its connections."""
    node: str
    """Its name in the settings."""
    address: str
    version: str
    started: float
    """Seconds since 1970 UTC."""
    agree: dict[str, str] = {}
    """Settings in which all nodes must agree, as text; empty for a node of an older version."""

    @property
    def has_orders(self) -> bool:
        """It knows orders of users: the releases before those do not say what they agree in."""
        return bool(self.agree)


class Membership:
    """This node's lease, and its view of the others'."""

    def __init__(
        self,
        client: Client,
        settings: ClusterSettings,
        id: str,
        about: Callable[[], Member],
        *,
        leeway: float,
        longest_token: Callable[[], float],
        restate: Callable[[str], None],
        remove: Callable[[str], Awaitable[None]],
        revoked: Callable[[bytes, float], None],
    ) -> None:
        """``leeway``: seconds that clocks may differ before that is said. The rest are hooks.

        ``restate(lease)``: what this node has to say is not in Redis, or under another lease;
        ``remove(lease)``: clear up after a dead node, raises ProtocolError; ``revoked(text, at)``: once
        for each.
        """
        self._client = client
        self._settings = settings
        self._id = id
        self._about = about
        self._leeway = leeway
        self._longest_token = longest_token
        self._restate = restate
        self._remove = remove
        self._revoked = revoked
        self.lease = ""
        self.members: dict[str, Member] = {}
        """Lease → node; this one too, while it is registered."""
        self.joined = trio.Event()
        """Set when this node is registered and knows what all know."""
        self.renewed_at: float | None = None
        """Trio time of the last beat."""
        self.lost = 0
        """How often this node was taken for dead, or Redis had lost its data."""
        self.skew = 0.0
        """Seconds that this node's clock is ahead of Redis'."""
        self.skewed = False
        """Whether that is more than ``leeway``."""
        self.differing: dict[str, list[str]] = {}
        """Node → settings in which it differs where all must agree."""
        self.removed = 0
        """Dead nodes after which this one has cleared up."""
        self._version = ""
        self._cursor = 0.0
        self._wake = trio.Event()
        self._removing: set[str] = set()
        self._keys = {
            name: client.key(name, "cluster")
            for name in ("leases", "about", "dying", "state", "revoked", "when")
        }

    @property
    def revocation_keys(self) -> list[str]:
        """``revoked``, ``when`` and ``state``, for the script REVOKE."""
        return [self._keys[name] for name in ("revoked", "when", "state")]

    def others(self) -> set[str]:
        """The ids of the other nodes."""
        return {member.id for member in self.members.values()} - {self._id}

    def lease_of(self, node: str) -> str | None:
        """The lease of a node, by its id; None when it is not there."""
        return next((lease for lease, member in self.members.items() if member.id == node), None)

    def hurry(self) -> None:
        """Something happened that the next beat will bring: do it now."""
        self._wake.set()

    async def run(self) -> None:
        """Keep the lease until cancelled."""
        self._new_lease()
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    with trio.fail_after(self._settings.lease * _GOOD):
                        await self._beat(nursery)
                except (ProtocolError, trio.TooSlowError) as error:
                    log.debug("lease not renewed", reason=str(error))
                with trio.move_on_after(self._settings.lease * _EVERY):
                    await self._wake.wait()
                self._wake = trio.Event()

    def _new_lease(self) -> None:
        self.lease = f"{self._id}~{secrets.token_hex(3)}"
        self._version = ""
        self._restate(self.lease)

    async def _beat(self, nursery: trio.Nursery) -> None:
        lease, settings = self.lease, self._settings
        call = BeatCall(
            lease=lease,
            about=msgspec.json.encode(self._about()).decode(),
            ttl=_ms(settings.lease * _GOOD),
            quiet=_ms(settings.lease * _QUIET),
            claim=_ms(settings.lease * _CLAIM),
            version=self._version,
            cursor=int(self._cursor),
            longest=_ms(self._longest_token()),
            page=_REVOCATIONS,
        )
        keys = [self._keys[name] for name in ("leases", "about", "dying", "state", "revoked", "when")]
        begun = trio.current_time()
        answer = await self._client.run_script(BEAT, keys, [pack(call)])
        self.renewed_at = trio.current_time()
        if not answer:
            log.warning("lease lost; re-registering", lease=lease)
            self.lost += 1
            self._new_lease()
            self.hurry()
            # What was on its way under the old lease may have come behind the other node's broom.
            nursery.start_soon(self._clear_up, lease)
            return
        new, version, members, over, revocations, theirs = answer
        self._compare_clocks(float(theirs) / 1000, self.renewed_at - begun)
        if new and lease in self.members:
            log.warning("Redis lost this node's registration; reporting everything again", lease=lease)
            self.lost += 1
            self._cursor = 0.0
            self._restate(lease)
        self._take_members(version.decode(), members)
        for each in over:
            if each.decode() not in self._removing:
                nursery.start_soon(self._clear_up, each.decode())
        self._take_revocations(revocations)

    def _take_members(self, version: str, flat: list[bytes]) -> None:
        if not flat:
            return
        self._version = version
        before = self.members
        self.members = {}
        for text, about in zip(flat[::2], flat[1::2], strict=True):
            try:
                self.members[text.decode()] = msgspec.json.decode(about, type=Member)
            except msgspec.MsgspecError:
                log.warning("unreadable registration of another node", lease=text.decode())
        joined = self.members.keys() - before.keys()
        for lease in joined:
            log.info("node joined", node=self.members[lease].id)
        self._compare_settings(joined)
        for lease in before.keys() - self.members.keys():
            log.info("node left", node=before[lease].id)

    def _take_revocations(self, flat: list[bytes]) -> None:
        newest = 0.0
        for text, came, at in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
            newest = max(newest, float(came))
            if at is not None:
                self._revoked(text, float(at))
        # Also when that is less than before: then Redis has lost what was newer.
        self._cursor = newest or self._cursor
        if len(flat) // 3 < _REVOCATIONS:
            self.joined.set()
        else:
            # Those of the last millisecond come again; more than a page of one are beyond what REVOKE can do.
            self.hurry()

    def _compare_clocks(self, theirs: float, waited: float) -> None:
        """Redis looked at its clock at some moment of the seconds that were ``waited``."""
        self.skew = time.time() - waited / 2 - theirs
        skewed = abs(self.skew) > self._leeway + waited / 2
        if skewed and not self.skewed:
            log.warning("clock differs from Redis", seconds=round(self.skew, 1))
        self.skewed = skewed

    def _compare_settings(self, joined: Collection[str]) -> None:
        """Find who differs, and say so of the leases that ``joined``."""
        mine = self._about().agree
        self.differing = {}
        for lease, member in self.members.items():
            names = sorted(
                name for name in mine.keys() & member.agree.keys() if mine[name] != member.agree[name]
            )
            if names:
                self.differing[member.id] = names
            for name in names if lease in joined else ():
                log.warning(
                    f"another node has a different {name}; the smaller one applies to both",
                    setting=name,
                    node=member.id,
                    here=mine[name],
                    there=member.agree[name],
                )

    def warnings(self) -> list[str]:
        """What is wrong with the nodes together although this one works."""
        found = [
            f"node {node} has different settings: {', '.join(names)}"
            for node, names in sorted(self.differing.items())
        ]
        if self.skewed:
            where = "ahead of" if self.skew > 0 else "behind"
            found.append(f"the clock of this node is {abs(self.skew):.1f} s {where} that of Redis")
        return found

    async def _clear_up(self, lease: str) -> None:
        self._removing.add(lease)
        begun = time.monotonic()
        try:
            await self._remove(lease)
            await self._client.run_script(BURY, [self._keys["dying"], self._keys["about"]], [lease])
        except ProtocolError as error:
            log.warning("cleanup after a node was interrupted", lease=lease, reason=error.message)
        else:
            self.removed += 1
            log.info("cleanup after a node done", lease=lease, seconds=round(time.monotonic() - begun, 3))
        finally:
            self._removing.discard(lease)

    async def leave(self) -> None:
        """Give the lease back: nothing is left that it stood for. Raises BROKER_UNAVAILABLE."""
        await self._client.run_script(
            LEAVE, [self._keys[name] for name in ("leases", "about", "state")], [self.lease]
        )

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics."""
        age = -1.0 if self.renewed_at is None else trio.current_time() - self.renewed_at
        return {
            "cluster_nodes": ("Nodes that are registered, this one included", len(self.members)),
            "cluster_lease_age_seconds": (
                "Time since this node's lease was renewed; -1 before the first",
                age,
            ),
            "cluster_lease_lost_total": (
                "How often this node was taken for dead or Redis lost its data",
                self.lost,
            ),
            "cluster_clock_skew_seconds": ("How far this node's clock is ahead of Redis'", self.skew),
            "cluster_settings_differ": (
                "Nodes whose settings differ from this one's where all must agree",
                len(self.differing),
            ),
            "cluster_nodes_removed_total": ("Dead nodes after which this one has cleared up", self.removed),
        }


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
