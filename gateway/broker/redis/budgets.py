"""How much each organisation keeps in Redis, and who has to wait until it is less.

Every publish tells how many bytes its channel keeps. What changed is written to Redis twice a second, to one
list for each organisation, so that all nodes together count a room once; meanwhile this node counts on by
itself. An organisation that alone keeps ``_MOST`` of ``history.total_bytes``, or more than an even part while
all together keep too much, is refused with OVERLOADED until some of it is too old. The same holds for
``history.rooms``, among which users are not: an organisation may have many who were each told a little, and
what that takes is in the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import trio

from gateway.broker.base import Channel
from gateway.broker.channels import Kind
from gateway.broker.redis.client import Client
from gateway.broker.redis.scripts import ACCOUNT, AccountCall, pack
from gateway.config.settings import HistorySettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Budgets"]

_EVERY: Final = 0.5
_AT_ONCE: Final = 500
"""Channels in one call; Redis serves nobody else meanwhile."""
_COUNTED: Final = 10_000
_MOST: Final = 0.75
_ROOM_BYTES: Final = 1000
"""What a channel takes in Redis beside its events: three keys with a few fields, and its entry in the list
(by the growth of ``used_memory`` over 20,000 users with one event each)."""
_USERS: Final = ":users"
"""Ends the keys of the list of users."""


class _Account:
    """What this node knows of one organisation."""

    __slots__ = ("bytes", "changed", "rooms")

    def __init__(self) -> None:
        self.bytes = 0
        self.rooms = 0
        self.changed: dict[Channel, tuple[int, int]] = {}
        """Bytes and milliseconds, to be written."""


class Budgets:
    """All organisations that published through this node, or lately kept something."""

    def __init__(self, settings: HistorySettings, retry_after: float) -> None:
        self._settings = settings
        self._retry_after = retry_after
        self._accounts: dict[str, _Account] = {}
        self._most_bytes = settings.total_bytes * _MOST
        self._most_rooms = settings.rooms * _MOST
        self._over: set[_Account] = set()
        """Those that alone keep too much."""
        self.strained = False
        """Somebody may have to be refused."""
        self.bytes = 0
        """Of all these organisations."""
        self._rooms = 0
        self._counted: dict[Channel, int] = {}
        """What was counted of the channels that were written lately."""

    def refusal(self, org: str) -> ProtocolError | None:
        """Why the organisation may not keep more now; None when it may."""
        account = self._accounts.get(org)
        if account is None:
            return None
        for used, all_used, total, name in (
            (account.bytes, self.bytes, self._settings.total_bytes, "total_bytes"),
            (account.rooms, self._rooms, self._settings.rooms, "rooms"),
        ):
            if used >= total * _MOST or (all_used >= total and used * len(self._accounts) >= total):
                return ProtocolError(
                    ErrorCode.OVERLOADED,
                    f"this organisation has used up its share of history.{name}",
                    retry_after=self._retry_after,
                )
        return None

    def note(self, channel: Channel, held: int, added: int, age: int) -> None:
        """A channel keeps ``held`` bytes now, ``added`` of them new, for ``age`` milliseconds from now on."""
        account = self._accounts.get(channel.org)
        if account is None:
            account = self._accounts[channel.org] = _Account()
        held += _ROOM_BYTES
        before = self._counted.pop(channel, None)
        if len(self._counted) >= _COUNTED:
            del self._counted[next(iter(self._counted))]
        self._counted[channel] = held
        account.changed[channel] = (held, age)
        if before is None:
            # The others may have counted it: what is not new is known after the next call.
            self._grow(account, min(held, added + _ROOM_BYTES), channel.kind is not Kind.USER)
        else:
            self._grow(account, held - before, 0)

    def _grow(self, account: _Account, by: int, rooms: int) -> None:
        account.bytes += by
        account.rooms += rooms
        self.bytes += by
        self._rooms += rooms
        if account.bytes >= self._most_bytes or account.rooms >= self._most_rooms:
            self._over.add(account)
        elif self._over:
            self._over.discard(account)
        settings = self._settings
        self.strained = (
            bool(self._over) or self.bytes >= settings.total_bytes or self._rooms >= settings.rooms
        )

    async def run(self, client: Client) -> None:
        """Write what changes, and read what all nodes know, until cancelled."""
        while True:
            await trio.sleep(_EVERY)
            for org, account in list(self._accounts.items()):
                try:
                    await self._write(client, org, account)
                except ProtocolError:
                    break  # Redis is away; what changed is written later

    async def _write(self, client: Client, org: str, account: _Account) -> None:
        changed, account.changed = account.changed, {}
        key = client.key("kept", org)
        users = {name: each for name, each in changed.items() if name.kind is Kind.USER}
        try:
            of_users = await self._write_list(client, key + _USERS, users)
            others = await self._write_list(
                client, key, {name: each for name, each in changed.items() if name not in users}
            )
        except ProtocolError:
            account.changed = changed | account.changed
            raise
        self._grow(account, others[0] + of_users[0] - account.bytes, others[1] - account.rooms)
        if not (others[1] or of_users[1] or account.changed):
            del self._accounts[org]
            self._over.discard(account)

    async def _write_list(
        self, client: Client, key: str, changed: Mapping[Channel, tuple[int, int]]
    ) -> tuple[int, int]:
        """Bytes and number of all in a list, which ``changed`` is a part of."""
        names = list(changed)
        known = (0, 0)
        for start in range(0, max(1, len(names)), _AT_ONCE):
            call = AccountCall([(_digest(name), *changed[name]) for name in names[start : start + _AT_ONCE]])
            known = await client.run_script(ACCOUNT, [key, key + ":until"], [pack(call)])
        return known

    def measures(self) -> dict[str, tuple[str, float]]:
        """For the metrics."""
        return {
            "broker_history_bytes": ("Bytes of history kept in Redis, as far as is known here", self.bytes)
        }


def _digest(channel: Channel) -> str:
    return hashlib.blake2b(channel.encode(), digest_size=8).hexdigest()
