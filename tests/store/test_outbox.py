"""What is committed is delivered, whoever dies in between."""

from __future__ import annotations

import trio

from gateway.store import Entry, Store
from tests.store.support import Clock, create, opened, rows
from tests.support import until


async def left(address: str) -> int:
    found = await trio.to_thread.run_sync(rows, address, "SELECT count(*) FROM outbox")
    return int(found[0][0])


async def empties(address: str) -> None:
    with trio.fail_after(60):
        while await left(address):  # noqa: ASYNC110 - the commit that deletes them has no event of its own
            await trio.sleep(0.01)


async def test_an_entry_is_its_nodes_until_its_lease_is_over(address: str, time: Clock) -> None:
    async with opened(address, time, lease=10) as a, opened(address, time, lease=10) as b:
        created = await create(a, "alice", "bob", data={"x": 1}, mid="m")
        assert await b.outbox.claim() == await a.outbox.claim() == []
        time.advance(10.001)
        claimed = await b.outbox.claim()
        assert claimed == created.entries
        assert await a.outbox.claim() == await b.outbox.claim() == []
        # The first owner has lost it, and cannot forget it.
        a.outbox.done([entry.id for entry in created.entries])
        await create(a, "carol")
        assert await left(address) == 3
        b.outbox.done([entry.id for entry in claimed])
        await create(b, "carol")
        assert await left(address) == 2


async def test_what_was_delivered_is_forgotten_without_another_write(address: str) -> None:
    async with opened(address) as store:
        created = await create(store, "alice", "bob")
        assert store.outbox.done([entry.id for entry in created.entries])
        await empties(address)


async def test_what_was_delivered_is_forgotten_at_the_end(address: str) -> None:
    async with opened(address) as store:
        created = await create(store, "alice", "bob")
        store.outbox.done([entry.id for entry in created.entries])
    assert await left(address) == 0


async def test_every_change_is_told_again_as_it_was(address: str, time: Clock) -> None:
    async with opened(address, time) as a, opened(address, time) as b:
        one, two = [(await create(a)).ids["alice"] for _ in range(2)]
        read = await a.notifications.read("acme", "alice", [one])
        everything = await a.notifications.read_all("acme", "alice")
        deleted = await a.notifications.delete("acme", "alice", [one])
        time.advance(11)
        claimed = await b.outbox.claim()
        # The one that was deleted meanwhile is told of by its deletion alone.
        assert [entry.event for entry in claimed] == [
            "notification:new", "notification:read", "notification:read", "notification:deleted",
        ]  # fmt: skip
        assert claimed[0].data["id"] == str(two)
        assert claimed[1:] == [*read.entries, *everything.entries, *deleted.entries]
        b.outbox.done([entry.id for entry in claimed])
        await empties(address)


async def test_three_nodes_claim_each_entry_once(address: str, time: Clock) -> None:
    claimed: list[Entry] = []

    async def sweep(store: Store) -> None:
        while found := await store.outbox.claim(50):
            claimed.extend(found)
            store.outbox.done([entry.id for entry in found])

    async with opened(address, time) as a, opened(address, time) as b, opened(address, time) as c:
        for _ in range(3):
            await create(a, *(f"u{n}" for n in range(500)))
        time.advance(11)
        async with trio.open_nursery() as nursery:
            for store in (a, b, c):
                nursery.start_soon(sweep, store)
        assert len(claimed) == len({entry.id for entry in claimed}) == 1500
        await empties(address)


async def test_a_full_list_of_what_was_delivered_is_told(address: str) -> None:
    async with opened(address) as store:
        answers = [store.outbox.done([n]) for n in range(20_000)]
        assert answers[0] and not answers[-1]
        await until(lambda: store.outbox.done([1]), "room")
