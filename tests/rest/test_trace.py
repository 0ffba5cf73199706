"""What became of a message, as its sender's operator may ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from gateway.app import Gateway
from gateway.testing.node import run_node
from tests.rest.api import ADMIN, Api, asking, problem, success
from tests.support import connected, running_gateway, start_gateway, until


@pytest.fixture
async def gateway(nursery: trio.Nursery) -> AsyncIterator[Gateway]:
    """A gateway that traces."""
    yield await start_gateway(nursery, trace={"messages": 5, "recipients": 4, "records": 6})


async def outcomes(api: Api, mid: str, user: str | None = None, **claims: Any) -> dict[str | None, str]:
    """User (without one: connection) → outcome."""
    trace = success(await api.get(f"/messages/{mid}/trace", params={"user": user} if user else None))
    assert trace["mid"] == mid
    return {each.get("user", each.get("connection")): each["outcome"] for each in trace["recipients"]}


async def test_each_recipient_has_an_outcome(api: Api, gateway: Gateway) -> None:
    async with (
        connected(gateway, user="bob") as bob,
        connected(gateway, user="carol") as carol,
        connected(gateway, user="dave") as dave,
        connected(gateway, user="eve") as eve,
    ):
        await bob.ask("join", room="r")
        await carol.ask("join", room="r", data={"events": ["other:*"]})
        await dave.ask("join", room="r")
        body = {"room": "r", "event": "e", "mid": "m", "exclude": ["dave"]}
        place = success(await api.post("/broadcast", body))
        assert (await bob.event()).mid == "m"
        trace = success(await api.get("/messages/m/trace"))
        assert (trace["room"], trace["event"], trace["sender"]) == ("r", "e", "backend")
        assert (trace["seq"], trace["epoch"], trace["node"]) == (place["seq"], place["epoch"], "test")
        assert trace["complete"] is True
        assert {(each["user"], each["outcome"], each["matched"]) for each in trace["recipients"]} == {
            ("bob", "sent", True),
            ("carol", "filtered", False),
            ("dave", "excluded", False),
        }
        assert await outcomes(api, "m", "bob") == {"bob": "sent"}
        assert await outcomes(api, "m", "eve") == {"eve": "not_joined"}
        [absent] = success(await api.get("/messages/m/trace?user=zoe"))["recipients"]
        assert absent == {"user": "zoe", "matched": False, "outcome": "not_connected"}
        # Who comes later could not have got it.
        async with connected(gateway, user="zoe") as zoe:
            await zoe.ask("join", room="r")
            assert await outcomes(api, "m", "zoe") == {"zoe": "not_connected"}
        assert await carol.settled() == await dave.settled() == await eve.settled() == []


async def test_a_user_with_two_connections_has_two_outcomes(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, user="bob") as first, connected(gateway, user="bob") as second:
        for client in (first, second):
            await client.ask("join", room="r")
        await second.ask("subscribe", data={"events": ["nothing"]})
        success(await api.post("/broadcast", {"room": "r", "event": "e", "mid": "m"}))
        await first.event()
        recipients = success(await api.get("/messages/m/trace?user=bob"))["recipients"]
        assert {each["connection"]: each["outcome"] for each in recipients} == {
            first.greeting.data["connection"]: "sent",
            second.greeting.data["connection"]: "filtered",
        }


async def test_direct_sends_and_organisation_events_are_traced(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, user="bob") as bob:
        id = bob.greeting.data["connection"]
        success(await api.post("/users/bob/send", {"event": "e", "mid": "to-user"}))
        success(await api.post("/users/zoe/send", {"event": "e", "mid": "to-nobody"}))
        success(await api.post(f"/connections/{id}/send", {"event": "e", "mid": "to-connection"}))
        success(await api.post("/broadcast", {"event": "e", "mid": "to-all"}))
        await bob.ask("unsubscribe", data={"events": ["e"]})
        success(await api.post(f"/connections/{id}/send", {"event": "e", "mid": "held-back"}))
        for mid in ("to-user", "to-connection", "to-all"):
            assert await outcomes(api, mid, "bob") == {"bob": "sent"}, mid
        assert await outcomes(api, "held-back", "bob") == {"bob": "filtered"}
        assert await outcomes(api, "to-nobody", "zoe") == {"zoe": "not_connected"}
        assert await outcomes(api, "to-nobody") == {}


async def test_what_a_slow_client_gets_later_or_never() -> None:
    pad = "x" * 16_000
    settings: dict[str, Any] = {
        "trace": {"messages": 10_000},
        "limits": {"queue_messages": 20},
        "history": {"messages": 10, "bytes": 2**24},
        "connection": {"close_timeout": 0.1},
    }
    async with running_gateway(**settings) as gateway, asking(gateway) as other:
        async with (
            connected(gateway, user="drops") as drops,
            connected(gateway, user="replays") as replays,
            connected(gateway, user="leaves") as leaves,
        ):
            await drops.ask("join", room="r", data={"overflow": "drop_oldest"})
            await replays.ask("join", room="r", data={"overflow": "replay"})
            await leaves.ask("join", room="r", data={"overflow": "replay"})
            for n in range(1, 1001):
                await gateway.hub.publish("acme", "r", "e", pad, mid=f"m{n}", size=16_000)
            # None of them has read anything: the last events wait in the gateway.
            waiting = success(await other.get("/messages/m1000/trace"))["recipients"]
            assert {each["user"]: (each["outcome"], each["reason"]) for each in waiting} == {
                "drops": ("lagging", "drop_oldest"),
                "replays": ("lagging", "replay"),
                "leaves": ("lagging", "replay"),
            }
            [dropped] = success(await other.get("/messages/m900/trace?user=drops"))["recipients"]
            assert (dropped["outcome"], dropped["reason"]) == ("dropped", "drop_oldest")
            assert gateway.hub.counters.dropped["drop_oldest"] > 0
            gateway.hub.disconnect("acme", leaves.greeting.data["connection"])
            for client in (drops, replays):
                while (await client.receive()).seq != 1000:
                    pass
            await until(lambda: len(gateway.hub.connections) == 2, "the end of the one that leaves")
            assert await outcomes(other, "m1") == {"drops": "sent", "replays": "sent", "leaves": "sent"}
            assert await outcomes(other, "m1000") == {
                "drops": "replayed",
                "replays": "replayed",
                "leaves": "closed",
            }
            [gone] = success(await other.get("/messages/m900/trace?user=replays"))["recipients"]
            assert (gone["outcome"], gone["reason"]) == ("dropped", "history")


async def test_queued_becomes_sent_over_any_stream(clock: MockClock) -> None:
    """Over a stream that is no plain socket (TLS), where what waits is sent as one piece."""
    async with run_node(trace={"messages": 1000}) as node, node.raw(user="bob") as bob:
        bob.link.down.capacity = 4096
        await bob.ask("join", room="r")
        bob.link.down.stall()

        async def publish(first: int, last: int) -> None:
            for number in range(first, last + 1):
                await node.gateway.hub.publish("acme", "r", "e", "x" * 1000, mid=f"m{number}")
            await trio.testing.wait_all_tasks_blocked()

        def sent(published: int) -> int:
            traces = [node.gateway.hub.trace("acme", f"m{n}", user="bob") for n in range(1, published + 1)]
            found = [trace["recipients"][0]["outcome"] for trace in traces if trace is not None]
            assert found == ["sent"] * found.count("sent") + ["queued"] * found.count("queued")
            return found.count("sent")

        async def read(first: int, last: int) -> None:
            bob.link.down.resume()
            for number in range(first, last + 1):
                assert (await bob.event()).mid == f"m{number}"
            bob.link.down.stall()
            await trio.testing.wait_all_tasks_blocked()

        await publish(1, 40)
        assert sent(40) < 10
        await read(1, 5)  # so that all the rest is on its way, as one piece
        await publish(41, 80)
        assert sent(80) < 20
        await read(6, 42)  # that piece is through; the second one is not
        assert 40 <= sent(80) < 60
        await read(43, 80)
        assert sent(80) == 80


async def test_what_a_join_brings_is_replayed(api: Api, gateway: Gateway) -> None:
    place = success(await api.post("/broadcast", {"room": "r", "event": "e", "mid": "m"}))
    async with connected(gateway, user="bob") as bob:
        since = {"epoch": place["epoch"], "seq": place["seq"] - 1}
        await bob.ask("join", room="r", data={"since": since})
        assert (await bob.event()).mid == "m"
        assert await outcomes(api, "m", "bob") == {"bob": "replayed"}


async def test_only_services_may_ask_and_only_their_own_organisation(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, user="bob"):
        success(await api.post("/broadcast", {"event": "e", "mid": "m"}))
        claims = {"user": "bob"}
        problem(await api.get("/messages/m/trace?user=bob", claims=claims), 403, 202)
        other = {"org": "globex", "roles": ["service"]}
        problem(await api.get("/messages/m/trace", claims=other), 404, 109)
        problem(await api.get("/messages/m/trace?org=acme", claims=other), 403, 204)
        success(await api.get("/messages/m/trace?org=acme", claims={**ADMIN, "org": "globex"}))
        # The same id in another organisation is another message.
        success(await api.post("/broadcast", {"event": "theirs", "mid": "m"}, claims=other))
        assert success(await api.get("/messages/m/trace"))["event"] == "e"


async def test_the_memory_of_traces_is_bounded(api: Api, gateway: Gateway) -> None:
    tracer = gateway.hub.tracer
    assert tracer is not None
    for n in range(20):
        success(await api.post("/broadcast", {"room": "r", "event": "e", "mid": f"m{n}"}))
    assert len(tracer) == 5
    problem(await api.get("/messages/m14/trace"), 404, 109)
    success(await api.get("/messages/m15/trace"))
    async with connected(gateway, user="a"), connected(gateway, user="b"), connected(gateway, user="c"):
        for n in range(20):
            success(await api.post("/broadcast", {"event": "e", "mid": f"n{n}"}))
            assert tracer.records <= 6
        assert len(tracer) == 2
        async with connected(gateway, user="d"), connected(gateway, user="e"):
            success(await api.post("/broadcast", {"event": "e", "mid": "many"}))
            trace = success(await api.get("/messages/many/trace"))
            assert (trace["complete"], len(trace["recipients"])) == (False, 4)
            # The fifth is beyond the bound, so nothing is claimed of it.
            assert await outcomes(api, "many", "e") == {"e": "unknown"}
        # An id that comes again counts once.
        for _ in range(20):
            success(await api.post("/users/a/send", {"event": "e", "mid": "same"}))
        assert tracer.records <= 6 and len(tracer) <= 5


async def test_a_repeated_publish_does_not_change_the_trace(api: Api, gateway: Gateway) -> None:
    async with connected(gateway, user="bob") as bob:
        await bob.ask("join", room="r")
        success(await api.post("/broadcast", {"room": "r", "event": "e", "mid": "m"}))
        await bob.event()
        await bob.ask("leave", room="r")
        success(await api.post("/broadcast", {"room": "r", "event": "e", "mid": "m"}))
        assert await outcomes(api, "m", "bob") == {"bob": "sent"}


async def test_a_share_of_the_messages_is_traced() -> None:
    async with running_gateway(trace={"messages": 1000, "sample": 0.3}) as gateway:
        for n in range(400):
            await gateway.hub.publish("acme", "r", "e", mid=f"m{n}", size=0)
        tracer = gateway.hub.tracer
        assert tracer is not None and 60 < len(tracer) < 180
        traced = {n for n in range(400) if gateway.hub.trace("acme", f"m{n}")}
        # The same ones on every node.
        async with running_gateway(trace={"messages": 1000, "sample": 0.3}) as second:
            for n in range(400):
                await second.hub.publish("acme", "r", "e", mid=f"m{n}", size=0)
            assert {n for n in range(400) if second.hub.trace("acme", f"m{n}")} == traced


async def test_off_is_off() -> None:
    async with running_gateway() as gateway, asking(gateway) as other:
        assert gateway.hub.tracer is None
        success(await other.post("/broadcast", {"event": "e", "mid": "m"}))
        assert "trace.messages" in problem(await other.get("/messages/m/trace"), 404, 109)


@pytest.mark.parametrize("mid", ["x" * 101, "a%0Ab", ""])
async def test_what_is_no_message_id_is_refused(api: Api, mid: str) -> None:
    problem(await api.get(f"/messages/{mid}/trace"), 400, 104)


async def test_a_trace_keeps_names_and_no_data(gateway: Gateway) -> None:
    async with connected(gateway, user="bob") as bob:
        await bob.ask("join", room="r")
        for n in range(5):
            await gateway.hub.publish("acme", "r", "e", "\U0001f600" + "x" * 100_000, mid=f"m{n}")
            await bob.event()
    assert 0 < gateway.hub.census()["trace_bytes"] < 10_000


async def test_no_organisation_drives_out_the_traces_of_another(api: Api, gateway: Gateway) -> None:
    tracer = gateway.hub.tracer
    assert tracer is not None
    await gateway.hub.publish("acme", "r", "e", mid="kept")
    for n in range(50):
        await gateway.hub.publish("loud", "r", "e", mid=f"m{n}")
    assert success(await api.get("/messages/kept/trace"))["event"] == "e"
    assert len(tracer) == 5
    assert gateway.hub.trace("loud", "m49") and not gateway.hub.trace("loud", "m45")
    # Whoever comes later finds room, at the price of the one that has most.
    for n in range(3):
        await gateway.hub.publish("late", "r", "e", mid=f"m{n}")
    assert len(tracer) == 5 and gateway.hub.trace("late", "m2") and gateway.hub.trace("acme", "kept")
