"""Messages that are wrong, of every class: a numbered answer, the right close code, nobody else harmed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import protocol
from gateway.app import Gateway
from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.envelope import Envelope
from protocol.errors import ErrorCode
from protocol.json import JSON
from tests.framing import BINARY, TEXT, client_frame
from tests.support import Raw, connected, running_gateway

VECTORS = Path(protocol.__file__).parent / "vectors"


def refused_vectors() -> list[dict[str, Any]]:
    refused = json.loads((VECTORS / "refused.json").read_text())
    return refused + json.loads((VECTORS / "boundary.json").read_text())["refused"]


REFUSED = refused_vectors()


def frame(codec: Codec, payload: bytes) -> bytes:
    """Any bytes as one message, also text that is not UTF-8, which the library would not send."""
    return client_frame(BINARY if codec.binary else TEXT, payload)


async def say(client: Raw, vector: dict[str, Any], behind: bytes = b"") -> None:
    """Send a message of the vectors, and in the same chunk the frames ``behind`` it."""
    payload = bytes.fromhex(vector["hex"]) if "hex" in vector else vector["text"].encode()
    await client.socket._stream.send_all(frame(client.codec, payload) + behind)


def of(codec: Codec, *, fatal: bool) -> list[dict[str, Any]]:
    return [
        vector
        for vector in REFUSED
        if vector["codec"] == codec.name and (vector["close"] is not None) == fatal
    ]


async def test_every_invalid_message_is_answered_and_the_connection_goes_on(
    gateway: Gateway, codec: Codec
) -> None:
    vectors = of(codec, fatal=False)
    assert len(vectors) > 20
    async with connected(gateway, codec=codec) as alice:
        for vector in vectors:
            await say(alice, vector)
            error = await alice.receive()
            assert (error.t, error.code, error.id) == ("error", vector["code"], vector["id"]), vector["name"]
            assert error.message, vector["name"]
        assert await alice.settled() == []


async def test_every_malformed_message_closes_only_its_sender(gateway: Gateway, codec: Codec) -> None:
    vectors = of(codec, fatal=True)
    assert len(vectors) > 20
    async with connected(gateway, user="bob") as bob, connected(gateway, user="carol", codec=CBOR) as carol:
        for client in (bob, carol):
            await client.ask("join", room="r")
        behind = frame(codec, codec.encode(Envelope("publish", room="r", event="behind")))
        for vector in vectors:
            async with connected(gateway, codec=codec) as alice:
                await alice.ask("join", room="r")
                await say(alice, vector, behind)
                close = await alice.closed()
                assert close.code == vector["close"] == 1007, (vector["name"], close)
                if is_utf8(vector):
                    error, closing = alice.events
                    assert (error.t, error.code, error.id) == ("error", vector["code"], vector["id"]), vector
                    assert (closing.t, closing.code, closing.message) == ("closing", 1007, close.reason)
                    assert closing.data == {"reconnect": False}
        position = await bob.ask("publish", room="r", event="e")
        assert position.seq == 1
        for client in (bob, carol):
            assert [event.event for event in await client.settled()] == ["e"]


def is_utf8(vector: dict[str, Any]) -> bool:
    """Text that is not UTF-8 is refused by the WebSocket layer, which has no envelopes."""
    try:
        bytes.fromhex(vector.get("hex", "")).decode()
    except UnicodeDecodeError:
        return vector["codec"] == "cbor"
    return True


async def test_the_other_sort_of_message_closes_with_1003(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice:
        other = JSON if codec is CBOR else CBOR
        payload = other.encode(alice.greeting)
        await alice.send_raw(payload.decode() if codec.binary else payload)
        close = await alice.closed()
        assert close.code == 1003
        (closing,) = alice.events
        assert (closing.t, closing.code) == ("closing", 1003)
        assert codec.subprotocol in (closing.message or "")


@pytest.mark.parametrize("empty", ["", b""])
async def test_empty_messages(gateway: Gateway, empty: str | bytes) -> None:
    codec = JSON if isinstance(empty, str) else CBOR
    async with connected(gateway, codec=codec) as alice:
        await alice.send_raw(empty)
        assert (await alice.closed()).code == 1007


async def test_a_message_that_is_too_large_closes_with_1009(gateway: Gateway, codec: Codec) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        limit = alice.greeting.data["limits"]["message_bytes"]
        room_for = limit - len(codec.encode(alice.greeting))
        assert (await alice.ask("ping", data="x" * room_for)).t == "pong"
        await alice.send("ping", data="x" * limit)
        assert (await alice.closed()).code == 1009
        assert (await bob.ask("ping")).t == "pong"


async def test_a_message_of_too_many_values_is_refused_and_the_connection_goes_on(
    gateway: Gateway, codec: Codec
) -> None:
    async with connected(gateway, codec=codec) as alice, connected(gateway, user="bob") as bob:
        await bob.ask("join", room="r")
        for data in ([{}] * 100_000, [[[]]] * 5_000, {str(number): 0 for number in range(5_000)}):
            error = await alice.ask("publish", room="r", event="e", data=data)
            assert (error.t, error.code) == ("error", ErrorCode.TOO_LARGE)
            assert error.message == "the message contains more than 8192 values and keys"
        await alice.ask("publish", room="r", event="good", data=[{}] * 8_000)
        assert [event.event for event in await bob.settled()] == ["good"]


async def test_a_small_limit_is_kept_exactly(codec: Codec) -> None:
    """Below 64 KiB it is the fast lane that has to look."""
    async with running_gateway(limits={"message_bytes": 2048}) as gateway:
        async with connected(gateway, codec=codec) as alice:
            ping = codec.encode(Envelope("ping", data=""))
            for size, kind in ((2048, "pong"), (2049, None)):
                text = "x" * (size - len(ping) - (0 if codec is JSON else 2))
                payload = codec.encode(Envelope("ping", data=text))
                assert len(payload) == size
                await alice.send_raw(payload if codec.binary else payload.decode())
                if kind is None:
                    close = await alice.closed()
                    assert close.code == 1009 and "2048" in (close.reason or "")
                else:
                    assert (await alice.receive()).t == kind


async def test_messages_behind_a_fatal_one_are_not_handled(gateway: Gateway) -> None:
    """All in one chunk, which the fast lane reads at once."""
    async with connected(gateway) as alice, connected(gateway, user="bob") as bob:
        await bob.ask("join", room="r")
        publish = b'{"v":1,"t":"publish","room":"r","event":"e"}'
        frames = [client_frame(TEXT, payload) for payload in (publish, b"{", publish, publish)]
        await alice.socket._stream.send_all(b"".join(frames))
        assert (await alice.closed()).code == 1007
        assert len(await bob.settled()) == 1


async def test_unknown_keys_are_ignored(gateway: Gateway) -> None:
    async with connected(gateway) as alice:
        await alice.send_raw('{"v":1,"t":"ping","id":9,"extra":{"a":[1]},"data":7,"":null}')
        pong = await alice.receive()
        assert (pong.t, pong.id, pong.data) == ("pong", 9, 7)
