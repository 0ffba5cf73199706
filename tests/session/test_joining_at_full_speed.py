"""``join`` with ``since`` while others publish as fast as they can: no hole, no duplicate, no lie."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.envelope import Envelope
from tests.rest.api import asking, success
from tests.support import Raw, connected, running_gateway

ROUNDS = 15


async def publish_over_a_socket(gateway: Gateway, room: str = "r") -> None:
    """As fast as a socket goes: many commands on the way at once."""
    async with connected(gateway, user="publisher") as client:
        while True:
            for _ in range(50):
                await client.send("publish", room=room, event="e", data="x" * 50)
            await client.ask("ping")


async def publish_in_process(gateway: Gateway, room: str = "r") -> None:
    """As fast as the event loop goes, up to what history keeps; then on, but slowly."""
    seq = 0
    while True:
        for _ in range(random.randrange(1, 20)):
            seq = (await gateway.hub.publish("acme", room, "e")).seq
        await trio.sleep(0.01 if seq > 5_000 else 0)


async def reached(gateway: Gateway, seq: int) -> None:
    while (await gateway.hub.history("acme", "r", limit=1)).seq < seq:
        await trio.lowlevel.checkpoint()


class Follower:
    """Somebody who comes and goes, and always comes back to where it stood."""

    def __init__(self, gateway: Gateway, client: Raw) -> None:
        self.gateway = gateway
        self.client = client
        self.position = 0
        self.epoch = ""
        self.recovered: list[bool] = []

    async def begin(self) -> None:
        reply = await self.client.ask("join", room="r")
        self.position, self.epoch = reply.seq or 0, reply.epoch or ""

    def take(self, message: Envelope) -> int:
        """Account for one message; returns how many events were lost."""
        assert message.epoch == self.epoch and message.room == "r", message
        if message.t == "lost":
            assert message.data["from"] == self.position + 1 and message.data["reason"] == "history"
            lost = int(message.data["to"]) - self.position
            self.position += lost
            return lost
        assert (message.t, message.seq) == ("event", self.position + 1), (
            message.t,
            message.seq,
            self.position,
        )
        self.position += 1
        return 0

    async def leave(self) -> None:
        await self.client.ask("leave", room="r")
        for message in self.client.events:
            self.take(message)
        self.client.events.clear()

    async def come_back(self) -> None:
        since = {"epoch": self.epoch, "seq": self.position}
        reply = await self.client.ask("join", room="r", data={"since": since})
        assert not self.client.events, "nothing comes before the reply"
        assert (reply.epoch, reply.room) == (self.epoch, "r")
        place = reply.seq or 0
        missed = place - self.position
        lost = came = 0
        while self.position < place:
            gap = self.take(await self.client.receive())
            lost, came = lost + gap, came + (not gap)
        assert reply.data == {"recovered": lost == 0, "replayed": came}
        assert lost + came == missed
        self.recovered.append(lost == 0)

    async def hear(self, count: int) -> None:
        for _ in range(count):
            assert self.take(await self.client.receive()) == 0


@pytest.mark.parametrize("publisher", [publish_over_a_socket, publish_in_process])
@pytest.mark.parametrize("kept", [100_000, 60], ids=["all is kept", "little is kept"])
async def test_coming_back_while_others_publish(publisher: Any, kept: int, codec: Codec) -> None:
    settings: dict[str, Any] = {"history": {"messages": kept, "bytes": 2**27}}
    async with running_gateway(**settings) as gateway, connected(gateway, codec=codec) as client:
        async with trio.open_nursery() as nursery:
            follower = Follower(gateway, client)
            await follower.begin()
            for _ in range(2):
                nursery.start_soon(publisher, gateway)
            for _ in range(ROUNDS):
                await follower.hear(random.randrange(1, 40))
                await follower.leave()
                away = follower.position + random.choice([0, 1, 50, 200])
                await reached(gateway, away)
                await follower.come_back()
            nursery.cancel_scope.cancel()
        assert len(follower.recovered) == ROUNDS
        if kept > 1000:
            assert all(follower.recovered)
        else:
            assert not all(follower.recovered)


async def test_who_missed_nothing_is_always_recovered(codec: Codec) -> None:
    """Also when nothing is kept at all, and when what was kept has become too old or too much."""
    for history in ({"messages": 0}, {"messages": 2}, {"bytes": 0}):
        async with running_gateway(history=history) as gateway, connected(gateway, codec=codec) as client:
            reply = await client.ask("join", room="r")
            for _ in range(5):
                await gateway.hub.publish("acme", "r", "e")
                seq = (await client.event()).seq
                since = {"epoch": reply.epoch, "seq": seq}
                again = await client.ask("join", room="r", data={"since": since})
                assert again.data == {"recovered": True, "replayed": 0}
            empty = await client.ask("join", room="empty")
            await client.ask("leave", room="empty")
            since = {"epoch": empty.epoch, "seq": empty.seq}
            again = await client.ask("join", room="empty", data={"since": since})
            assert again.data == {"recovered": True, "replayed": 0}, "nobody has said anything there"


@pytest.mark.parametrize("over", ["websocket", "http"])
async def test_pages_of_history_while_others_publish(over: str) -> None:
    """Page after page, each from where the last one ended, until the end is reached: everything, once."""
    settings: dict[str, Any] = {"history": {"messages": 100_000, "bytes": 2**27, "page": 40}}
    async with running_gateway(**settings) as gateway, asking(gateway) as ask, connected(gateway) as client:

        async def page(since: dict[str, Any]) -> dict[str, Any]:
            if over == "http":
                found: dict[str, Any] = success(await ask.get("/rooms/r/history", params=since))
                return found
            reply = await client.ask("history", room="r", data={"since": since})
            return {"seq": reply.seq, "epoch": reply.epoch, **reply.data}

        epoch = (await gateway.hub.publish("acme", "r", "e")).epoch
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_over_a_socket, gateway)
            position = 0
            while position < 500:
                found = await page({"epoch": epoch, "seq": position})
                seqs = [event["seq"] for event in found["events"]]
                assert len(seqs) <= 40 and found["complete"] is True and found["epoch"] == epoch
                assert seqs == list(range(position + 1, position + 1 + len(seqs)))
                position += len(seqs)
                assert found["more"] is (position < found["seq"])
            nursery.cancel_scope.cancel()
        while True:
            found = await page({"epoch": epoch, "seq": position})
            position += len(found["events"])
            if not found["more"]:
                break
        assert position == found["seq"]
