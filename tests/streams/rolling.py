"""A release under load: ``python -m tests.streams.rolling [--clients N]`` (1,000; some minutes at most).

Two nodes over a real Redis, each a process, are replaced one after the other. Meanwhile clients listen, a
third on each transport: in two rooms, to their organisation, and to their user. Every number of every
order is checked at every client. Prints one line of figures; ends with 1 when something was lost or came
twice.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import logging
import math
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar

import structlog
import trio

from gateway.auth.tokens import Authenticator
from gateway.client import Backoff, Client, CommandError, CommandInterrupted, Event, Lost, connect
from gateway.config.settings import AuthSettings
from gateway.testing.settings import SECRET
from protocol.errors import ErrorCode
from tests.processes import Folder, Served
from tests.redis_server import redis_server
from tests.releases import Balancer, node, retire

__all__ = ["Outcome", "roll"]

T = TypeVar("T")
Transport = Literal["websocket", "sse", "poll"]
TRANSPORTS: Final[tuple[Transport, ...]] = ("websocket", "sse", "poll")
ROOMS: Final = 8
OWN: Final = ("organisation", "user")
PATIENCE: Final = 300.0
"""Seconds for a step, on a machine that does other things too."""
AT_ONCE: Final = 50
"""Clients that connect, and commands that are under way, at the same time."""
_TOKENS: Final = Authenticator(AuthSettings(secret=SECRET))


@dataclass
class Outcome:
    """What came of it."""

    clients: Counter[str]
    """By transport."""
    events: int = 0
    """Delivered, all in all."""
    lost: int = 0
    doubled: int = 0
    refused: int = 0
    """Commands that were asked again, since Redis answered late."""
    told_lost: int = 0
    """What the gateway announced as lost."""
    connections: Counter[str] = field(default_factory=Counter)
    """By transport, those after the first."""
    published: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.told_lost or self.problems)

    def __str__(self) -> str:
        def counted(counter: Counter[str]) -> str:
            return ", ".join(f"{count} {name}" for name, count in counter.items())

        return (
            f"{self.clients.total()} clients ({counted(self.clients)}); published {counted(self.published)}; "
            f"{self.events} events delivered; came back {counted(self.connections)}; "
            f"lost {self.lost}, twice {self.doubled}, told lost {self.told_lost}; {self.refused} repeated; "
            f"{self.seconds:.0f} s"
        )


async def insist(outcome: Outcome, ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again where the gateway says that it cannot now: on a busy machine Redis may answer late."""
    while True:
        try:
            return await ask()
        except CommandError as error:
            if error.code not in (ErrorCode.OVERLOADED, ErrorCode.BROKER_UNAVAILABLE, ErrorCode.TIMEOUT):
                raise
            outcome.refused += 1
            await trio.sleep(error.retry_after or 0.5)


class Listener:
    """One client, and what it heard of its four orders."""

    def __init__(self, number: int, outcome: Outcome) -> None:
        self.number = number
        self.transport: Transport = TRANSPORTS[number % len(TRANSPORTS)]
        self.user = f"user{number}"
        self.rooms = {f"r{number % ROOMS}", f"r{(number * 3 + 1) % ROOMS}"}
        self.client: Client
        self.last: dict[str, int] = {}
        """Order → the number that came last."""
        self.joined = trio.Event()
        self.complete = trio.Event()
        self._outcome = outcome
        outcome.clients[self.transport] += 1

    async def run(self, balancer: Balancer) -> None:
        """Listen until cancelled; complete when the last event of every order has come."""
        async with connected(balancer, self.user, self.transport, self.number) as self.client:
            info = self.client.connection
            places = info.positions
            self.last = {order: places[order].seq if order in places else 0 for order in OWN}
            for room in self.rooms:
                joined = await insist(self._outcome, functools.partial(self.client.join, room))
                self.last[room] = joined.seq or 0
            self.joined.set()
            waiting = set(self.last)
            async for event in self.client:
                if self.client.connection is not info:
                    info = self.client.connection
                    self._outcome.connections[self.transport] += 1
                order = event.room or event.to or "organisation"
                self._take(order, event)
                if event.event == "last":
                    waiting.discard(order)
                    if not waiting:
                        self.complete.set()

    def _take(self, order: str, event: Event) -> None:
        outcome = self._outcome
        if isinstance(event, Lost):
            outcome.told_lost += 1
            outcome.problems.append(f"{self.user} on {self.transport}: {event}")
            return
        outcome.events += 1
        assert event.seq is not None
        skipped = event.seq - self.last[order] - 1
        if skipped:
            outcome.lost += max(skipped, 0)
            outcome.doubled += skipped < 0
            outcome.problems.append(
                f"{self.user} on {self.transport}: {order} {event.seq} after {self.last[order]}"
            )
        self.last[order] = max(event.seq, self.last[order])


def connected(
    balancer: Balancer, user: str, transport: Transport, number: int = 0, roles: Iterable[str] = ()
) -> contextlib.AbstractAsyncContextManager[Client]:
    token = _TOKENS.issue(org="acme", user=user, roles=list(roles) or ["member"]).token
    return connect(
        "ws://127.0.0.1/ws",
        token=token,
        codec="json" if number % 2 else "cbor",
        reconnect=Backoff(base=0.5, maximum=2.0, tries=1000),
        connect_timeout=PATIENCE,
        command_timeout=PATIENCE,
        transports=[transport],
        dial=balancer.dial,
        http=balancer.http(),
    )


class Publisher:
    """Publishes in all orders in turn, until it is told to stop; then the last event of each."""

    def __init__(self, listeners: list[Listener], outcome: Outcome, pace: float) -> None:
        self.stop = trio.Event()
        self.done = trio.Event()
        self._users = [listener.user for listener in listeners]
        self._outcome = outcome
        self._pace = pace

    async def run(self, balancer: Balancer) -> None:
        async with connected(balancer, "backend", "websocket", roles=["service"]) as client:
            users: Iterator[str] = itertools.cycle(self._users)
            for number in itertools.count():
                if self.stop.is_set():
                    break
                await self._publish(client, f"r{number % ROOMS}", "e")
                if number % 10 == 0:
                    await self._publish(client, None, "e")
                await self._send(client, next(users), "e")
                await trio.sleep(self._pace)
            for number in range(ROOMS):
                await self._publish(client, f"r{number}", "last")
            await self._publish(client, None, "last")
            for first in range(0, len(self._users), AT_ONCE):
                async with trio.open_nursery() as nursery:
                    for user in self._users[first : first + AT_ONCE]:
                        nursery.start_soon(self._send, client, user, "last")
        self.done.set()

    async def _publish(self, client: Client, room: str | None, event: str) -> None:
        mid = uuid.uuid4().hex  # repeated, it is one event all the same
        await insist(self._outcome, functools.partial(client.publish, room, event, mid=mid))
        self._outcome.published["to rooms" if room else "to all"] += 1

    async def _send(self, client: Client, user: str, event: str) -> None:
        while True:
            try:
                await insist(self._outcome, functools.partial(client.send, event, user=user))
            except CommandInterrupted:  # it may have its place already: a second one is one more event
                continue
            self._outcome.published["to users"] += 1
            return


async def _until_all(events: Iterable[trio.Event], what: str) -> None:
    with trio.move_on_after(PATIENCE):
        for event in events:
            await event.wait()
        return
    raise AssertionError(f"{what}: not within {PATIENCE:.0f} s")


async def roll(
    clients: int,
    folder: Path,
    *,
    pace: float = 0.05,
    quiet: float = 0.0,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Do it, and ``tell`` how far it is.

    ``pace`` is seconds between two rounds of the publisher, ``quiet`` those before and after.
    """
    outcome = Outcome(Counter())
    listeners = [Listener(number, outcome) for number in range(clients)]
    publisher = Publisher(listeners, outcome, pace)
    balancer = Balancer()
    begun = time.monotonic()
    async with redis_server(folder / "redis") as redis, trio.open_nursery() as nursery:
        environ = {
            "GATEWAY_AUTH_SECRET": SECRET,
            "GATEWAY_BROKER": redis.url,
            "GATEWAY_DRAIN_DELAY": "0.2",
            "GATEWAY_DRAIN_PACE": str(max(20, clients // 5)),
            "GATEWAY_RETRY_AFTER": "0.5",
            "GATEWAY_OVERLOAD_LOOP_LAG": "0",
        }
        at = Folder(folder, environ)
        nursery.start_soon(balancer.watch)

        async def started(*names: str) -> list[Served]:
            """Nodes of these names, together: a start takes a while."""
            found: dict[str, Served] = {}

            async def begin(name: str) -> None:
                start = functools.partial(node, at, balancer, name, seconds=PATIENCE)
                found[name] = await nursery.start(start)

            async with trio.open_nursery() as starting:
                for name in names:
                    starting.start_soon(begin, name)
            return [found[name] for name in names]

        old = await started("a1", "b1")
        async with trio.open_nursery() as listening:
            for first in range(0, clients, AT_ONCE):
                some = listeners[first : first + AT_ONCE]
                for listener in some:
                    listening.start_soon(listener.run, balancer)
                await _until_all((listener.joined for listener in some), "clients that have joined")
                tell(f"{first + len(some)} clients have joined")
            listening.start_soon(publisher.run, balancer)
            await trio.sleep(quiet)
            await started("a2", "b2")
            for served in old:
                await retire(served, PATIENCE)
                tell("a node has retired")
            await trio.sleep(quiet)
            publisher.stop.set()
            await _until_all([publisher.done], "the publisher's last events")
            await _until_all((listener.complete for listener in listeners), "clients that have all")
            listening.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    outcome.seconds = time.monotonic() - begun
    return outcome


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.streams.rolling", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000, help="a third on each transport (1000)")
    parser.add_argument("--pace", type=float, default=0.5, help="seconds between two rounds of events (0.5)")
    given = parser.parse_args()
    if given.clients < 1 or not math.isfinite(given.pace) or given.pace < 0:
        parser.error("--clients must be 1 or more, --pace 0 or more")

    def tell(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger("gateway").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        outcome = trio.run(lambda: roll(given.clients, Path(folder), pace=given.pace, quiet=2.0, tell=tell))
    print(outcome)
    for problem in outcome.problems[:20]:
        print(f"  {problem}")
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
