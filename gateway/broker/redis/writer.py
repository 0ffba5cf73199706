"""Giving events their places: many publishes, few commands, each event exactly once.

A channel has at most one batch on its way to Redis. Whatever is submitted meanwhile becomes its next one, so
batches are as small as the latency allows and as large as the load demands, without a timer. All
channels that have something go together in one call of the script PUBLISH (in a cluster: one call each).

A batch has a number, and Redis remembers each writer's last one of a channel with its answer. When the
connection is lost on the way, the batch is sent again, the very same: it is either carried out now or
answered with what it got the first time. When its time is over it is given up with TIMEOUT, since
nobody can know; what was never sent is refused with BROKER_UNAVAILABLE, since that is certain.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import trio

from gateway.broker.base import Channel, Done, Event, Position
from gateway.broker.bounds import HistoryBounds
from gateway.broker.redis.budgets import Budgets
from gateway.broker.redis.client import Client
from gateway.broker.redis.connection import AskError, LinkLost, MovedError, NotNow, Refused
from gateway.broker.redis.packets import NUDGE, cast, encode
from gateway.broker.redis.publish_queues import Item, PublishQueue
from gateway.broker.redis.repair import UNREACHABLE, new_epoch
from gateway.broker.redis.scripts import CAST, PUBLISH, ROOM, ChannelBatch, PublishCall, pack
from gateway.broker.redis.servers import Servers, Shard
from gateway.broker.redis.turns import Turns
from gateway.broker.state import ENTRY_BYTES, STATE_BYTES, encode_state, state_full
from gateway.config.settings import RedisSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Writer"]

_CALL: Final = 64
"""Channels in one call."""
_CALL_BYTES: Final = 2**20
_HEAVY: Final = 2**16
"""Bytes from which a call first asks whether the server has room.

A server takes all of a call into memory before it refuses it, beyond its bound, and keeps
such a buffer for a while.
"""
_FEW: Final = 32
"""Events of an order that is small: its message ids cost no key and no commands of their own."""
_SENDERS: Final = 16
"""Calls on their way, so that a thousand users are sent to in one round trip."""
_PARTLY: Final = 4
"""Calls on their way before one that is not full: the next ones fill while it waits."""
_SENDERS_CLUSTER: Final = 128
"""There each call has one channel."""
_TICK: Final = 0.1
_AT_ONCE: Final = 1000
"""Queues that are looked at before others have their turn."""
_PAUSE: Final = 0.05
_IDLE: Final = 10_000
"""Lanes kept without work, for the names of their keys."""


class Writer:
    """All publishes of this node."""

    def __init__(
        self,
        servers: Servers,
        settings: RedisSettings,
        history: HistoryBounds,
        budgets: Budgets,
        client: Client,
        settled: Callable[[], None],
    ) -> None:
        self.name = secrets.token_hex(4)
        """Of this process; no other writer ever has it."""
        self._servers = servers
        self._settings = settings
        self._settled = settled
        self._queues: OrderedDict[Channel, PublishQueue] = OrderedDict()
        self._busy: dict[PublishQueue, None] = {}
        """In the order in which they got work while they had none."""
        self._stalled: set[PublishQueue] = set()
        self._ready: Turns[PublishQueue] = Turns()
        self._numbers = itertools.count(1)
        self._count = 0
        self._bytes = 0
        self._idle = trio.lowlevel.ParkingLot()
        """The senders that have nothing to do."""
        self._called = False
        self._flying = 0
        """Calls on their way."""
        self._partly = _SENDERS_CLUSTER if servers.cluster else _PARTLY
        self._bounds = history
        self._budgets = budgets
        self._client = client

    def __len__(self) -> int:
        return self._count

    def submit(self, event: Event, done: Done) -> None:
        """See :class:`~gateway.broker.base.Broker`."""
        queue = self._queues.get(event.channel) or self._open(event.channel)
        shard = self._servers.of(queue.slot)
        settings = self._settings
        now = trio.current_time()
        reason = self._servers.reason if shard is None else shard.commands.silent(settings.patience, now)
        if reason is not None:
            self._servers.counts.refused += 1
            done(self._client.unavailable(reason))
            return
        if (
            self._budgets.strained
            and event.ordered
            and (over := self._budgets.refusal(queue.org)) is not None
        ):
            self._servers.counts.refused += 1
            done(over)
            return
        if self._count >= settings.pending or self._bytes >= settings.pending_bytes:
            self._servers.counts.refused += 1
            done(
                ProtocolError(
                    ErrorCode.OVERLOADED,
                    "too many events are waiting for the broker",
                    retry_after=settings.retry_after,
                )
            )
            return
        effect = event.effect
        changes = None if effect is None else (effect.name, encode_state(effect.value))
        item = Item(event.mid, encode(event), done, now, changes)
        queue.waiting.append((event.ordered, item))
        self._count += 1
        self._bytes += len(item.payload)
        if queue not in self._busy:
            self._busy[queue] = None
            queue.busy_since = now
        self._enqueue(queue)

    def _open(self, channel: Channel) -> PublishQueue:
        settings = self._settings
        kept = self._bounds.of(channel)
        window = max(kept.messages, settings.window)
        # The hash lives for ``forget``; ids that may go sooner had better be apart.
        lasting = kept.age * 1.25 >= settings.forget
        bounds = (
            max(kept.messages, settings.tail),
            max(kept.bytes, settings.batch_bytes),
            int(kept.age * 1000),
            window,
            min(_FEW, window) if lasting else 0,
        )
        queue = self._queues[channel] = PublishQueue(channel, settings.prefix, bounds)
        while len(self._queues) > _IDLE:
            name, oldest = next(iter(self._queues.items()))
            if oldest in self._busy:
                self._queues.move_to_end(name)
                break
            del self._queues[name]
        return queue

    def _enqueue(self, queue: PublishQueue) -> None:
        if not (queue.queued or queue.flying) and queue not in self._stalled:
            queue.queued = True
            self._ready.add(queue.org, queue)
            self._call_sender()

    @property
    def _worth_a_call(self) -> bool:
        ready = len(self._ready)
        return ready >= _CALL or (ready > 0 and self._flying < self._partly)

    def _call_sender(self) -> None:
        """Have one sender look what is ready: one is enough until it has."""
        if not self._called and self._idle and self._worth_a_call:
            self._called = True
            self._idle.unpark()

    def retry(self) -> None:
        """A connection is there again: what did not get through may go once more."""
        stalled, self._stalled = self._stalled, set()
        for queue in stalled:
            self._enqueue(queue)

    async def flushed(self) -> None:
        """Wait until nothing is pending."""
        while self._count:  # noqa: ASYNC110 - only at shutdown: not worth an event in every answer
            await trio.sleep(_TICK / 4)

    # --- sending --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            for _ in range(_SENDERS_CLUSTER if self._servers.cluster else _SENDERS):
                nursery.start_soon(self._send)

    async def _send(self) -> None:
        while True:
            while not self._worth_a_call:
                await self._idle.park()
                self._called = False
            shard, queues = self._load()
            if self._ready:
                self._call_sender()
            if shard is not None:
                self._flying += 1
                await self._carry(shard, queues)
                self._flying -= 1

    def _load(self) -> tuple[Shard | None, list[PublishQueue]]:
        """The queues of the next call; they are flying from now on. No shard: nothing can be sent now."""
        queues: list[PublishQueue] = []
        size = 0
        settings = self._settings
        while self._ready and len(queues) < _CALL and size < _CALL_BYTES:
            queue = self._ready.first()[1]
            if queue.empty:  # its time was over while it stood in line
                self._ready.pop().queued = False
                continue
            batch = queue.load(next(self._numbers), settings.batch, settings.batch_bytes)
            if queues and (self._servers.cluster or batch.ordered != queues[0].batch.ordered):  # type: ignore[union-attr]
                break
            self._ready.pop().queued = False
            queue.flying = True
            queues.append(queue)
            size += batch.size
        shard = self._servers.of(queues[0].slot) if queues else None
        if shard is None or not shard.commands.usable:
            self._stall(queues)
            return None, queues
        return shard, queues

    def _stall(self, queues: list[PublishQueue]) -> None:
        for queue in queues:
            queue.flying = False
            if queue in self._busy:
                self._stalled.add(queue)

    async def _carry(self, shard: Shard, queues: list[PublishQueue]) -> None:
        try:
            answers = await self._call(shard, queues, asking=False)
        except AskError as asked:
            await self._carry_over(asked, shard, queues)
        except Exception as error:
            await self._failed(queues, error)
        else:
            self._placed(queues, answers)
        self._settled()

    async def _carry_over(self, asked: AskError, owner: Shard, queues: list[PublishQueue]) -> None:
        """The slot is on its way to another server, and this key is there already."""
        shard = self._servers.at(asked.host, asked.port)
        try:
            if shard is None:
                raise NotNow("the server is not known yet")
            answers = await self._call(shard, queues, asking=True)
        except Exception as error:
            await self._failed(queues, error)
            return
        self._placed(queues, answers)
        # Who follows the channel does so where the slot still is, and hears nothing of what is told there.
        with contextlib.suppress(*UNREACHABLE):
            for queue in queues:
                await owner.commands.call(self._servers.publish.encode(), queue.keys.stream, NUDGE)

    async def _call(self, shard: Shard, queues: list[PublishQueue], *, asking: bool) -> list[Any]:
        keys: list[str] = []
        batches = [queue.batch for queue in queues if queue.batch is not None]
        if not batches[0].ordered:
            words: list[bytes | str | int] = [self._servers.publish]
            for queue, batch in zip(queues, batches, strict=True):
                keys.append(queue.keys.stream)
                words.append(cast([item.payload for item in batch.items]))
            await shard.commands.run_script(CAST, keys, words, asking=asking)
            return []
        if sum(batch.size for batch in batches) >= _HEAVY:
            await shard.commands.run_script(ROOM, [queues[0].keys.stream], [], asking=asking)
        counts = self._servers.counts
        channels = []
        words = [b""]
        for queue, batch in zip(queues, batches, strict=True):
            counts.batches += 1
            counts.batched_events += len(batch.items)
            keys += queue.keys
            channels.append(ChannelBatch(*queue.bounds, batch.number, len(batch.items), batch.effects))
            for item in batch.items:
                words += [item.mid, item.payload]
        words[0] = pack(
            PublishCall(
                writer=self.name,
                newborn=new_epoch(),
                tell=self._servers.publish,
                forget=int(self._settings.forget * 1000),
                state_bytes=STATE_BYTES,
                entry_bytes=ENTRY_BYTES,
                channels=channels,
            )
        )
        answers, kept = await shard.commands.run_script(PUBLISH, keys, words, asking=asking)
        for queue, batch, held in zip(queues, batches, kept, strict=True):
            self._budgets.note(queue.channel, held, batch.size, queue.bounds[2])
        return list(answers)

    async def _failed(self, queues: list[PublishQueue], error: Exception) -> None:
        if isinstance(error, Refused):
            for queue in queues:
                queue.flying = False
                self._give_up(queue, self._client.refused(str(error)))
            return
        if not isinstance(error, LinkLost | NotNow | MovedError | AskError):
            raise error
        self._servers.moved()
        for queue in queues:
            if not isinstance(error, LinkLost):
                queue.trouble = str(error)
            elif queue.batch is not None:
                queue.batch.sent = True
        await trio.sleep(_PAUSE)
        self._stall(queues)
        # It is sent again at once, so nobody else would find out that its time is over.
        now = trio.current_time()
        for queue in queues:
            self._expire_queue(queue, now - self._settings.timeout, now - self._settings.patience)
        if any(shard.commands.usable for shard in self._servers.shards):
            self.retry()

    def _placed(self, queues: list[PublishQueue], answers: list[bytes]) -> None:
        for number, queue in enumerate(queues):
            batch, queue.batch = queue.batch, None
            queue.flying = False
            queue.trouble = ""
            if batch is None:  # its time was over meanwhile
                self._rest(queue)
                continue
            if batch.ordered:
                answer = answers[number].decode()
                if answer.startswith("!"):
                    queue.batch = batch
                    self._give_up(queue, self._client.refused(answer[1:]))
                    continue
                epoch, _, places = answer.partition(" ")
                if places.startswith("="):
                    seqs = [int(place) for place in places[1:].split(",")]
                elif len(batch.items) == 1:
                    seqs = [int(places)]
                else:
                    seqs = list(range(int(places), int(places) + len(batch.items)))
            else:
                epoch, seqs = "", [0] * len(batch.items)
            for item, seq in zip(batch.items, seqs, strict=True):
                placed = seq or not batch.ordered
                self._close(item, Position(seq, epoch, item.mid) if placed else state_full())
            self._rest(queue)

    def _close(self, item: Item, result: Position | ProtocolError) -> None:
        self._count -= 1
        self._bytes -= len(item.payload)
        if isinstance(result, ProtocolError):
            self._servers.counts.refused += 1
        item.done(result)

    def _rest(self, queue: PublishQueue) -> None:
        if not queue.empty:
            self._enqueue(queue)
        else:
            self._busy.pop(queue, None)
            self._stalled.discard(queue)

    # --- giving up ------------------------------------------------------------------------------

    def _give_up(self, queue: PublishQueue, error: ProtocolError) -> None:
        """Refuse the queue's batch."""
        batch, queue.batch = queue.batch, None
        for item in () if batch is None else batch.items:
            self._close(item, error)
        self._rest(queue)

    async def _expire(self) -> None:
        """Refuse what has waited too long."""
        settings = self._settings
        while True:
            await trio.sleep(_TICK)
            now = trio.current_time()
            newest = now - min(settings.timeout, settings.patience)
            for number, queue in enumerate(self._older(newest), 1):
                if queue.since < newest:
                    self._expire_queue(queue, now - settings.timeout, now - settings.patience)
                if number % _AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            self._settled()

    def _older(self, newest: float) -> list[PublishQueue]:
        """Those that may have something from before ``newest``."""
        return list(itertools.takewhile(lambda queue: queue.busy_since < newest, self._busy))

    def _expire_queue(self, queue: PublishQueue, oldest: float, oldest_unsent: float) -> None:
        shard = self._servers.of(queue.slot)
        away = self._servers.reason if shard is None else shard.commands.silent(0)
        batch = queue.batch
        if batch is not None and not queue.flying:
            if batch.sent and batch.items[0].at < oldest:
                self._give_up(
                    queue,
                    ProtocolError(
                        ErrorCode.TIMEOUT,
                        "the broker did not answer in time; it may still have been published",
                        retry_after=self._settings.retry_after,
                    ),
                )
            elif not batch.sent and batch.items[0].at < (oldest_unsent if away else oldest):
                self._give_up(queue, self._late(away or queue.trouble))
        limit = oldest_unsent if away else oldest
        late = [item for _, item in itertools.takewhile(lambda each: each[1].at < limit, queue.waiting)]
        del queue.waiting[: len(late)]
        for item in late:
            self._close(item, self._late(away or queue.trouble))
        if not queue.flying:
            self._rest(queue)

    def _late(self, away: str) -> ProtocolError:
        if away:
            return self._client.unavailable(away)
        return ProtocolError(
            ErrorCode.OVERLOADED,
            "the broker cannot keep up with publishes",
            retry_after=self._settings.retry_after,
        )
