"""Counts of large organisations: bounded, and made in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from gateway.app import Gateway
from gateway.hub import statistics
from gateway.hub.organisation import OrganisationTotals, Retired
from protocol.patterns import EventFilter
from tests.hub.lines import Lines, Node
from tests.support import all_connected, connected, running_gateway


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with running_gateway() as made:
        yield made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_PIECE", 2)
    monkeypatch.setattr(statistics, "_DESCRIBED", 2)
    monkeypatch.setattr(statistics, "MAX_LISTED", 4)


@pytest.mark.usefixtures("small")
async def test_pages_of_rooms_are_the_listing_in_parts(gateway: Gateway) -> None:
    async with connected(gateway, user="alice") as alice, connected(gateway, user="bob") as bob:
        for number in (3, 1, 4, 15, 9, 2, 6):
            await alice.ask("join", room=f"r{number}")
        await bob.ask("join", room="r4")
        everything = gateway.hub.statistics.rooms("acme")
        names = [room["room"] for room in everything]
        assert names == sorted(names) and len(names) == 7
        assert [(each["members"], each["users"]) for each in everything if each["room"] == "r4"] == [(2, 2)]
        found, after = [], None
        while page := await gateway.hub.statistics.page_of_rooms("acme", after, 3):
            assert len(page) <= 3 and page == gateway.hub.statistics.rooms("acme", after, 3)
            found += page
            after = page[-1]["room"]
        assert found == everything
        assert await gateway.hub.statistics.page_of_rooms("nobody", None, 3) == []


@pytest.mark.usefixtures("small")
async def test_pages_of_connections_are_the_listing_in_parts(gateway: Gateway) -> None:
    users = ["a", "b", "c", "a", "e", "a", "g"]
    async with all_connected(gateway, users) as clients:
        for client in clients[:5]:
            await client.ask("join", room="r")
        count = gateway.hub.statistics
        everything = count.connections("acme", None, None, None, 100)
        ages = [(each["connected_at"], each["connection"]) for each in everything]
        assert ages == sorted(ages) and len(ages) == 7
        assert len(await count.page_of_connections("acme", "a", None, None, 100)) == 3
        assert len(await count.page_of_connections("acme", "a", "r", None, 100)) == 2
        found: list[dict[str, Any]] = []
        after: tuple[int, str] | None = None
        while page := await count.page_of_connections("acme", None, None, after, 3):
            assert len(page) <= 3
            found += page
            after = page[-1]["connected_at"], page[-1]["connection"]
        assert found == everything
        assert await count.page_of_connections("nobody", None, None, None, 3) == []


@pytest.mark.usefixtures("small")
async def test_the_counts_name_the_largest_rooms_only(gateway: Gateway) -> None:
    async with connected(gateway, user="alice") as alice, connected(gateway, user="bob") as bob:
        for number in range(9):
            await alice.ask("join", room=f"r{number}")
        for room in ("r2", "r7"):
            await bob.ask("join", room=room)
        rooms = (await bob.ask("stats")).data["rooms"]
        assert len(rooms) == 4 and rooms["r2"] == rooms["r7"] == 2
        assert list(rooms) == sorted(rooms)
        assert gateway.hub.statistics.of(None)["rooms"] == 9


@pytest.mark.usefixtures("small")
async def test_others_get_their_turn_while_it_is_counted(node: Node) -> None:
    for number in range(9):
        _, connection = await node.connect(f"user{number}", Lines())
        await node.hub.join(connection, f"r{number}", events=EventFilter.ALL)
    turns = 0
    finished = False

    async def others() -> None:
        nonlocal turns
        while not finished:
            turns += 1
            await trio.lowlevel.checkpoint()
            # Members that come meanwhile are no fault, whether they are counted or not.
            _, connection = await node.connect(f"late{turns}", Lines())
            await node.hub.join(connection, f"late{turns}", events=EventFilter.ALL)
            node.hub.disconnected(connection, 1000)

    for ask in (
        lambda: node.hub.statistics.count("acme"),
        lambda: node.hub.statistics.count(None),
        lambda: node.hub.statistics.page_of_rooms("acme", None, 100),
        lambda: node.hub.statistics.page_of_connections("acme", None, None, None, 100),
    ):
        turns, finished = 0, False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            await ask()
            finished = True
        assert turns > 2


def test_totals_of_organisations_that_have_gone_are_bounded_in_bytes() -> None:
    retired = Retired()
    for number in range(30_000):
        totals = OrganisationTotals()
        totals.connects = number
        retired.keep(f"{number:0190}", totals)
    assert retired.bytes <= Retired.MAX_BYTES
    assert 1000 < len(retired) < 10_000
    assert retired.get(f"{0:0190}") is None
    last = retired.take(f"{29_999:0190}")
    assert last is not None and last.connects == 29_999
    for number in range(30_000):
        retired.take(f"{number:0190}")
    assert (len(retired), retired.bytes) == (0, 0)
