"""Nothing of a client remains after its block, however that ends."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from gateway.client import Backoff, CommandInterrupted
from protocol.envelope import Envelope
from tests.client.loops import on_trio
from tests.client.scripted import HANDSHAKE, Peer, ScriptedGateway, stuck_pair, take


async def respond(peer: Peer, command: Envelope) -> None:
    """What a gateway would say; cuts the connection when it is called."""
    match command.t:
        case "join":
            data = {"recovered": True, "replayed": 0} if "since" in (command.data or {}) else None
            await peer.reply(command, room=command.room, epoch="e", seq=0, data=data)
            await peer.event(1, room=command.room, mid=f"{command.room} 1")
        case "call":
            await peer.drop()
        case "publish":
            await peer.reply(command, room=command.room, epoch="e", seq=2)
        case "subscribe":
            await peer.reply(command, data={"events": ["*"], "except": []})
        case "ping":
            await peer.reply(command, "pong", ts=1)


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.parametrize("ending", ["left", "error", "cancelled", "closed by the gateway", "given up"])
@on_trio
async def test_no_task_and_no_socket_remains(
    scripted: ScriptedGateway, clock: MockClock, ending: str
) -> None:
    before = tasks()
    scripted.responder = respond
    peer: Peer | None = None
    scripted.plan.extend([None, *[OSError("away")] * 5])
    with trio.CancelScope() as scope:
        try:
            async with scripted.connect(reconnect=Backoff(tries=3, give_up=True)) as client:
                peer = await scripted.peer()
                await client.join("r")
                await take(client, 1)
                assert tasks() > before
                match ending:
                    case "error":
                        raise KeyError
                    case "cancelled":
                        scope.cancel()
                        await trio.sleep_forever()
                    case "closed by the gateway":
                        await peer.close(4500)
                    case "given up":
                        await peer.drop()
                        await trio.sleep(1000)
        except KeyError:
            pass
    assert peer is not None
    if ending in ("left", "error", "cancelled"):
        assert peer.socket.closed is not None
        assert peer.socket.closed.code == 1000, "a proper goodbye, also when cancelled"
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before


class _Stop(trio.abc.Instrument):
    """Cancels a scope just before the n-th step of any task in it."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def _scenario(scripted: ScriptedGateway) -> None:
    async with scripted.connect() as client:
        await client.subscribe("*")
        await client.join("r")
        await client.publish("r", "x", {"text": "hi"})
        await take(client, 1)
        with pytest.raises(CommandInterrupted):
            await client.call("cut")
        await client.ping()


def _run_and_stop_at(step: int) -> bool:
    """Run the scenario, cancelled before that step; tells whether it got to its end before."""
    stop = _Stop(step)
    finished = False

    async def main() -> None:
        nonlocal finished
        async with trio.open_nursery() as nursery:
            scripted = ScriptedGateway(nursery)
            scripted.responder = respond
            before = tasks()
            trio.lowlevel.add_instrument(stop)
            with stop.scope, trio.fail_after(100):
                await _scenario(scripted)
                finished = True
            trio.lowlevel.remove_instrument(stop)
            await trio.sleep(2 * HANDSHAKE)
            assert tasks() == before, f"cancelled before step {step}"
            # Whoever was accepted saw the end: by a Close frame, or by the stream.
            for peer in scripted.peers:
                assert peer.socket.closed is not None

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return finished


def test_cancelled_anywhere_it_leaves_nothing() -> None:
    """Once before every step of the scheduler, from before the dialling to after the goodbye."""
    steps = 0
    while not _run_and_stop_at(steps + 1):
        steps += 1
        assert steps < 2000
    assert steps > 100, "the scenario takes many steps"


@on_trio
async def test_commands_in_flight_end_with_the_block(scripted: ScriptedGateway, clock: MockClock) -> None:
    """A task outside of the block is told, and not left waiting."""
    results: list[BaseException] = []

    async def ask(client: Any) -> None:
        try:
            await client.info()
        except Exception as error:
            results.append(error)

    async with trio.open_nursery() as nursery, scripted.connect() as client:
        nursery.start_soon(ask, client)
        await trio.testing.wait_all_tasks_blocked()
    assert [str(error) for error in results] == ["the client is closed"]


@on_trio
async def test_a_socket_that_is_stuck_in_both_directions_holds_nobody_up(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    """Half a message is out, and more events came in than anybody took."""
    before = tasks()
    stuck, pair = stuck_pair()
    scripted.pair = lambda: pair
    with trio.fail_after(60):
        async with scripted.connect(buffer=0) as client, trio.open_nursery() as nursery:
            peer = await scripted.peer()
            for seq in range(1, 10):
                await peer.event(seq)
            stuck.stuck = True
            nursery.start_soon(client.info)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert tasks() == before


@on_trio
async def test_a_gateway_that_does_not_say_goodbye_holds_nobody_up(
    scripted: ScriptedGateway, clock: MockClock
) -> None:
    scripted.plan.append("deaf")
    async with scripted.connect(close_timeout=2.0):
        began = trio.current_time()
    assert trio.current_time() == began + 2
