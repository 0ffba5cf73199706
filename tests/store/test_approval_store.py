"""Approvals in the store: decided once, ended by one node, delivered although a node dies, removed."""

from __future__ import annotations

import random
from typing import Any

import trio

from gateway.store import Asked, Store, Verdict
from protocol.errors import ErrorCode
from tests.store.support import Clock, opened, refused, rows


async def ask(store: Store, *users: str, org: str = "acme", **fields: Any) -> Asked:
    """An approval with what a test does not care about."""
    found: dict[str, Any] = {"title": "Deploy", "choices": ("approve", "reject")} | fields
    if "role" not in found:
        found["users"] = users or ("alice", "bob")
    return await store.approvals.create(org, **found)


async def decide(store: Store, name: str, user: str = "alice", **fields: Any) -> Verdict:
    """What comes of a decision of a user."""
    found: dict[str, Any] = {"choice": "approve", "roles": (), "org": "acme"} | fields
    return await store.approvals.decide(name=name, user=user, **found)


async def test_everything_comes_back_as_it_was_given(address: str, time: Clock) -> None:
    given: dict[str, Any] = {
        "title": "A 'title'", "message": ":m %(x)s", "choices": ["yes", "no", "žlutý"],
        "data": {"n": 2**60, "nul": "\0"}, "fallback": "no", "execution": "x 1", "task": "t", "sender": "ci",
    }  # fmt: skip
    async with opened(address, time) as store:
        asked = await ask(store, name="n", deadline=5.0, **given)
        found = await store.approvals.get("acme", "n")
        assert found == asked.approval and found is not None
        for name, value in given.items():
            assert getattr(found, name) == (tuple(value) if name == "choices" else value)
        assert (found.created_ms, found.deadline_ms) == (time.now, time.now + 5000)
        assert found.users == ("alice", "bob") and found.status == "pending" and found.decision is None
        assert [(entry.event, entry.user) for entry in asked.entries] == [
            ("notification:new", "alice"), ("notification:new", "bob"),
            ("permission:pending", "alice"), ("permission:pending", "bob"),
        ]  # fmt: skip
        assert await store.approvals.get("other", "n") is None


async def test_of_many_answers_on_three_nodes_one_counts(address: str) -> None:
    """Each of 20 approvals is answered on three nodes at once; all learn the same decision."""
    async with opened(address) as a, opened(address) as b, opened(address) as c:
        names = [(await ask(a, "u0", "u1", "u2")).approval.name for _ in range(20)]
        verdicts: dict[str, list[Verdict]] = {name: [] for name in names}

        async def answer(store: Store, name: str, number: int) -> None:
            choice = ("approve", "reject")[number % 2]
            verdicts[name].append(await decide(store, name, f"u{number}", choice=choice))

        tries = [(store, name, number) for name in names for number, store in enumerate((a, b, c))]
        random.Random(7).shuffle(tries)
        async with trio.open_nursery() as nursery:
            for each in tries:
                nursery.start_soon(answer, *each)
        for name, found in verdicts.items():
            assert [verdict.won for verdict in found].count(True) == 1
            (winner,) = [verdict.approval for verdict in found if verdict.won]
            assert [verdict.approval for verdict in found] == [winner] * 3
            assert await b.approvals.get("acme", name) == winner
            assert all(verdict.won or not verdict.entries for verdict in found)
    assert len(rows(address, "SELECT id FROM outbox WHERE event = 'permission:decided'")) == 60
    assert len(rows(address, "SELECT id FROM approval_audit WHERE action = 'decided'")) == 20


async def test_of_three_nodes_one_meets_a_deadline(address: str, time: Clock) -> None:
    async with opened(address, time) as a, opened(address, time) as b, opened(address, time) as c:
        for number in range(120):
            await ask(a, name=f"n{number}", deadline=5.0, fallback="reject" if number % 2 else None)
        assert await b.approvals.settle() == []
        time.advance(5)
        found: list[Verdict] = []

        async def settle(store: Store) -> None:
            while verdicts := await store.approvals.settle():
                found.extend(verdicts)

        async with trio.open_nursery() as nursery:
            for store in (a, b, c):
                nursery.start_soon(settle, store)
        assert sorted(verdict.approval.name for verdict in found) == sorted(f"n{n}" for n in range(120))
        for verdict in found:
            rejected = int(verdict.approval.name[1:]) % 2
            assert verdict.approval.status == ("decided" if rejected else "expired")
            assert verdict.approval.decision == (
                {"choice": "reject", "at": time.now, "fallback": True} if rejected else None
            )
        events = [entry.event for verdict in found for entry in verdict.entries]
        assert events.count("permission:decided") == events.count("notification:deleted") == 240


async def test_an_answer_after_the_deadline_meets_its_fallback(address: str, time: Clock) -> None:
    """Whichever comes first, the answer or the job of the deadline."""
    async with opened(address, time) as store:
        await ask(store, name="n", deadline=5.0, fallback="reject")
        await ask(store, name="in time", deadline=5.001)
        time.advance(5)
        late = await decide(store, "n")
        assert not late.won and late.approval.decision == {
            "choice": "reject", "at": time.now, "fallback": True
        }  # fmt: skip
        assert {entry.event for entry in late.entries} == {"notification:deleted", "permission:decided"}
        assert (await decide(store, "in time")).won
        assert await store.approvals.settle() == []
        again = await decide(store, "n", "bob")
        assert (again.won, again.approval, again.entries) == (False, late.approval, [])


async def test_the_inbox_follows_and_counts(address: str) -> None:
    async with opened(address) as store:
        await store.notifications.create("acme", ["alice"], type="info", title="t", message="m")
        await ask(store, name="n")
        assert await store.notifications.unread_count("acme", "alice") == 2
        page = await store.notifications.list("acme", "bob")
        assert [each.data for each in page.notifications] == [{"approval": "n"}]
        await store.notifications.delete("acme", "bob", [page.notifications[0].id])
        entries = (await decide(store, "n")).entries
        told = [(entry.event, entry.user, entry.data.get("unread")) for entry in entries]
        assert told == [  # bob has deleted his
            ("notification:deleted", "alice", 1),
            ("permission:decided", "alice", None), ("permission:decided", "bob", None),
        ]  # fmt: skip
        assert (await store.notifications.list("acme", "alice")).notifications[0].title == "t"


async def test_what_a_dead_node_left_is_claimed(address: str, time: Clock) -> None:
    """The question is not told any more once it is decided; the decision is, to users and into the room."""
    async with opened(address, time, owner="dead") as dead, opened(address, time) as heir:
        await ask(dead, "alice", name="open", message="m", data=[1])
        await ask(dead, "alice", name="closed", execution="x1", task="t1")
        time.advance(3)
        decided = await decide(dead, "closed", comment="Go")
        assert await heir.outbox.claim() == []
        time.advance(11)
        found = await heir.outbox.claim()
        told = [(entry.event, entry.user, entry.room, entry.data.get("id")) for entry in found]
        assert [(event, user, room) for event, user, room, _ in told] == [
            ("notification:new", "alice", None), ("permission:pending", "alice", None),
            ("notification:deleted", "alice", None),
            ("permission:decided", "alice", None), ("permission:decided", "", "execution:x1"),
            ("task:approved", "alice", None), ("task:approved", "", "execution:x1"),
        ]  # fmt: skip
        assert told[1][3] == "open"
        # As the dead node would have told it: the same ids, times and data.
        assert found[2:] == decided.entries
        heir.outbox.done([entry.id for entry in found])
    assert rows(address, "SELECT * FROM outbox") == []


async def test_the_same_name_answers_as_it_stands(address: str) -> None:
    async with opened(address) as a, opened(address) as b:
        results: list[Asked] = []

        async def again(store: Store) -> None:
            results.append(await ask(store, name="n", data={"by": store.owner}))

        async with trio.open_nursery() as nursery:
            for store in (a, b, a, b, a, b):
                nursery.start_soon(again, store)
        assert len({each.approval.id for each in results}) == 1
        assert sorted(len(each.entries) for each in results) == [0, 0, 0, 0, 0, 4]
        await decide(b, "n")
        later = await ask(a, "carol", name="n", title="Another")
        assert later.approval.status == "decided" and later.entries == []
        assert (await ask(a, name="n", org="other")).entries
    assert len(rows(address, "SELECT id FROM approvals")) == 2


async def test_a_role_is_reached_once_and_up_to_a_bound(address: str) -> None:
    async with opened(address, approvals_reach=3) as a, opened(address, approvals_reach=3) as b:
        asked = await ask(a, role="lead", name="n")
        assert asked.entries == []
        id = asked.approval.id
        entries: list[Any] = []

        async def reach(store: Store) -> None:
            found = await store.approvals.reach(id, ["lea", "max", "lea"])
            assert found is not None
            entries.extend(found.entries)

        async with trio.open_nursery() as nursery:
            for store in (a, b, a, b):
                nursery.start_soon(reach, store)
        assert sorted((entry.event, entry.user) for entry in entries) == [
            ("notification:new", "lea"), ("notification:new", "max"),
            ("permission:pending", "lea"), ("permission:pending", "max"),
        ]  # fmt: skip
        bounded = await a.approvals.reach(id, ["u1", "u2"])
        assert bounded is not None and {entry.user for entry in bounded.entries} == {"u1"}
        await refused(ErrorCode.FORBIDDEN, decide(a, "n", "lea"))  # asked, but without the role now
        decided = await decide(a, "n", "late", roles=("x", "lead"))
        assert {entry.user for entry in decided.entries} == {"lea", "max", "u1"}
        assert await b.approvals.reach(id, ["u3"]) is None


async def test_lists(address: str) -> None:
    async with opened(address) as store:
        for number in range(6):
            who: dict[str, Any] = {"role": "lead"} if number % 3 == 2 else {"users": ("alice",)}
            await ask(store, name=f"n{number}", **who)
        await ask(store, "bob", name="bob's")
        await ask(store, name="theirs", org="other")
        await decide(store, "n0")

        async def names(**asked: Any) -> list[str]:
            found: list[str] = []
            cursor = None
            while True:
                page, cursor = await store.approvals.list("acme", limit=2, cursor=cursor, **asked)
                found += [each.name for each in page]
                if cursor is None:
                    return found

        assert await names() == ["bob's", "n5", "n4", "n3", "n2", "n1", "n0"]
        assert await names(status="pending") == ["bob's", "n5", "n4", "n3", "n2", "n1"]
        assert await names(status="decided") == ["n0"] and await names(status="expired") == []
        assert await names(user="alice") == ["n4", "n3", "n1", "n0"]
        assert await names(user="alice", roles=["lead", "x"], status="pending") == [
            "n5",
            "n4",
            "n3",
            "n2",
            "n1",
        ]
        assert await names(user="carol", roles=["lead"]) == ["n5", "n2"]
        _, cursor = await store.approvals.list("acme", limit=2)
        for other in ({"user": "alice"}, {"status": "pending"}, {"org": "other"}):
            asked: dict[str, Any] = {"org": "acme", "cursor": cursor, **other}
            await refused(ErrorCode.BAD_FIELD, store.approvals.list(**asked))


async def test_bounds(address: str, time: Clock) -> None:
    async with opened(address, time, approvals_open=3) as store:
        for number in range(3):
            await ask(store, name=f"n{number}", deadline=5.0)
        await refused(ErrorCode.TOO_MANY_APPROVALS, ask(store, name="n3"))
        assert not (await ask(store, name="n0")).entries  # known: no new one
        await ask(store, org="other")
        await decide(store, "n1")
        await ask(store, name="n3")
        await refused(ErrorCode.TOO_MANY_APPROVALS, ask(store, name="n4"))
    async with opened(address, time, approvals_open_bytes=2000) as store:
        await ask(store, org="third", message="x" * 1000)
        await refused(ErrorCode.TOO_MANY_APPROVALS, ask(store, org="third", message="x" * 1000))
    assert rows(address, "SELECT name FROM approvals WHERE name = 'n4'") == []


async def test_what_is_old_is_removed(address: str, time: Clock) -> None:
    day = 86400
    async with opened(address, time, notifications_keep=1000.0) as store:
        for number in range(3):
            await ask(store, name=f"n{number}", deadline=20.0 * day)
        await decide(store, "n0")
        time.advance(19 * day)
        await decide(store, "n1")
        time.advance(12 * day)
        await store.approvals.settle()
        await store.retain()
        assert sorted(rows(address, "SELECT name FROM approvals")) == [("n1",), ("n2",)]
        kept = "SELECT id FROM approvals"
        for table in ("approval_users", "approval_audit"):
            assert rows(address, f"SELECT approval FROM {table} WHERE approval NOT IN ({kept})") == []
        assert len(rows(address, "SELECT approval FROM approval_users")) == 4
        assert (await ask(store, name="n0")).entries  # a new one


async def test_refusals_leave_nothing(address: str) -> None:
    async with opened(address) as store:
        await ask(store, name="n")
        before = rows(address, "SELECT * FROM outbox"), rows(address, "SELECT * FROM approval_audit")
        await refused(ErrorCode.NOT_FOUND, decide(store, "other"))
        await refused(ErrorCode.NOT_FOUND, decide(store, "n", org="other"))
        await refused(ErrorCode.FORBIDDEN, decide(store, "n", "carol"))
        await refused(ErrorCode.FORBIDDEN, decide(store, "n", "carol", roles=("alice", "service")))
        await refused(ErrorCode.BAD_FIELD, decide(store, "n", choice="maybe"))
        await refused(ErrorCode.BAD_FIELD, decide(store, "n", comment="half \ud800"))
        await refused(ErrorCode.BAD_FIELD, ask(store, title="nul \0"))
        await refused(ErrorCode.BAD_FIELD, ask(store, data=object()))
        found = await store.approvals.get("acme", "n")
        assert found is not None and found.status == "pending"
        assert before == (
            rows(address, "SELECT * FROM outbox"),
            rows(address, "SELECT * FROM approval_audit"),
        )


async def test_the_pulse(address: str, time: Clock) -> None:
    async with opened(address, time) as store:
        assert (await store.approvals.pulse([1, 2], 10)).deadline_ms is None
        first = (await ask(store, name="a", deadline=9.0)).approval
        second = (await ask(store, name="b", role="lead", deadline=5.0)).approval
        pulse = await store.approvals.pulse([first.id, second.id], 10)
        assert (pulse.now_ms, pulse.deadline_ms, pulse.closed) == (time.now, time.now + 5000, [])
        assert pulse.roles == [(second.id, "acme", "lead")]
        await decide(store, "b", roles=["lead"])
        pulse = await store.approvals.pulse([first.id, second.id], 10)
        assert (pulse.deadline_ms, pulse.closed, pulse.roles) == (time.now + 9000, [second.id], [])
