"""Following executions: events in their rooms, snapshots, and the vocabularies of other systems."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from gateway.app import Gateway
from gateway.operations.rules import service
from protocol import events as catalogue
from protocol.cbor import CBOR
from protocol.errors import ErrorCode, ProtocolError
from protocol.json import JSON
from tests.redis_server import redis_server
from tests.store.support import rows
from tests.support import Raw, connected, running_gateway, start_gateway, until

ACME = service("acme", "backend")


@pytest.fixture
async def gateway(nursery: trio.Nursery, address: str) -> AsyncIterator[Gateway]:
    yield await start_gateway(nursery, database=address)


async def create(gateway: Gateway, id: str, **fields: Any) -> Any:
    fields = {"agent": "cicero", "status": "running"} | fields
    return await gateway.operations.executions.create(ACME, id=id, **fields)


async def update(gateway: Gateway, id: str, **fields: Any) -> Any:
    return await gateway.operations.executions.update(ACME, id, **fields)


async def snapshot(raw: Raw, room: str, **data: Any) -> Any:
    answer = await raw.ask("join", room=room, data={"snapshot": True, **data})
    assert answer.t == "reply", answer
    return answer


async def test_each_change_is_told_in_both_rooms(gateway: Gateway) -> None:
    async with connected(gateway) as all, connected(gateway, codec=CBOR, user="bob") as one:
        await all.ask("join", room="executions")
        await one.ask("join", room="execution:e1")
        told = [await create(gateway, "e1", input={"x": 1}, metadata={"run": 7})]
        await create(gateway, "e2")
        told.append(await update(gateway, "e1", progress=50, step="half", tools=["search"]))
        told.append(await update(gateway, "e1", status="completed", result=[1, 2]))
        heard = [await one.event() for _ in told]
        assert [event.data for event in heard] == told
        assert [event.seq for event in heard] == [1, 2, 3]
        assert {event.event for event in heard} == {"execution:updated"}
        everything = [(await all.event()).data for _ in range(4)]
        assert [row for row in everything if row["id"] == "e1"] == told
        assert len({event.mid for event in heard}) == 3


async def test_members_follow_and_do_not_publish_there(gateway: Gateway) -> None:
    await create(gateway, "e1")
    async with connected(gateway, rooms={"execution:e1": ["join", "publish"]}) as alice:
        for room in ("execution:e2", "executions"):
            for data in (None, {"snapshot": True}):
                assert (await alice.ask("join", room=room, data=data)).code == ErrorCode.FORBIDDEN
        assert (await snapshot(alice, "execution:e1")).data["snapshot"]["version"] == 1
        refused = await alice.ask("publish", room="execution:e1", event="execution:updated", data={})
        assert refused.code == ErrorCode.FORBIDDEN


async def test_a_snapshot_is_the_state_at_its_seq(gateway: Gateway, address: str) -> None:
    async with connected(gateway) as alice:
        answer = await snapshot(alice, "execution:e1")
        assert (answer.data, answer.seq) == ({"snapshot": None}, 0)
        row = await create(gateway, "e1")
        assert (await alice.event()).data == row
        answer = await snapshot(alice, "execution:e1")  # once more, by who is in already
        assert (answer.data, answer.seq) == ({"snapshot": row}, 1)
        row = await update(gateway, "e1", progress=5)
        event = await alice.event()
        assert (event.data, event.seq) == (row, 2)
        other = await create(gateway, "e2", agent="ovid")
        answer = await snapshot(alice, "executions", since={"epoch": "x", "seq": 9}, presence=True)
        assert answer.data["snapshot"] == {"executions": [other, row]}
        assert answer.data["users"] and "replayed" not in answer.data
        for room in ("chat:42", "execution"):
            refused = await alice.ask("join", room=room, data={"snapshot": True})
            assert refused.code == ErrorCode.BAD_FIELD
        assert (await alice.ask("leave", room="chat:42")).code == ErrorCode.NOT_JOINED
        refused = await alice.ask("join", room="executions", data={"snapshot": 1})
        assert refused.code == ErrorCode.BAD_FIELD


async def test_a_snapshot_shows_what_is_told_and_not_more(address: str) -> None:
    """What is committed and not told yet comes as events; the snapshot is not ahead of them."""
    async with running_gateway(database=address) as gateway, connected(gateway) as alice:
        row = await create(gateway, "e1")
        await until(lambda: not rows(address, "SELECT * FROM execution_outbox"), "it is told")
        executions = gateway.operations.executions.inbox.store.executions
        tell, executions.tell = executions.tell, lambda entries, held: kept.extend(entries)
        kept: list[Any] = []
        changed = [await update(gateway, "e1", progress=number) for number in (1, 2, 3)]
        new = await create(gateway, "e2")
        for room in ("executions", "execution:e1"):
            shown = (await snapshot(alice, room)).data["snapshot"]
            assert shown == (row if room == "execution:e1" else {"executions": [new, row]})
        await alice.ask("leave", room="execution:e1")
        tell(kept, ())
        heard = [(await alice.event()).data for _ in range(4)]
        assert sorted(heard, key=lambda row: row["id"]) == [*changed, new]


@contextlib.asynccontextmanager
async def two_nodes(address: str, folder: Path) -> AsyncIterator[list[Gateway]]:
    """Nodes that share the database and a Redis."""
    async with redis_server(folder / "redis") as redis, trio.open_nursery() as nursery:
        yield [
            await start_gateway(nursery, node=name, broker=redis.url, database=address)
            for name in ("n1", "n2")
        ]
        nursery.cancel_scope.cancel()


UPDATES = 120
JOINS = 12


async def test_no_hole_and_no_step_back_while_updates_come(address: str, tmp_path: Path) -> None:
    """Two nodes report on the same executions as fast as they can; members come meanwhile, on both."""
    async with two_nodes(address, tmp_path) as nodes:
        ids = [f"e{number}" for number in range(3)]
        for id in ids:
            await create(nodes[0], id)
        last = 1 + UPDATES
        reached = [trio.Event() for _ in range(UPDATES)]

        async def report(id: str) -> None:
            claims: Any = {"user": "backend", "roles": ["service"]}
            async with connected(nodes[0], **claims) as one, connected(nodes[1], **claims) as two:
                for number in range(UPDATES):
                    body = {"id": id, "step": f"step {number}"}
                    said = await (one, two)[number % 2].ask("call", event="executions.update", data=body)
                    assert said.t == "reply", said
                    reached[number].set()

        async def follow(number: int, room: str) -> None:
            async with connected(nodes[number % 2], user=f"u{number}", codec=(JSON, CBOR)[number % 2]) as raw:
                answer = await snapshot(raw, room)
                shown = answer.data["snapshot"]
                listed = shown["executions"] if room == "executions" else [shown]
                versions = {row["id"]: row["version"] for row in listed}
                assert set(versions) == (set(ids) if room == "executions" else {room.partition(":")[2]})
                started.add(versions[listed[0]["id"]])
                repeated = set(versions)  # the first event may be what was shown
                place = answer.seq
                while any(version < last for version in versions.values()):
                    event = await raw.event()
                    assert event.seq == place + 1
                    place = event.seq
                    id, version = event.data["id"], event.data["version"]
                    known = versions[id]
                    assert version == known + 1 or (id in repeated and version == known), (known, version)
                    repeated.discard(id)
                    versions[id] = version

        started: set[int] = set()
        async with trio.open_nursery() as followers:
            async with trio.open_nursery() as reporters:
                for id in ids:
                    reporters.start_soon(report, id)
                for number in range(JOINS):
                    room = ("executions", "execution:e0", "execution:e1")[number % 3]
                    followers.start_soon(follow, number, room)
                    await reached[number * UPDATES // JOINS // 2].wait()
        assert len(started) > 1  # members came while it went on


async def test_a_change_that_cannot_be_told_waits_in_its_order(address: str) -> None:
    async with running_gateway(database=address, store={"lease": 0.5}) as gateway, connected(gateway) as raw:
        await create(gateway, "e1")
        assert (await snapshot(raw, "execution:e1")).data["snapshot"]["version"] == 1
        await raw.settled()
        relay = gateway.operations.executions.relay
        events, tried = relay._events, []

        class Refusing:
            async def publish(self, *arguments: Any, mid: str) -> None:
                tried.append(mid)
                code = ErrorCode.BROKER_UNAVAILABLE if len(tried) % 2 else ErrorCode.OVERLOADED
                raise ProtocolError(code, "not now")

        relay._events = cast(Any, Refusing())
        for number in range(5):
            await update(gateway, "e1", progress=number)
        await until(lambda: len(tried) > 4, "it is tried again")
        relay._events = events
        await update(gateway, "e1", progress=99)
        assert [(await raw.event()).data["version"] for _ in range(6)] == [2, 3, 4, 5, 6, 7]
        await until(lambda: not rows(address, "SELECT * FROM execution_outbox"), "all is told")


FIELDS_OF_C = {"execution_id", "task_name", "display_name", "severity"}


async def test_the_vocabularies_of_other_systems(address: str) -> None:
    wanted = {"vocabularies": ["a", "c"]}
    async with running_gateway(database=address, executions=wanted) as gateway, connected(gateway) as raw:
        await create(gateway, "e1", status="queued", method="research", metadata={"councilor_id": "c7"})
        await update(gateway, "e1", status="running")
        await update(gateway, "e1", progress=50)
        await update(gateway, "e1", status="completed", result={"ok": True}, tools=["search"])
        await create(gateway, "e2")
        await update(gateway, "e2", status="failed", error="no sources")
        heard = [await raw.event() for _ in range(12)]
        assert all(event.room is None for event in heard)
        of: dict[tuple[str, str], Any] = {}
        for event in heard:
            of[str(event.event), event.data["execution_id"]] = event.data
            assert isinstance(catalogue.from_data(event.event or "", event.data), catalogue.TypedEvent)
        start, complete = of["agent:execution:start", "e1"], of["agent:execution:complete", "e1"]
        assert (start["agent_id"], start["method"]) == ("cicero", "research")
        assert complete["tools"] == ["search"] and complete["result"] == {"ok": True}
        assert complete["duration_ms"] >= 0
        assert of["agent:execution:error", "e2"]["error"] == "no sources"
        began, ended = of["councilor_started", "e1"], of["councilor_completed", "e1"]
        assert set(began) >= FIELDS_OF_C | {"councilor_id"} and began["councilor_id"] == "c7"
        assert (ended["success"], ended["severity"]) == (True, "success")
        assert isinstance(ended["duration_ms"], int)
        failed = of["councilor_error", "e2"]
        assert (failed["councilor_id"], failed["success"], failed["error"]) == ("cicero", False, "no sources")
        assert of["agent_execution_completed", "e2"]["success"] is False
        assert set(of["agent_execution_started", "e2"]) >= {"execution_id", "agent_id", "display_name"}


async def test_who_is_not_heard_of_is_ended(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.operations.execution_upkeep._LATEST", 0.25)
    async with two_nodes(address, tmp_path) as nodes, connected(nodes[1]) as raw:
        await raw.ask("join", room="executions")
        for id in ("gone", "alive", "waiting"):
            await create(nodes[0], id, status="queued" if id == "waiting" else "running")
        for _ in range(3):
            await raw.event()
        hour = 3600 * 1000 + 1
        rows(address, f"UPDATE executions SET heartbeat_ms = heartbeat_ms - {hour}")
        await update(nodes[1], "alive")
        ended = {}
        for _ in range(2):
            event = (await raw.event()).data
            ended[event["id"]] = (event["status"], event["error"], event["version"])
        assert ended == dict.fromkeys(("gone", "waiting"), ("failed", "stale", 2))
        await raw.ask("ping")
        assert raw.events == []  # each once, by one of the nodes
        assert (await nodes[0].operations.executions.get(ACME, "alive"))["status"] == "running"
