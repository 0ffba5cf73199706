"""Many nodes that act as one, joined through Redis.

Each part has one thing that is shared: the registry who is there, presence who is where, the exchange what
one node asks of another, tickets and revocations what is valid. This joins them with what this node does
itself (``local.py``), and makes one answer out of many (``merging.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import structlog
import trio

from gateway.auth.identity import Identity
from gateway.auth.tokens import Authenticator
from gateway.broker.base import organisation_channel, room_channel
from gateway.broker.redis.client import Client
from gateway.cluster import requests
from gateway.cluster.base import Listing
from gateway.cluster.local import Local
from gateway.cluster.membership import Member, Membership
from gateway.cluster.merging import merge_connections, merge_rooms, merge_traces, whole_of
from gateway.cluster.presence import SharedPresence
from gateway.cluster.rpc import Answers, Rpc
from gateway.cluster.scripts import REVOKE, RevokeCall, pack
from gateway.cluster.tickets import SharedTickets
from gateway.config.settings import Settings
from gateway.hub.hub import Hub, Sent
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["ManyNodes"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

_ORGANISATIONS: Final = 1000
"""Shares of ``auth.max_revocations`` that Redis holds; each organisation's own is counted by the nodes."""
_FAREWELL: Final = 2.0
"""Seconds that a shutdown waits until the others know; what they do not learn ends with the lease."""


class _Revocation(msgspec.Struct, array_like=True):
    """What is revoked, as it is kept in Redis; equal ones are equal texts."""

    org: str | None
    jti: str | None
    user: str | None


class ManyNodes:
    """A :class:`~gateway.cluster.base.Cluster`; ``run`` it beside the broker."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        hub: Hub,
        auth: Authenticator,
        presence: SharedPresence,
        describe: Callable[[], Member],
    ) -> None:
        """``describe`` tells of this node, from the moment that it listens."""
        self.id = hub.id
        self._client = client
        self._settings = settings
        self._hub = hub
        self._auth = auth
        self._presence = presence
        self._local = Local(hub, auth.revocations)
        self._tickets = SharedTickets(client, settings.auth, auth)
        self.membership = Membership(
            client,
            settings.cluster,
            hub.id,
            describe,
            leeway=settings.auth.leeway,
            longest_token=lambda: auth.revocations.longest,
            restate=self._restate,
            remove=presence.sync.remove,
            revoked=self._learn,
        )
        self.rpc = Rpc(client, hub.id, settings.cluster, self._local.handlers, self.membership.hurry)
        self._revocations_lost = trio.Event()
        presence.bind(hub)
        auth.revocations.complete = False  # until the registry has brought what the others know

    # --- life -------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See :class:`~gateway.cluster.base.Cluster`."""
        self.rpc.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.rpc.run)
            nursery.start_soon(self._presence.run)
            nursery.start_soon(self.membership.run)
            nursery.start_soon(self._restore_revocations)
            await self.membership.joined.wait()
            await self.rpc.hurry()  # so that the others know of this node
            self._auth.revocations.complete = True
            self._local.close_revoked()
            task_status.started()

    def ready(self) -> str | None:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return None if self.membership.joined.is_set() else "the other nodes do not know of this one yet"

    def warnings(self) -> list[str]:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return self.membership.warnings()

    async def leave(self) -> None:
        """See :class:`~gateway.cluster.base.Cluster`."""
        with trio.move_on_after(_FAREWELL):
            try:
                await self._presence.sync.settled()
                await self.membership.leave()
                await self.rpc.hurry()
            except ProtocolError as error:
                log.info("node left without deregistering", reason=error.message)

    def _restate(self, lease: str) -> None:
        self._presence.restate(lease)
        self._revocations_lost.set()

    # --- questions ----------------------------------------------------------------------------------

    async def stats(self, org: str | None) -> dict[str, Any]:
        """See :class:`~gateway.cluster.base.Cluster`.

        While Redis is away, ``cluster`` says why it is unknown.
        """
        wanted = requests.Stats(org)
        mine = await self._local.stats(wanted)
        try:
            answers = await self._ask_all(wanted)
            parts = {self.id: mine, **answers.good}
            whole = whole_of(list(parts.values()))
            if org is not None:
                channel = organisation_channel(org)
                whole["users"] = (await self._presence.count_users([channel]))[channel]
        except ProtocolError as error:
            return {**mine, "cluster": {"nodes": [], "missing": [], "reason": error.message}}
        nodes = [
            {
                **{name: value for name, value in msgspec.structs.asdict(member).items() if name != "agree"},
                "started": int(member.started * 1000),
                "connections": parts[member.id]["connections"],
            }
            for member in sorted(self.membership.members.values(), key=lambda each: each.id)
            if member.id in parts
        ]
        return {**mine, "cluster": {"nodes": nodes, "missing": answers.missing, **whole}}

    async def connections(
        self, org: str, *, user: str | None, room: str | None, after: tuple[int, str] | None, limit: int
    ) -> Listing:
        """See :class:`~gateway.cluster.base.Cluster`."""
        wanted = requests.Connections(org, user, room, after, limit)
        answers = await self._ask_all(wanted)
        parts = [await self._local.connections(wanted), *answers.good.values()]
        return Listing(merge_connections(parts, limit), answers.missing)

    async def connection(self, org: str, connection_id: str) -> dict[str, Any]:
        """See :class:`~gateway.cluster.base.Cluster`."""
        node = self._node_of(connection_id)
        wanted = requests.Connection(org, connection_id)
        return await (self._local.connection(wanted) if node is None else self._ask_one(node, wanted))

    async def rooms(self, org: str, *, after: str | None, limit: int) -> Listing:
        """See :class:`~gateway.cluster.base.Cluster`."""
        wanted = requests.Rooms(org, after, limit)
        answers = await self._ask_all(wanted)
        rooms, several = merge_rooms([await self._local.rooms(wanted), *answers.good.values()], limit)
        channels = {room_channel(org, room["room"]): room for room in several}
        for channel, users in (await self._presence.count_users(channels)).items():
            channels[channel]["users"] = users
        return Listing(rooms, answers.missing)

    async def trace(self, org: str, mid: str, *, user: str | None) -> dict[str, Any] | None:
        """See :class:`~gateway.cluster.base.Cluster`."""
        wanted = requests.Trace(org, mid, user)
        answers = await self._ask_all(wanted)
        found = [await self._local.trace(wanted), *answers.good.values()]
        return merge_traces(trace for trace in found if trace is not None)

    # --- orders -------------------------------------------------------------------------------------

    async def send(
        self,
        org: str,
        event: str,
        data: Any,
        *,
        user: str | None = None,
        connection: str | None = None,
        sender: str | None = None,
        mid: str | None = None,
        ephemeral: bool = False,
    ) -> Sent:
        """See :class:`~gateway.cluster.base.Cluster`.

        Connections to nodes that do not answer are not counted.
        """
        mid = mid or self._hub.new_mid()
        if connection is not None:
            wanted = requests.Send(org, event, data, connection, sender, mid)
            node = self._node_of(connection)
            return await (self._local.send(wanted) if node is None else self._ask_one(node, wanted))
        assert user is not None
        sent = await self._hub.send_to_user(
            org, user, event, data, sender=sender, mid=mid, ephemeral=ephemeral
        )
        others = {lease: member for lease, member in self.membership.members.items() if member.id != self.id}
        try:
            leases = await self._presence.leases_of(org, user, others)
            asked = [others[lease] for lease in leases]
            answers = await self.rpc.ask(
                [each.id for each in asked if each.has_orders], requests.Wanting(org, user, event)
            )
            # Nodes of the release before do not hear the user's order.
            relayed = await self.rpc.ask(
                [each.id for each in asked if not each.has_orders],
                requests.Send(org, event, data, None, sender, mid, user),
            )
        except ProtocolError:
            return sent  # it has its place: only who got it elsewhere is not known
        elsewhere = sum(answers.good.values()) + sum(each.connections for each in relayed.good.values())
        return sent._replace(connections=sent.connections + elsewhere)

    async def disconnect(
        self, org: str, connection_id: str, code: int, reason: str, *, only_of: str | None = None
    ) -> None:
        """See :class:`~gateway.cluster.base.Cluster`."""
        node = self._node_of(connection_id)
        wanted = requests.Disconnect(org, connection_id, code, reason, only_of)
        await (self._local.disconnect(wanted) if node is None else self._ask_one(node, wanted))

    async def take_over(self, org: str, user: str | None, token: str) -> bytes:
        """See :class:`~gateway.cluster.base.Cluster`."""
        try:
            node = self._node_of(token.rpartition(".")[0])
            if node is None:
                return b""
            saved = await self._ask_one(node, requests.TakeOver(org, user, token))
        except ProtocolError:
            return b""  # what it had is remembered when it has ended
        return saved.encode()

    def _node_of(self, connection_id: str) -> str | None:
        """The other node that has this connection; None for this node.

        Raises NOT_FOUND when it is not there.
        """
        node = connection_id.rpartition("-")[0]
        if node == self.id:
            return None
        if self.membership.lease_of(node) is None:
            raise ProtocolError(ErrorCode.NOT_FOUND, "no such connection")
        return node

    async def _ask_one(self, node: str, wanted: requests.Request[T]) -> T:
        answers = await self.rpc.ask([node], wanted)
        answers.check()
        if node not in answers.good:
            raise ProtocolError(ErrorCode.NOT_FOUND, "no such connection: its node is gone")
        return answers.good[node]

    async def _ask_all(self, wanted: requests.Request[T]) -> Answers[T]:
        return await self.rpc.ask(self.membership.others(), wanted, all=True)

    # --- what is valid ------------------------------------------------------------------------------

    async def revoke(self, org: str, *, jti: str | None, user: str | None) -> int:
        """See :class:`~gateway.cluster.base.Cluster`.

        This node refuses it at once, and also when that raises.
        """
        at = self._auth.revocations.revoke(jti=jti, user=user, org=org)
        closed = self._local.close_revoked()
        await self._keep(_Revocation(org, jti, user), at)
        answers = await self._ask_all(requests.Revoked(org, jti, user, at))
        if answers.missing:
            await self.rpc.hurry()  # at the latest they learn of it with their next beat
        return closed + sum(answers.good.values())

    async def _keep(self, revocation: _Revocation, at: float) -> None:
        settings = self._settings.auth
        call = RevokeCall(
            revocation=msgspec.json.encode(revocation).decode(),
            at=repr(at),
            longest=int(self._auth.revocations.longest * 1000),
            most=settings.max_revocations * _ORGANISATIONS,
        )
        if not await self._client.run_script(REVOKE, self.membership.revocation_keys, [pack(call)]):
            raise ProtocolError(
                ErrorCode.OVERLOADED, "the revocations of all organisations together have reached their limit"
            )

    def _learn(self, text: bytes, at: float) -> None:
        revocation = msgspec.json.decode(text, type=_Revocation)
        if self._auth.revocations.learn(org=revocation.org, jti=revocation.jti, user=revocation.user, at=at):
            self._local.close_revoked()

    async def _restore_revocations(self) -> None:
        """When Redis has lost its data, give it back what this node knows."""
        while True:
            await self._revocations_lost.wait()
            self._revocations_lost = trio.Event()
            for org, jti, user, at in self._auth.revocations.entries():
                try:
                    await self._keep(_Revocation(org, jti, user), at)
                except ProtocolError as error:
                    log.warning("revocation not stored", reason=error.message)
                    await trio.sleep(error.retry_after or 1.0)
                    self._revocations_lost.set()  # from the beginning: what is there already stays the same
                    break

    async def issue_ticket(self, identity: Identity) -> str:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return await self._tickets.issue(identity)

    async def redeem_ticket(self, ticket: str) -> Identity:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return await self._tickets.redeem(ticket)

    def measures(self) -> dict[str, tuple[str, float]]:
        """See :class:`~gateway.cluster.base.Cluster`."""
        return {**self.membership.measures(), **self._presence.measures(), **self.rpc.measures()}
