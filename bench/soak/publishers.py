"""What is published, in all three orders, and the last number that each got."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from bench.soak.listener import BACKOFF, PATIENT
from bench.soak.plan import ORGANISATIONS, RECIPIENTS, ROOMS, Plan
from bench.soak.route import Route, View
from gateway.client import Client, CommandFailed, connect

__all__ = ["Publisher"]

_PAD = "x" * 100
_FILL = 128
"""Events for each order: twice what is kept (``fleet``), because Redis trims streams by whole nodes."""
_AT_ONCE = 16


class Publisher:
    """Publishes for one organisation. What is refused is repeated under the same message id."""

    def __init__(self, number: int, plan: Plan, view: View) -> None:
        self.org = f"org{number}"
        self._plan = plan
        self._view = view
        self._route = Route(view, view.places[number % 2])
        self._numbers: Counter[str] = Counter()
        self.last: dict[str, tuple[str, int]] = {}
        """Order → epoch and number of its newest event."""
        self.published = 0
        self.refused: Counter[str] = Counter()
        """Commands that failed, by error; publishes are repeated."""
        self.full = trio.Event()
        """Every history has as much as it may keep."""
        self.begin = trio.Event()
        self.stop = trio.Event()

    async def run(self) -> None:
        """Fill the histories; when told to begin publish, until told to stop."""
        async with (
            connect(
                "ws://127.0.0.1/ws",
                token=self._view.token(self.org, None, "service"),
                reconnect=BACKOFF,
                **PATIENT,
                transports=["websocket"],
                dial=self._route.dial,
            ) as client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._drop, client)
            await self._fill(client)
            self.full.set()
            await self.begin.wait()
            await self._publish(client)
            nursery.cancel_scope.cancel()

    async def _drop(self, client: Client) -> None:
        """What the organisation hears comes here, too."""
        async for _ in client:
            pass

    @property
    def _rooms(self) -> list[str]:
        return [f"room{number}" for number in range(ROOMS)]

    @property
    def _users(self) -> list[str]:
        return [f"u{number}" for number in range(RECIPIENTS)]

    async def _fill(self, client: Client) -> None:
        limit = trio.CapacityLimiter(_AT_ONCE)

        async def fill(publish: Callable[[], Awaitable[None]]) -> None:
            async with limit:
                for _ in range(_FILL):
                    await publish()

        async with trio.open_nursery() as nursery:
            for room in self._rooms:
                nursery.start_soon(fill, lambda room=room: self._to(client, room))
            nursery.start_soon(fill, lambda: self._to(client, "busy", self._plan.busy_bytes))
            nursery.start_soon(fill, lambda: self._to(client, None))
            for user in self._users:
                nursery.start_soon(fill, lambda user=user: self._send(client, user))

    async def _publish(self, client: Client) -> None:
        plan, rooms, users = self._plan, itertools.cycle(self._rooms), itertools.cycle(self._users)
        async with trio.open_nursery() as nursery:
            for rate, publish in (
                (plan.rooms_rate, lambda: self._to(client, next(rooms))),
                (plan.organisation_rate, lambda: self._to(client, None)),
                (plan.busy_rate, lambda: self._to(client, "busy", plan.busy_bytes)),
                (plan.users_rate, lambda: self._send(client, next(users))),
            ):
                nursery.start_soon(self._paced, ORGANISATIONS / rate, publish)

    async def _paced(self, pause: float, publish: Callable[[], Awaitable[None]]) -> None:
        due = trio.current_time()
        while not self.stop.is_set():
            await publish()
            due = max(due + pause, trio.current_time() - 5)  # what an outage held up is not made up for
            await trio.sleep_until(due)

    async def _to(self, client: Client, room: str | None, size: int = 0) -> None:
        order = room or "organisation"
        self._numbers[order] += 1
        data = {"n": self._numbers[order], "key": self._numbers[order] % 5, "pad": "x" * size or _PAD}
        mid = uuid.uuid4().hex
        while True:
            try:
                found = await client.publish(room, "tick", data, mid=mid)
            except CommandFailed as error:
                self.refused[f"publish: {type(error).__name__}"] += 1
                await trio.sleep(0.5)
                continue
            if found.epoch is not None and found.seq is not None:
                self.last[order] = (found.epoch, found.seq)
            self.published += 1
            return

    async def _send(self, client: Client, user: str) -> None:
        self._numbers[user] += 1
        try:
            await client.send("tick", {"n": self._numbers[user], "pad": _PAD}, user=user)
            self.published += 1
        except CommandFailed as error:  # no second try: it may have been sent
            self.refused[f"send: {type(error).__name__}"] += 1
