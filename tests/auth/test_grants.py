"""Permissions by room pattern."""

from __future__ import annotations

import gc
import weakref

import pytest

from gateway.auth import identity
from gateway.auth.identity import PERMISSIONS, Grants, Permission


@pytest.mark.parametrize(
    ("pattern", "room", "matches"),
    [
        ("*", "anything", True),
        ("all", "all", True),
        ("chat:*", "chat:42", True),
        ("chat:*", "chat", False),
        ("chat:42", "chat:42", True),
        ("chat:42", "chat:421", False),
        ("*:admin", "chat:admin", True),
        ("*:admin", "chat:admins", False),
        ("a.c", "abc", False),
    ],
)
def test_patterns_name_rooms(pattern: str, room: str, matches: bool) -> None:
    assert Grants.of({pattern: ["join"]}).allows(room, Permission.JOIN) is matches


def test_every_combination_of_permissions_is_decided_by_its_bits() -> None:
    for granted in range(16):
        names = [name for place, name in enumerate(PERMISSIONS) if granted & 1 << place]
        grants = Grants.of({"room": names})
        for asked in range(16):
            assert grants.allows("room", Permission(asked)) is (granted & asked == asked)


def test_matching_patterns_add_up() -> None:
    grants = Grants.of({"a*": ["join"], "*b": ["publish"], "**": ["history", "presence"]})
    assert grants.allows(
        "ab", Permission.JOIN | Permission.PUBLISH | Permission.HISTORY | Permission.PRESENCE
    )
    assert not grants.allows("ax", Permission.PUBLISH)


def test_all_is_the_name_of_a_room() -> None:
    grants = Grants.of({"all": ["join"]})
    assert grants.allows("all", Permission.JOIN)
    assert not grants.allows("salaries", Permission.JOIN)


@pytest.mark.parametrize(
    ("pattern", "target", "granted"),
    [
        ("*", "user:bob", False),
        ("**", "connection:n1-1", False),
        ("u*", "user:bob", False),
        ("user:*", "user:bob", True),
        ("user:*", "connection:n1-1", False),
        ("user:bob", "user:bob", True),
        ("user:bob", "user:bobby", False),
        ("connection:*", "connection:n1-1", True),
    ],
)
def test_a_star_covers_rooms_only(pattern: str, target: str, granted: bool) -> None:
    assert Grants.of({pattern: ["publish"]}).allows_target(target) is granted
    assert not Grants.of({pattern: ["join", "history"]}).allows_target(target)


def test_only_services_publish_what_became_of_executions() -> None:
    grants = Grants.of({"*": PERMISSIONS, "execution:7": ["publish"]})
    for room in ("executions", "execution:7"):
        assert grants.allows(room, Permission.JOIN)
        assert not grants.allows(room, Permission.PUBLISH)
        assert Grants.ALL.allows(room, Permission.PUBLISH)
    assert grants.allows("executioner", Permission.PUBLISH)
    assert Grants.ALL.allows_target("user:bob")


def test_an_answer_stays_right_when_it_is_remembered() -> None:
    grants = Grants.of({"a*": ["join"]})
    for _ in range(2):
        assert grants.allows("a1", Permission.JOIN)
        assert not grants.allows("b1", Permission.JOIN)


def test_the_memory_of_answers_is_bounded() -> None:
    grants = Grants.of({"room*": ["join"]})
    for number in range(3 * identity.ROOM_CACHE):
        assert grants.allows(f"room{number}", Permission.JOIN)
        assert not grants.allows(f"other{number}", Permission.JOIN)
        assert len(grants._cache) <= identity.ROOM_CACHE


def test_equal_rules_are_one_object_that_ends_with_its_last_user() -> None:
    grants = Grants.of({"only-here:*": ["join", "publish"], "x": []})
    assert Grants.of({"x": [], "only-here:**": ["publish", "join", "join"]}) is grants
    assert Grants.of({"only-here:*": ["join"], "x": []}) is not grants
    gone = weakref.ref(grants)
    del grants
    gc.collect()
    assert gone() is None


def test_unknown_permissions_are_named() -> None:
    with pytest.raises(KeyError, match="dance"):
        Grants.of({"x": ["join", "dance"]})
