"""Everything that a backend can ask, with a running gateway: with threads, on asyncio and on Trio."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.client import connect
from gateway.publisher import AsyncPublisher, Refused
from gateway.testing.server import Server
from protocol.events import MessageNew, TaskStarted
from tests.publisher.both import KINDS, open_publisher


@pytest.fixture(params=KINDS)
def publisher(request: pytest.FixtureRequest, server: Server, token: str) -> Iterator[Any]:
    with open_publisher(request.param, server.url, token=token) as publisher:
        yield publisher


@pytest.fixture
def name() -> str:
    """Of a room or a user that no other test knows."""
    return uuid.uuid4().hex


def test_events(publisher: Any, name: str) -> None:
    first = publisher.publish(name, "message:new", {"n": 1}, mid=f"{name}-1", exclude=["bob"])
    assert (first.seq, first.mid) == (1, f"{name}-1")
    assert publisher.publish(name, "message:new", mid=f"{name}-1") == first, "the same id, the same place"
    assert publisher.publish(name, "message:new", {"ü": [1.5, None]}).seq == 2
    assert publisher.broadcast("news", {"x": 1}).seq >= 1
    sent = publisher.send_to_user(name, "hello", 1)
    assert (sent.seq, sent.connections) == (1, 0)
    assert publisher.send_to_user(name, "hello", 1, ephemeral=True).seq is None
    assert set(publisher.send_to_users([name, "x/ü"], "hello")["users"]) == {name, "x/ü"}
    with pytest.raises(Refused) as caught:
        publisher.send_to_connection("nobody", "hello")
    assert (caught.value.status, caught.value.code) == (404, 109)
    results = publisher.batch(
        [
            {"op": "broadcast", "room": name, "event": "x"},
            {"op": "send", "connection": "nobody", "event": "x"},
            {"op": "send", "user": name, "event": "x"},
        ]
    )
    assert [result.error is None for result in results] == [True, False, True]
    assert (results[0].seq, results[1].error.code) == (3, 109)


def test_notifications(publisher: Any, name: str) -> None:
    made = publisher.notify("Ready", "42 rows", user=name, type="success", mid=f"{name}-n")
    assert publisher.notify("Ready", "42 rows", user=name, type="success", mid=f"{name}-n") == made
    assert set(made) == {name}
    assert set(publisher.notify("Ready", "42 rows", users=[name, "bob"])) == {name, "bob"}
    with pytest.raises(ValueError, match="user or users"):
        publisher.notify("Ready", "42 rows")


def test_executions(publisher: Any, name: str) -> None:
    row = publisher.create_execution("writer", id=name, status="running", input={"x": 1})
    assert (row["id"], row["status"], row["version"]) == (name, "running", 1)
    row = publisher.update_execution(name, progress=50, step="half")
    assert row["progress"] == 50
    done = publisher.update_execution(name, status="completed", result=[1], version=row["version"])
    assert done["status"] == "completed"
    with pytest.raises(Refused) as caught:
        publisher.update_execution(name, status="failed")
    assert caught.value.status == 409
    assert caught.value.problem["execution"]["status"] == "completed"
    assert len(publisher.get_execution(name)["updates"]) >= 2
    assert publisher.create_execution("writer")["status"] == "queued"


def test_approvals(publisher: Any, server: Server, name: str) -> None:
    asked = publisher.create_approval("Deploy?", users=[name, "backend"], id=name)
    assert asked["status"] == "pending"
    assert publisher.create_approval("Deploy?", users=[name, "backend"], id=name) == asked
    with pytest.raises(TimeoutError):
        publisher.wait_for_approval(name, timeout=0)
    decided = publisher.decide(name, "approve", comment="go")
    assert decided["decision"]["choice"] == "approve"
    assert publisher.wait_for_approval(name, timeout=60) == decided
    with pytest.raises(Refused) as caught:
        publisher.decide(name, "reject")
    assert (caught.value.status, caught.value.problem["decision"]["user"]) == (409, "backend")
    with pytest.raises(ValueError, match="users or a role"):
        publisher.create_approval("Deploy?")


def test_tokens(publisher: Any, server: Server, name: str) -> None:
    made = publisher.create_token(user=name, rooms={"chat:*": ["join"]}, ttl=600)
    with open_publisher("threads", server.url, token=made.token) as member:
        with pytest.raises(Refused) as caught:
            member.publish("chat:1", "x")
        assert caught.value.status == 403
        publisher.revoke(jti=made.jti)
        with pytest.raises(Refused) as caught:
            member.publish("chat:1", "x")
        assert (caught.value.status, caught.value.code) == (401, 203)


def test_the_queue(publisher: Any, server: Server, name: str) -> None:
    async def listen() -> list[Any]:
        async with connect(server.url, token=server.token(user=name)) as client:
            await client.join(name)
            for number in range(250):
                await asyncio.to_thread(publisher.enqueue, name, "x", number)
            await asyncio.to_thread(publisher.enqueue_to_user, name, "mine", "last")
            async with asyncio.timeout(30):
                return [(await anext(client)).data for _ in range(251)]

    found = asyncio.run(listen())
    assert [each for each in found if each != "last"] == list(range(250))
    publisher.flush(30)
    assert (publisher.waiting, publisher.dropped) == (0, 0)


def test_typed_events(publisher: Any, name: str) -> None:
    place = publisher.emit(MessageNew(text="hello", user="bob"), room=name)
    assert place.seq == 1 and place.mid
    assert publisher.emit(TaskStarted(task_id=name)).seq
    with pytest.raises(ValueError, match="needs a room"):
        publisher.emit(MessageNew(text="hello"))


def test_helpers_of_events(server: Server, token: str, name: str) -> None:
    with open_publisher("threads", server.url, token=token) as publisher:
        assert publisher.emit_message_new(name, text="hello").seq == 1

    async def publish() -> int:
        async with AsyncPublisher(server.url, token=token) as publisher:
            return (await publisher.emit_message_new(name, text="again")).seq

    assert asyncio.run(publish()) == 2
