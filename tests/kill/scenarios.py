"""What is done while a node or a backend dies, and what must be true afterwards.

In each the node that dies is asked until it does. What it acknowledged must stand; whoever got no answer asks
the other node again, as clients do; and in the end everything has happened once, and was told at least once,
under one ``mid`` and in order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final

import pytest
import trio
import trio_websocket

from protocol.errors import ErrorCode
from tests.kill.mortal_backends import BACKEND
from tests.kill.site import LOOK, PATIENCE, Site
from tests.kill.steps import CALL, CHANGE, SETTLED
from tests.support import connected, until

__all__ = ["ALL", "Scenario"]

Scenario = Callable[[Site], Awaitable[None]]
REPORTS: Final[tuple[dict[str, Any], ...]] = (
    {"status": "running"},
    {"progress": 50.0, "step": "half", "tools": ["search"]},
    {"status": "completed", "result": {"pages": 3}, "progress": 100.0},
)
LAST: Final = len(REPORTS) + 1


async def execution(step: str, nth: int, site: Site) -> None:
    """Created, reported and finished; the node dies at its ``nth`` change, or the one after."""
    id = site.name()
    new = {"id": id, "agent": id, "team": "t"}
    rooms = ("executions", f"execution:{id}")
    async with site.follower("alice", *rooms) as alice:
        victim = await site.victim(step, nth)
        known = await site.try_to(victim, "POST", "/executions", new)
        for body in REPORTS if known else ():
            row = await site.try_to(victim, "PATCH", f"/executions/{id}", body)
            if row is None:
                break
            known = row
        await site.nodes.ended(victim)  # at the latest when the last change is told
        stored = _whole(site, id)
        assert stored >= (known["version"] if known else 0)
        if known and stored == known["version"]:
            assert (
                await site.ask(site.survivor.port, "GET", f"/executions/{id}")
            ).json().items() >= known.items()
        if not stored:
            assert (await site.ask(site.survivor.port, "POST", "/executions", new)).status_code == 201
            stored = 1
        for version in range(stored, LAST):
            body = {**REPORTS[version - 1], "version": version}
            response = await site.ask(site.survivor.port, "PATCH", f"/executions/{id}", body)
            assert response.json()["version"] == version + 1, response.text
        assert _whole(site, id) == LAST

        def complete() -> bool:
            return all(len(alice.of("execution:updated", room)) >= LAST for room in rooms)

        await alice.hears(complete)
        for room in rooms:
            told = alice.of("execution:updated", room)
            assert [row["version"] for row in told] == list(range(1, LAST + 1)), told
        assert alice.of("execution:updated", rooms[0]) == alice.of("execution:updated", rooms[1])
        await _all_told(site)


async def stale(step: str, site: Site) -> None:
    """Ended by a node that dies of it."""
    id = site.name()
    room = f"execution:{id}"
    async with site.follower("alice", room) as alice:
        body = {"id": id, "agent": id, "status": "running"}
        assert (await site.ask(site.survivor.port, "POST", "/executions", body)).status_code == 201
        await alice.hears(lambda: alice.heard)
        site.held = True
        try:
            victim = await site.victim(step, look=LOOK)
            site.rows(f"UPDATE executions SET heartbeat_ms = 0 WHERE id = '{id}'")
            await site.nodes.ended(victim)
        finally:
            site.held = False
        await alice.hears(lambda: len(alice.heard) > 1)
        (row,) = alice.of("execution:updated", room)[1:]
        assert (row["status"], row["error"], row["version"]) == ("failed", "stale", 2)
        assert _whole(site, id) == 2
        await _all_told(site)


def _whole(site: Site, id: str) -> int:
    """The version that is stored, of which nothing is half done."""
    found = site.rows(f"SELECT number, version, status FROM executions WHERE id = '{id}'")
    if not found:
        return 0
    ((number, version, status),) = found
    updates = site.rows(f"SELECT version FROM execution_updates WHERE number = {number} ORDER BY version")
    assert [each.version for each in updates] == list(range(1, version + 1))
    one = f"agent = '{id}' AND team = '' AND method = '' AND status = '{status}'"
    counted = site.rows(f"SELECT n FROM execution_days WHERE {one}")
    assert [each.n for each in counted] == ([1] if status in ("completed", "failed") else [])
    return int(version)


async def _all_told(site: Site) -> None:
    def told() -> bool:
        return not site.rows("SELECT 1 FROM execution_outbox UNION ALL SELECT 1 FROM outbox")

    await until(told, "all is told")


ASKED: Final = ("alice", "bob")


async def approval(step: str, nth: int, site: Site) -> None:
    """Asked and decided; the node dies at one of the two, and both are repeated elsewhere."""
    id = site.name()
    body = {"id": id, "users": [*ASKED], "title": "Deploy", "execution": id, "task": f"t-{id}"}
    choice, other = {"choice": "approve", "comment": "Go"}, {"choice": "reject"}
    async with site.follower("alice", f"execution:{id}") as alice:
        victim = await site.victim(step, nth)
        asked = await site.try_to(victim, "POST", "/approvals", body)
        decided = asked and await site.try_to(victim, "POST", f"/approvals/{id}/decide", choice, user="alice")
        await site.nodes.ended(victim)
        assert not asked or site.rows(f"SELECT 1 FROM approvals WHERE name = '{id}'")
        again = await site.ask(site.survivor.port, "POST", "/approvals", body)
        assert again.status_code == 201, again.text
        _asked_once(site, id)
        answers = [
            await site.ask(site.survivor.port, "POST", f"/approvals/{id}/decide", wanted, user=user)
            for wanted, user in ((choice, "alice"), (other, "bob"))
        ]
        assert answers[0].status_code in ((409,) if decided else (200, 409)) and answers[1].status_code == 409
        found = [each.json().get("decision") for each in answers]
        assert found[0] == found[1] and (found[0]["user"], found[0]["choice"]) == ("alice", "approve")
        assert not decided or decided["decision"] == found[0]
        await _decided_once(site, id, alice, "decided", task=True)


async def deadline(step: str, site: Site) -> None:
    """A deadline is over, and the node that decides so dies of it."""
    id = site.name()
    body = {"id": id, "users": [*ASKED], "title": "Deploy", "deadline": 0.05, "fallback": "reject"}
    async with site.follower("alice", f"execution:{id}") as alice:
        site.held = True
        try:
            victim = await site.victim(step, nth=1)
            await site.ask(site.survivor.port, "POST", "/approvals", {**body, "execution": id})
            await site.nodes.ended(victim)
        finally:
            site.held = False
        waited = (await site.ask(site.survivor.port, "GET", f"/approvals/{id}?wait=30")).json()
        assert (waited["decision"]["fallback"], waited["decision"]["choice"]) == (True, "reject")
        late = await site.ask(
            site.survivor.port, "POST", f"/approvals/{id}/decide", {"choice": "approve"}, user="bob"
        )
        assert (late.status_code, late.json()["decision"]) == (409, waited["decision"])
        _asked_once(site, id)
        await _decided_once(site, id, alice, "fallback", task=False)


def _asked_once(site: Site, name: str) -> None:
    ((id,),) = site.rows(f"SELECT id FROM approvals WHERE name = '{name}'")
    items = site.rows(f"SELECT user_id FROM notifications WHERE mid = 'approval-{id}' ORDER BY user_id")
    assert [each.user_id for each in items] == [*ASKED]
    asked = site.rows(f"SELECT user_id FROM approval_users WHERE approval = {id} ORDER BY user_id")
    assert [each.user_id for each in asked] == [*ASKED]
    notes = site.rows(f"SELECT 1 FROM approval_audit WHERE approval = {id} AND action = 'created'")
    assert len(notes) == 1


async def _decided_once(site: Site, name: str, alice: Any, how: str, *, task: bool) -> None:
    room = f"execution:{name}"
    wanted = ["permission:decided", *(["task:approved"] if task else [])]

    def complete() -> bool:
        places = all(alice.of(event, place) for event in wanted for place in (None, room))
        return places and bool(alice.of("notification:deleted"))

    await alice.hears(complete)
    await _all_told(site)
    for event in [*wanted, "notification:deleted"]:
        for place in (None,) if event == "notification:deleted" else (None, room):
            assert len(alice.of(event, place)) == 1, (event, place)
    assert len(alice.of("notification:new")) <= 1 and len(alice.of("permission:pending")) <= 1
    ((id,),) = site.rows(f"SELECT id FROM approvals WHERE name = '{name}'")
    notes = site.rows(f"SELECT action FROM approval_audit WHERE approval = {id} AND action <> 'created'")
    assert [each.action for each in notes] == [how]
    left = site.rows(f"SELECT 1 FROM notifications WHERE mid = 'approval-{id}' AND deleted_ms IS NULL")
    assert left == []


async def call_of_a_node(step: str, site: Site) -> None:
    """The node that forwards it dies; its client repeats it at the other, where it is answered."""
    taken, gone = site.backends.called, site.backends.left
    before = len(taken)
    forwarded = step == "forwarded"
    backend = await site.backends.start("silent" if forwarded else "none")
    victim = await site.victim(step)
    token = site.survivor.auth.issue(org="acme", user="carol").token
    async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{victim.port}/ws?token={token}") as ws:
        await ws.get_message()
        await ws.send_message('{"v":1,"t":"call","id":1,"event":"once:pay","data":{}}')
        if forwarded:
            await site.backends.until(lambda: len(taken) > before)
            await site.nodes.kill(victim)
        with trio.fail_after(PATIENCE), pytest.raises(trio_websocket.ConnectionClosed):
            await ws.get_message()
    await trio.aclose_forcefully(ws._stream)  # trio-websocket leaves it to the garbage collector
    await site.nodes.ended(victim)
    assert len(taken) - before == (step != "accepted")
    if forwarded:
        await site.backends.until(lambda: taken[-1] in gone)  # the backend learns that nobody waits
        await site.backends.kill(backend)
        backend = await site.backends.start("none")
    async with connected(site.survivor, user="carol") as raw:
        answer = await raw.ask("call", event="once:pay")
        assert answer.t == "reply" and answer.data == {"id": taken[-1]}, answer
    assert len(set(taken[before:])) == len(taken) - before
    await site.backends.kill(backend)


async def call_of_a_backend(step: str, pattern: str, site: Site) -> None:
    """The backend dies; only one that is idempotent is asked again, under the same id."""
    taken = site.backends.called
    before = len(taken)
    site.kills += 1
    first = await site.backends.start(step)
    async with connected(site.survivor, user="carol") as raw, trio.open_nursery() as nursery:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await raw.ask("call", event=f"{pattern}:pay"))

        nursery.start_soon(ask)
        await site.backends.ended(first)
        backend = await site.backends.start("none")
    (answer,) = answers
    if pattern == "again":
        assert answer.t == "reply" and answer.data == {"id": taken[-1]}, answer
        assert set(taken[before:]) == {taken[-1]}
    else:
        assert answer.code == ErrorCode.INTERNAL, answer
        assert len(taken) - before == (step != "taken")
    async with connected(site.survivor, user="carol") as raw:
        assert (await raw.ask("call", event=f"{pattern}:pay")).t == "reply"
    await site.backends.kill(backend)


def _every() -> Iterator[tuple[str, Scenario]]:
    for step in CHANGE:
        for nth in range(1, LAST + 1):
            yield f"execution, change {nth} {step}", partial(execution, step, nth)
        for nth, what in ((1, "question"), (2, "answer")):
            yield f"approval, {what} {step}", partial(approval, step, nth)
    for step in SETTLED:
        yield f"stale, {step}", partial(stale, step)
        yield f"deadline, {step}", partial(deadline, step)
    for step in CALL:
        yield f"call, {step}", partial(call_of_a_node, step)
    for step in BACKEND:
        for pattern in ("once", "again"):
            yield f"call, backend {step}, {pattern}", partial(call_of_a_backend, step, pattern)


ALL: Final = dict(_every())
"""Each step of each of them."""
