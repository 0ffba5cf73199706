"""Caches keyed by strangers: whatever is put in, they stay bounded, and they never answer wrongly."""

from __future__ import annotations

import functools
import gc
import pkgutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from sys import getsizeof
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import gateway
import protocol
from gateway.auth.identity import Grants, Permission
from gateway.broker.bounds import HistoryBounds
from gateway.broker.channels import room_channel
from gateway.config.settings import HistorySettings, RoomHistory
from protocol.cache import ENTRY_BYTES, FAMILIES, Cache, Census, Family
from protocol.errors import ProtocolError
from protocol.names import check_event, check_room
from protocol.patterns import EventFilter

NOTHING = Census(0, 0, 0)


@contextmanager
def family(**bounds: int) -> Iterator[Family[int]]:
    made = Family[int]("test", **{"max_bytes": 2000, "max_entries": 8, "max_key": 20, **bounds})
    yield made
    FAMILIES.remove(made)


def real(caches: list[Cache[int]]) -> Census:
    filled = [cache for cache in caches if cache]
    size = sum(getsizeof(key) + ENTRY_BYTES for cache in filled for key in cache)
    return Census(len(filled), sum(map(len, filled)), size)


steps = st.lists(st.tuples(st.integers(0, 3), st.text(max_size=25), st.integers()), max_size=80)


@given(steps)
def test_bounds_hold_whatever_is_kept(todo: list[tuple[int, str, int]]) -> None:
    with family() as made:
        caches = [made.new() for _ in range(4)]
        last: dict[tuple[int, str], int] = {}
        for which, key, value in todo:
            caches[which][key] = value
            last[which, key] = value
            assert (key in caches[which]) is (len(key) <= 20), "the newest stays"
            assert made.census() == real(caches)
            assert made.census().bytes == made._bytes <= 2000
            assert max(map(len, caches)) <= 8
        for which, cache in enumerate(caches):
            assert all(last[which, key] == value for key, value in cache.items())
        made.clear()
        assert made.census() == NOTHING == real(caches)


def test_the_cache_that_began_first_gives_way_first() -> None:
    with family(max_bytes=4 * (getsizeof("k1") + ENTRY_BYTES)) as made:
        one, two, three = made.new(), made.new(), made.new()
        one["k1"] = two["k1"] = two["k2"] = three["k1"] = 1
        three["k2"] = 2
        assert (len(one), len(two), len(three)) == (0, 2, 2)
        one["k1"] = 1
        assert (len(one), len(two), len(three)) == (1, 0, 2), "it is the youngest now"


def test_a_cache_that_nobody_has_any_more_counts_no_more() -> None:
    with family() as made:
        cache = made.new()
        cache["a"] = 1
        assert made.census().entries == 1
        del cache
        assert made.census() == NOTHING
        assert made._bytes == 0


def test_a_reference_may_end_before_its_cache() -> None:
    with family(max_bytes=2 * (getsizeof("a") + ENTRY_BYTES)) as made:
        gone, stays = made.new(), made.new()
        gone["a"] = stays["a"] = 1
        dead = made.new()
        made._filled[id(gone)] = weakref.ref(dead)
        del dead
        stays["b"] = 1  # looks for the oldest, and finds its reference dead
        assert sorted(stays) == ["a", "b"]
        assert made._bytes == made.census().bytes


def all_modules() -> Iterator[str]:
    for package in (protocol, gateway):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # Alembic alone can import what its migrations run in.
            if not module.name.endswith("__main__") and ".migrations." not in module.name:
                yield module.name


def test_every_cache_of_the_process_is_a_bounded_one() -> None:
    for name in all_modules():
        import_module(name)
    gc.unfreeze()  # what was imported before the tests began
    statements = ("gateway.store.approval_queries", "gateway.store.executions.queries")  # a few forms of each
    others = {
        f"{each.__module__}.{each.__name__}"
        for each in gc.get_objects()
        if type(each) is functools._lru_cache_wrapper  # of a dead proxy isinstance would ask what it was
        and each.__module__.partition(".")[0] in ("gateway", "protocol")
        and each.__module__ not in statements
    }
    assert others <= {
        "gateway.auth.tokens._roles",  # from tokens that were verified, at most 32 roles of 64 characters
        "gateway.broker.channels.room_channel",  # 4,096 names that were checked
        "gateway.broker.channels._user_channel",  # 4,096 names of at most 256 characters
        "gateway.rest.pages._opened_directly",  # one page of ours
        "gateway.store.queries.page",  # eight forms of one statement
        "gateway.transports.cursor.order_of",  # names that were checked, as many as the next
        "gateway.transports.poll._head",  # lines that say which origins may read, all from the settings
        "gateway.transports.poll._lines",
        "gateway.transports.cursor._begun",  # digests with epochs of ours
        "gateway.config.described._texts",  # the settings' own descriptions, as the next
        "gateway.config.described.describe",
        "protocol.registry.event_type",  # 256 classes of the program
    }
    for each in FAMILIES:
        assert each.max_bytes <= 16 << 20
        assert each.max_key <= 300
    assert len({each.name for each in FAMILIES}) == len(FAMILIES)


def refused(check: Any, name: str) -> None:
    try:
        check(name)
    except ProtocolError:
        return
    raise AssertionError(name[:40])


def test_hostile_names_leave_nothing_in_any_cache() -> None:
    for each in FAMILIES:
        each.clear()
    grants = Grants.of({"chat:*": ["join"], "user:bob": ["publish"]})
    for number in range(50):
        for tail in ("a" * 10_000, "😀" * 10_000, "\0", "*", "é" * 100):
            refused(check_room, f"{number}{tail}")
            refused(check_event, f"{number}{tail}")
            for room in (f"{number}{tail}", f"user:{number}{tail}", f"other:{number}"):
                assert not grants.allows(room, Permission.JOIN)
    assert {each.name: each.census() for each in FAMILIES} == {each.name: NOTHING for each in FAMILIES}


def test_a_flood_of_good_names_stays_within_the_bounds() -> None:
    bounds = HistoryBounds(HistorySettings(patterns={"room*": RoomHistory(messages=1)}))
    grants = [Grants.of({"*": ["join"], f"only:{number}": ["publish"]}) for number in range(100)]
    filters = [EventFilter.of(["room*", f"only:{number}"]) for number in range(100)]
    for number in range(6000):
        name = f"room:{number}:" + "😀" * 20
        assert check_room(name) == check_event(name) == name
        assert bounds.of(room_channel("org", name)).messages == 1
        assert grants[number % 100].allows(name, Permission.JOIN)
        assert grants[number % 100].allows(name * 10, Permission.JOIN), "also when it is not remembered"
        assert filters[number % 100].allows(name)
        if number % 500 == 0:
            for each in FAMILIES:
                assert 0 <= each.census().bytes == each._bytes <= each.max_bytes
    for each in FAMILIES:
        assert each.census().bytes == each._bytes <= each.max_bytes
        assert each.census().entries > 0, "it does remember"
