"""What a member gets that reads too slowly, under each overflow policy."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.app import Gateway
from gateway.testing.node import run_node
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.envelope import Envelope
from tests.support import Raw, connected, running_gateway, until

PAD = "x" * 16_000
ROUNDS = 1000
"""Events of 16 kB: far more than the socket buffers of loopback take."""


async def flood(gateway: Gateway, rounds: int = ROUNDS, *, keys: int = 7) -> None:
    for n in range(1, rounds + 1):
        await gateway.hub.publish("acme", "ticks", "tick", {"key": n % keys, "n": n, "pad": PAD}, size=16_000)


async def read_until_current(slow: Raw, last: int) -> list[Envelope]:
    """Everything up to the event with number ``last``."""
    messages: list[Envelope] = []
    while not messages or messages[-1].seq != last:
        messages.append(await slow.receive())
    return messages


def account(messages: list[Envelope]) -> tuple[list[int], list[tuple[int, int]]]:
    """Numbers received, ranges announced as lost; fails unless together they are everything, in order."""
    received: list[int] = []
    lost: list[tuple[int, int]] = []
    expected = 1
    for message in messages:
        if message.t == "lost":
            first, last = message.data["from"], message.data["to"]
            assert first == expected <= last, (message, expected)
            lost.append((first, last))
            expected = last + 1
        else:
            assert message.t == "event" and message.seq == expected, (message.t, message.seq, expected)
            received.append(expected)
            expected += 1
    return received, lost


async def slow_member(slow: Raw, policy: str, **data: Any) -> None:
    answer = await slow.ask("join", room="ticks", data={"overflow": policy, **data})
    assert answer.t == "reply", answer


@pytest.mark.parametrize("codec", [None, CBOR])
async def test_drop_oldest_keeps_the_newest_and_announces_the_rest(codec: Any) -> None:
    limits = {"queue_messages": 50}
    async with running_gateway(limits=limits) as gateway:
        async with connected(gateway, **({"codec": codec} if codec else {})) as slow:
            await slow_member(slow, "drop_oldest")
            await flood(gateway)
            outbox = next(iter(gateway.hub.connections.values())).outbox
            assert outbox.size <= outbox.max_bytes and len(outbox.queue) <= outbox.max_messages
            received, lost = account(await read_until_current(slow, ROUNDS))
            assert lost and received[-50:] == list(range(ROUNDS - 49, ROUNDS + 1))
            # Repaired on the same connection: what was lost is asked for again (what history still has).
            await flood(gateway, 1)
            assert (await slow.receive()).seq == ROUNDS + 1


async def test_conflate_keeps_the_newest_of_each_key() -> None:
    async with running_gateway() as gateway, connected(gateway) as slow:
        await slow_member(slow, "conflate")
        await flood(gateway, keys=7)
        received, lost = account(await read_until_current(slow, ROUNDS))
        assert lost and received[-7:] == list(range(ROUNDS - 6, ROUNDS + 1))
        # Between the last loss and the end there is one event per key.
        assert len([seq for seq in received if seq > lost[-1][1]]) == 7


async def test_conflate_by_a_field_that_the_join_names() -> None:
    async with running_gateway() as gateway, connected(gateway) as slow:
        await slow_member(slow, "conflate", key="pad")
        await flood(gateway)
        received, lost = account(await read_until_current(slow, ROUNDS))
        assert received[-1] == ROUNDS and lost[-1][1] == ROUNDS - 1


async def test_replay_loses_nothing_that_history_still_has() -> None:
    history = {"messages": ROUNDS, "bytes": 64 * 2**20}
    async with running_gateway(history=history) as gateway, connected(gateway) as slow:
        await slow_member(slow, "replay")
        await flood(gateway)
        received, lost = account(await read_until_current(slow, ROUNDS))
        assert not lost and len(received) == ROUNDS
        await flood(gateway, 1)
        assert (await slow.receive()).seq == ROUNDS + 1


async def test_replay_announces_what_history_lost() -> None:
    async with running_gateway(history={"messages": 20}) as gateway, connected(gateway) as slow:
        await slow_member(slow, "replay")
        await flood(gateway)
        received, lost = account(await read_until_current(slow, ROUNDS))
        assert len(lost) == 1 and received[-20:] == list(range(ROUNDS - 19, ROUNDS + 1))


async def test_a_long_replay_does_not_overflow_the_queue_of_a_join() -> None:
    history = {"messages": ROUNDS, "bytes": 64 * 2**20}
    async with running_gateway(history=history, limits={"queue_messages": 100}) as gateway:
        await flood(gateway)
        epoch = (await gateway.hub.history("acme", "ticks", limit=1)).epoch
        async with connected(gateway) as late:
            reply = await late.ask("join", room="ticks", data={"since": {"epoch": epoch, "seq": 0}})
            assert reply.data == {"recovered": True, "replayed": ROUNDS}
            received, lost = account(late.events + await read_until_current(late, ROUNDS))
            assert len(received) == ROUNDS and not lost


async def test_disconnect_closes_the_slow_one_and_nobody_else() -> None:
    async with running_gateway(limits={"queue_messages": 50}) as gateway:
        async with connected(gateway, user="slow") as slow, connected(gateway, user="bob") as bob:
            await slow_member(slow, "disconnect")
            await bob.ask("join", room="ticks", data={"events": ["other"]})
            await flood(gateway)
            await until(lambda: len(gateway.hub.connections) == 1, "the slow connection's end")
            assert gateway.hub.counters.closes[4001] == 1
            assert (await bob.ask("ping")).t == "pong"


async def test_a_critical_event_overtakes_the_queue() -> None:
    async with running_gateway() as gateway, connected(gateway) as slow:
        await slow_member(slow, "drop_oldest")
        await flood(gateway)
        await gateway.hub.publish("acme", "ticks", "alarm", {"n": 0}, critical=True)
        messages: list[Envelope] = []
        while not messages or messages[-1].seq != ROUNDS:
            messages.append(await slow.receive())
        places = [index for index, message in enumerate(messages) if message.event == "alarm"]
        assert len(places) == 1 and places[0] < len(messages) - 1
        assert messages[places[0]].critical is True


async def test_errors_and_closing_overtake_the_queue(clock: MockClock, codec: Codec) -> None:
    async with (
        run_node(connection={"heartbeat": 1e6, "close_timeout": 60.0}) as node,
        node.raw(codec=codec, roles=["service"]) as slow,
    ):
        await slow.ask("join", room="r")
        slow.link.down.stall()
        for number in range(1, 301):
            await node.gateway.hub.publish(
                "acme", "r", "e", {"n": number, "pad": "x" * 1000}, critical=number == 250
            )
            if number == 100:
                await trio.testing.wait_all_tasks_blocked()  # so much is on its way
        await slow.send("leave", id=77, room="never-joined")
        await trio.testing.wait_all_tasks_blocked()
        node.gateway.hub.disconnect("acme", slow.greeting.data["connection"])
        slow.link.down.resume()
        assert (await slow.closed()).code == 4500
        kinds = [(message.t, message.seq) for message in slow.events]
        at = kinds.index(("event", 250))
        assert kinds[at : at + 3] == [("event", 250), ("error", None), ("closing", None)]
        assert at <= 100
        ordinary = [seq for kind, seq in kinds if kind == "event" and seq != 250]
        assert ordinary == [seq for seq in range(1, 301) if seq != 250], "and what they overtook still comes"


async def test_to_a_client_that_keeps_up_everything_comes_in_order(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        for id in range(1, 101):
            if id % 3:
                await alice.send("ping", id=id)
            else:
                await alice.send("leave", id=id, room="never-joined")
        assert [(await alice.receive()).id for _ in range(100)] == list(range(1, 101))


async def test_only_services_may_mark_an_event_as_critical(gateway: Gateway) -> None:
    async with connected(gateway) as member, connected(gateway, user="svc", roles=["service"]) as service:
        refused = await member.ask("publish", room="r", event="e", critical=True)
        assert (refused.t, refused.code) == ("error", 202)
        assert (await service.ask("publish", room="r", event="e", critical=True)).t == "reply"
