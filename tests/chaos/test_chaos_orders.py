"""Readers that stop and start again, on each transport that can, in rooms, the organisation and the user."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import pytest
import trio

from gateway.app import Gateway
from gateway.config.settings import UserHistory
from tests.chaos.support import chaos, dial, eventually
from tests.chaos.test_chaos import WINDOW, small_buffers
from tests.framing import TEXT, client_frame
from tests.streams.support import Events
from tests.upgrade import request_head
from tests.wire.support import Peer, read_head

ORDERS: Final = ["r", "organisation", "user"]
POLICIES: Final = ["drop_oldest", "conflate", "replay"]
ROUNDS: Final = 300

Next = Callable[[], Awaitable[dict[str, Any]]]


async def over_sse(gateway: Gateway, token: str, policy: str) -> tuple[trio.SocketStream, Next]:
    stream = await dial(gateway, window=WINDOW)
    query = urlencode({"join": "r", "overflow": policy, "token": token})
    await stream.send_all(f"GET /api/v1/stream?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    events = Events(stream)
    await events.begin()
    while (await events.next())["t"] != "reply":
        pass
    return stream, events.next


async def over_websocket(gateway: Gateway, token: str, policy: str) -> tuple[trio.SocketStream, Next]:
    stream = await dial(gateway, window=WINDOW)
    own = {"organisation": {"overflow": policy}, "user": {"overflow": policy}}
    commands = [{"id": 1, "room": "r", "data": {"overflow": policy}}, {"id": 2, "data": own}]
    frames = [client_frame(TEXT, msgspec.json.encode({"v": 1, "t": "join", **each})) for each in commands]
    await stream.send_all(request_head(f"/ws?token={token}") + b"".join(frames))
    peer = Peer(stream, (await read_head(stream))[1])

    async def following() -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode((await peer.frame()).payload)
        return found

    while (await following()).get("id") != 2:
        pass
    return stream, following


async def publish(gateway: Gateway, number: int) -> None:
    data = {"key": number % 5, "pad": "x" * 2000}
    await gateway.publish("acme", "r", "e", data)
    await gateway.publish("acme", None, "e", data)
    await gateway.send_to_user("acme", "alice", "e", data)


def lagging(gateway: Gateway) -> int:
    """Places that lag."""
    return gateway.hub.census()["lags"]


async def account(following: Next) -> dict[str, list[int]]:
    """Read until each order has come to its end; the numbers of each that were lost."""
    position, lost = dict.fromkeys(ORDERS, 0), {order: [0] * 0 for order in ORDERS}
    while min(position.values()) < ROUNDS:
        message = await following()
        order = message.get("room") or message.get("to") or "organisation"
        if message["t"] == "event":
            assert message["seq"] == position[order] + 1, (order, message["seq"], position)
            position[order] += 1
        else:
            assert message["t"] == "lost" and message["data"]["from"] == position[order] + 1, message
            lost[order] += range(message["data"]["from"], message["data"]["to"] + 1)
            position[order] = message["data"]["to"]
    return lost


@pytest.mark.parametrize("history", [1000, 20], ids=["long history", "short history"])
async def test_stalled_readers_in_all_three_orders(history: int) -> None:
    kept = UserHistory(messages=history, bytes=2**26)
    settings = {"messages": history, "bytes": 2**26, "user": kept}
    async with chaos(limits={"queue_messages": 60}, history=settings) as gateway:
        small_buffers(gateway)
        token = gateway.auth.issue(org="acme", user="alice").token
        readers = [
            (policy, *await way(gateway, token, policy))
            for way in (over_sse, over_websocket)
            for policy in POLICIES
        ]
        for number in range(ROUNDS):
            await publish(gateway, number)
            await trio.lowlevel.checkpoint()
        assert lagging(gateway) == 6 * len(ORDERS), "all of them lag"
        for policy, stream, following in readers:
            with trio.fail_after(60):
                lost = await account(following)
            for order in ORDERS:
                assert bool(lost[order]) is (policy != "replay" or history < ROUNDS), (policy, order)
            await trio.aclose_forcefully(stream)
        await eventually(lambda: not gateway.hub.connections)
