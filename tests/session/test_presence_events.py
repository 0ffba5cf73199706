"""Joins and leaves as events: who asked for it with ``join`` is told when a user comes and goes."""

from __future__ import annotations

from gateway.app import Gateway
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import ErrorCode
from protocol.json import JSON
from tests.support import Raw, connected


async def watching(raw: Raw, room: str = "r") -> list[str]:
    """Join with presence; returns who was there."""
    reply = await raw.ask("join", room=room, data={"presence": True})
    assert reply.t == "reply", reply
    users = reply.data["users"]
    assert isinstance(users, list)
    return users


def told(messages: list[Envelope]) -> list[tuple[str | None, str | None, str]]:
    """Room, event and user of each presence message; there must be no other."""
    assert all(message.t == "presence" and message.ts and message.seq is None for message in messages)
    return [(message.room, message.event, message.data["user"]) for message in messages]


async def test_a_user_joins_with_the_first_connection_and_leaves_with_the_last(
    gateway: Gateway, codec: Codec
) -> None:
    async with connected(gateway, codec=codec) as alice:
        assert await watching(alice) == ["alice"]
        async with connected(gateway, user="bob") as first:
            async with connected(gateway, user="bob") as second:
                await first.ask("join", room="r")
                await second.ask("join", room="r")
                assert told([await alice.receive()]) == [("r", "join", "bob")]
                await second.ask("leave", room="r")
                assert await alice.settled() == []
                await second.ask("join", room="r")
            await first.ask("leave", room="r")
            assert told([await alice.receive()]) == [("r", "leave", "bob")]
            await first.ask("join", room="r")
            assert told([await alice.receive()]) == [("r", "join", "bob")]
        assert told([await alice.receive()]) == [("r", "leave", "bob")]
        assert await alice.settled() == []


async def test_the_reply_says_who_is_there_and_only_later_changes_follow(gateway: Gateway) -> None:
    async with connected(gateway, user="bob") as bob, connected(gateway, user=None) as nobody:
        await bob.ask("join", room="r")
        await nobody.ask("join", room="r")
        async with connected(gateway) as alice:
            assert await watching(alice) == ["alice", "bob"]
            assert await alice.settled() == []
            await nobody.ask("leave", room="r")  # without a user there is nobody to tell of
            async with connected(gateway, user="carol") as carol:
                assert await watching(carol) == ["alice", "bob", "carol"]
                assert told(await alice.settled()) == [("r", "join", "carol")]
                await bob.ask("leave", room="r")
                expected = [("r", "leave", "bob")]
                assert told([await alice.receive()]) == told([await carol.receive()]) == expected


async def test_who_did_not_ask_or_asks_no_more_is_not_told(gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway, user="bob") as bob:
        await alice.ask("join", room="r")
        await bob.ask("join", room="r")
        assert await alice.settled() == []
        assert await watching(alice) == ["alice", "bob"]
        assert "users" not in ((await alice.ask("join", room="r")).data or {})
        await bob.ask("leave", room="r")
        assert await alice.settled() == []
        assert not gateway.hub.presence._watchers
    assert not gateway.hub.presence._here


async def test_no_other_room_and_no_other_organisation_hears_of_it(gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway, org="other") as other:
        await watching(alice)
        await watching(other)
        async with connected(gateway, user="bob") as bob:
            await bob.ask("join", room="s")
        assert await alice.settled() == await other.settled() == []


async def test_presence_must_be_permitted(gateway: Gateway) -> None:
    rooms = {"*": ["join"]}
    async with connected(gateway, rooms=rooms) as alice:
        refused = await alice.ask("join", room="r", data={"presence": True})
        assert (refused.t, refused.code) == ("error", ErrorCode.FORBIDDEN)
        assert (await alice.ask("info")).data["rooms"] == []
    assert not gateway.hub.presence._watchers


async def test_a_new_token_that_does_not_permit_it_ends_it(gateway: Gateway) -> None:
    async with connected(gateway) as alice, connected(gateway, user="bob") as bob:
        await watching(alice)
        narrower = gateway.auth.issue(org="acme", user="alice", rooms={"*": ["join"]}, ttl=7200).token
        assert (await alice.ask("refresh", data={"token": narrower})).t == "reply"
        await bob.ask("join", room="r")
        assert await alice.settled() == []


async def test_a_resumed_connection_watches_again(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        await watching(alice)
        await alice.ask("join", room="quiet")
        resume = alice.greeting.data["resume"]
    async with connected(gateway) as alice, connected(gateway, user="bob", codec=JSON) as bob:
        rooms = (await alice.ask("join", data={"resume": resume})).data["rooms"]
        assert rooms["r"]["users"] == ["alice"] and "users" not in rooms["quiet"]
        await bob.ask("join", room="quiet")
        await bob.ask("join", room="r")
        assert told(await alice.settled()) == [("r", "join", "bob")]
