"""Notifications: what is created is listed, counted, read, deleted, expires and is removed."""

from __future__ import annotations

import pytest
import trio

from gateway.store import Store
from protocol.errors import ErrorCode
from tests.store.support import Clock, create, opened, refused, rows


async def titles(store: Store, user: str = "alice", **filters: object) -> list[str]:
    page = await store.notifications.list("acme", user, **filters)  # type: ignore[arg-type]
    return [each.title for each in page.notifications]


async def test_everything_comes_back_as_it_was_given(address: str, time: Clock) -> None:
    data = {"n": 2**60, "text": "žlutý \u2028 'quoted' :x ? %s", "nul": "\0", "nested": [None, {"a": 1.5}]}
    action = {"type": "link", "label": "Open", "payload": {"id": 7}}
    async with opened(address, time) as store:
        created = await create(
            store, "alice", type="warning", title="A 'title'", message=":m %(x)s", data=data, action=action,
            sender="billing", expires_ms=time.now + 1000, mid="m1",
        )  # fmt: skip
        (found,) = (await store.notifications.list("acme", "alice")).notifications
    assert (found.id, found.mid, found.type, found.sender) == (
        created.ids["alice"],
        "m1",
        "warning",
        "billing",
    )
    assert (found.title, found.message, found.data, found.action) == ("A 'title'", ":m %(x)s", data, action)
    assert (found.created_ms, found.expires_ms, found.read_ms) == (time.now, time.now + 1000, None)
    (entry,) = created.entries
    assert entry.data == found.as_data() and entry.data["id"] == str(found.id)
    assert (entry.event, entry.org, entry.user, entry.mid) == ("notification:new", "acme", "alice", "m1")


async def test_the_list_is_newest_first_and_pages_do_not_move(address: str) -> None:
    async with opened(address) as store:
        ids = [(await create(store, title=str(n))).ids["alice"] for n in range(7)]
        assert ids == sorted(ids)
        await store.notifications.read("acme", "alice", ids[1:4])
        first = await store.notifications.list("acme", "alice", limit=3)
        await create(store, title="later")
        second = await store.notifications.list("acme", "alice", limit=3, cursor=first.next)
        third = await store.notifications.list("acme", "alice", limit=3, cursor=second.next)
        pages = [[each.title for each in page.notifications] for page in (first, second, third)]
        assert pages == [["6", "5", "4"], ["3", "2", "1"], ["0"]]
        assert third.next is None
        exactly = await store.notifications.list("acme", "alice", limit=8)
        assert len(exactly.notifications) == 8 and exactly.next is None


async def test_filters(address: str) -> None:
    async with opened(address) as store:
        for type_ in ("info", "error", "info", "error"):
            created = await create(store, title=type_, type=type_)
        await store.notifications.read("acme", "alice", created.ids.values())
        assert await titles(store, type="error") == ["error", "error"]
        assert await titles(store, type="error", unread=True) == ["error"]
        assert await titles(store, unread=True) == ["info", "error", "info"]


async def test_a_cursor_of_another_list_is_refused(address: str) -> None:
    async with opened(address) as store:
        for _ in range(3):
            await create(store, "alice", "bob")
        listed = store.notifications.list
        cursor = (await listed("acme", "alice", limit=1)).next
        assert cursor is not None
        others: list[dict[str, object]] = [
            {"user": "bob"}, {"org": "other"}, {"unread": True}, {"type": "info"}, {"cursor": "x"},
            {"cursor": ""}, {"cursor": cursor[:-1]}, {"cursor": "f" * 16 + cursor[-9:]},
            {"cursor": "9" * 5000},
        ]  # fmt: skip
        for other in others:
            asked: dict[str, object] = {"org": "acme", "user": "alice", "cursor": cursor} | other
            await refused(ErrorCode.BAD_FIELD, listed(**asked))  # type: ignore[arg-type]


async def test_users_and_organisations_do_not_see_each_other(address: str) -> None:
    async with opened(address) as store:
        mine = (await create(store, "alice")).ids["alice"]
        await create(store, "alice", org="other")
        for org, user in (("acme", "bob"), ("other", "alice")):
            assert (await store.notifications.read(org, user, [mine])).ids == []
            assert (await store.notifications.delete(org, user, [mine])).ids == []
        assert await titles(store) == ["Hello"]
        assert await store.notifications.unread_count("acme", "alice") == 1
        assert await store.notifications.unread_count("acme", "bob") == 0


async def test_the_same_mid_answers_as_the_first_time(address: str) -> None:
    async with opened(address) as store:
        first = await create(store, "alice", "bob", mid="m", title="first")
        again = await create(store, "alice", "bob", mid="m", title="again")
        assert again.ids == first.ids and again.entries == []
        assert await titles(store) == ["first"]
        assert (await create(store, "alice", mid="m", org="other")).ids != first.ids
        await store.notifications.delete("acme", "alice", [first.ids["alice"]])
        assert (await create(store, "alice", mid="m")).ids["alice"] == first.ids["alice"]
        assert await titles(store) == []


async def test_the_same_mid_at_the_same_time_by_two_nodes(address: str) -> None:
    found: list[dict[str, int]] = []
    told = 0

    async def one(store: Store) -> None:
        nonlocal told
        created = await create(store, "alice", mid="m")
        found.append(created.ids)
        told += len(created.entries)

    async with opened(address) as a, opened(address) as b, trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(one, (a, b)[number % 2])
    assert all(ids == found[0] for ids in found) and len(found) == 40
    assert told == 1
    assert rows(address, "SELECT count(*) FROM notifications")[0][0] == 1
    assert rows(address, "SELECT count(*) FROM outbox")[0][0] == 1


async def test_reading(address: str, time: Clock) -> None:
    async with opened(address, time) as store:
        ids = [(await create(store)).ids["alice"] for _ in range(3)]
        changed = await store.notifications.read("acme", "alice", [ids[0], ids[0], 5, -1, 2**70])
        assert (changed.ids, changed.unread, changed.count) == ([ids[0]], 2, 1)
        (entry,) = changed.entries
        assert (entry.event, entry.data) == ("notification:read", {"ids": [str(ids[0])], "unread": 2})
        again = await store.notifications.read("acme", "alice", [ids[0]])
        assert (again.ids, again.unread, again.entries) == ([], 2, [])
        page = await store.notifications.list("acme", "alice")
        assert [each.read_ms for each in page.notifications] == [None, None, time.now]


async def test_reading_all(address: str) -> None:
    async with opened(address, group=500) as store:
        async with trio.open_nursery() as nursery:
            for number in range(25):
                users = [f"u{number}-{n}" for n in range(99)] + ["alice"]
                nursery.start_soon(lambda users=users: create(store, *users))
        rows(
            address,
            "UPDATE notifications SET mid = mid || user_id, user_id = 'many' WHERE user_id <> 'alice'",
        )
        assert await store.notifications.unread_count("acme", "many") == 1000  # counted no further
        changed = await store.notifications.read_all("acme", "many")
        assert (changed.count, changed.unread) == (25 * 99, 0)
        (entry,) = changed.entries
        assert entry.event == "notification:read" and entry.data["all"] is True
        assert await store.notifications.unread_count("acme", "alice") == 25
        nothing = await store.notifications.read_all("acme", "many")
        assert (nothing.count, nothing.entries) == (0, [])


async def test_deleting(address: str) -> None:
    async with opened(address) as store:
        ids = [(await create(store, title=str(n))).ids["alice"] for n in range(3)]
        await store.notifications.read("acme", "alice", [ids[0]])
        changed = await store.notifications.delete("acme", "alice", ids[:2])
        assert (changed.ids, changed.unread) == (ids[:2], 1)
        (entry,) = changed.entries
        assert (entry.event, entry.data["ids"]) == ("notification:deleted", [str(id) for id in ids[:2]])
        assert (await store.notifications.delete("acme", "alice", ids[:2])).entries == []
        assert await titles(store) == ["2"]


async def test_what_is_expired_is_not_there(address: str, time: Clock) -> None:
    async with opened(address, time) as store:
        ids = (await create(store, expires_ms=time.now + 5000)).ids
        await create(store, title="stays")
        assert await store.notifications.unread_count("acme", "alice") == 2
        time.advance(5)
        assert await titles(store) == await titles(store, unread=True) == ["stays"]
        assert await store.notifications.unread_count("acme", "alice") == 1
        assert (await store.notifications.read("acme", "alice", ids.values())).ids == []
        assert await store.retain() == 1
        assert rows(address, "SELECT title FROM notifications") == [("stays",)]


async def test_what_is_old_is_removed_by_one_node_at_a_time(address: str, time: Clock) -> None:
    day = 86400
    async with opened(address, time) as a, opened(address, time) as b:
        for _ in range(3):
            await create(a, *(f"u{n}" for n in range(400)))
        time.advance(10 * day)
        await create(a, title="young")
        time.advance(21 * day)
        assert await a.retain() == 1200
        assert await b.retain() is None
        assert await a.retain() == 0
        time.advance(61)  # the other one's turn
        assert await b.retain() == 0
        assert await a.retain() is None
        assert rows(address, "SELECT title FROM notifications") == [("young",)]


@pytest.mark.parametrize("fields", [
    {"type": "fatal"}, {"title": "nul \0"}, {"message": "half \ud800"}, {"mid": "\0"}, {"sender": "\0"},
    {"data": {"half": "\ud800"}}, {"data": object()}, {"action": {"x": {1, 2}.__iter__()}},
    {"expires_ms": 1_760_000_000_000}, {"expires_ms": 2**80}, {"expires_ms": -5},
])  # fmt: skip
async def test_bad_fields_are_refused_and_leave_nothing(
    address: str, time: Clock, fields: dict[str, object]
) -> None:
    async with opened(address, time) as store:
        await refused(ErrorCode.BAD_FIELD, create(store, **fields))
        await refused(ErrorCode.BAD_FIELD, store.notifications.list("acme", "a\0"))
        await refused(ErrorCode.BAD_FIELD, store.notifications.list("acme", "a", limit=501))
        await refused(ErrorCode.BAD_FIELD, store.notifications.unread_count("a\ud800", "a"))
    assert rows(address, "SELECT * FROM notifications") == []


async def test_the_number_of_users_is_bounded(address: str) -> None:
    async with opened(address) as store:
        many = [f"u{n}" for n in range(1001)]
        await refused(ErrorCode.BAD_FIELD, create(store, *many))
        with pytest.raises(Exception, match="users"):
            await store.notifications.create("acme", [], type="info", title="", message="")
        created = await create(store, *many[:1000], many[0])
        assert len(created.ids) == len(set(created.ids.values())) == len(created.entries) == 1000
