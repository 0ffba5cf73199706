"""Little that claims, or becomes, much: lengths that lie, depth, many items, heads and bodies without end.

The bounds: ``limits.message_bytes``, ``limits.head_bytes``, ``limits.body_bytes``, the depth of the envelope
(docs/protocol.md). Compression, with which a small message could be a large one, is not offered.
"""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
import trio

from protocol.cbor import CBOR
from protocol.codec import Codec
from protocol.errors import CloseCode, ProtocolError
from protocol.json import JSON
from tests.attacks.support import (
    attacker,
    bystander,
    dial,
    forgotten,
    http_head,
    read_to_end,
    status_of,
)
from tests.framing import BINARY, CLOSE, MASK, TEXT, client_frame
from tests.support import DEADLINE, running_gateway
from tests.upgrade import knock
from tests.wire.support import Peer

CBOR_PING = b"\xa4\x00\x01\x01\x0f\x02\x01\x05"
"""A ping up to its data."""
JSON_PING = b'{"v":1,"t":"ping","id":1,"data":'
MANY = struct.pack(">Q", 2**40)


@contextlib.contextmanager
def growing_by_at_most(limit: int) -> Iterator[None]:
    """Memory may grow by so many bytes in between."""
    tracemalloc.start()
    try:
        yield
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most <= limit


async def code_of(peer: Peer) -> int | None:
    while (frame := await peer.frame()).opcode != CLOSE:
        pass
    return frame.code


@pytest.mark.parametrize("claimed", [2**17, 2**32, 2**62, 2**63, 2**64 - 1])
async def test_frames_that_claim_to_be_huge(claimed: int) -> None:
    """Nothing is set aside for what has not come."""
    async with running_gateway(limits={"message_bytes": 65536}) as gateway, bystander(gateway):
        async with attacker(gateway) as peer:
            with growing_by_at_most(2_000_000):
                await peer.send(b"\x82\xff" + struct.pack(">Q", claimed) + MASK)
                with contextlib.suppress(trio.BrokenResourceError):
                    for _ in range(5):
                        await peer.send(b"x" * 20_000)
                assert await code_of(peer) == (
                    CloseCode.PROTOCOL_ERROR if claimed >= 2**63 else CloseCode.TOO_LARGE
                )
        await forgotten(gateway, but=1)


async def test_compression_is_not_offered() -> None:
    async with running_gateway() as gateway:
        token = gateway.auth.issue(org="evil", user="m").token
        offer = (
            "Sec-WebSocket-Extensions",
            "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame",
        )
        answer = await knock(gateway, f"/ws?token={token}", headers=[offer])
        assert answer.status == 101 and "sec-websocket-extensions" not in answer.headers
        async with attacker(gateway) as peer:
            await peer.send(client_frame(TEXT, b"\xaa\x56\x2a\x2e", rsv=4))
            assert await code_of(peer) == CloseCode.PROTOCOL_ERROR
        for name in ("gzip", "br", "deflate"):
            request = http_head(
                "/api/v1/openapi.json", "GET", f"Accept-Encoding: {name}", "Connection: close"
            )
            async with await dial(gateway) as stream:
                await stream.send_all(request)
                assert (
                    b"content-encoding" not in (await read_to_end(stream)).partition(b"\r\n\r\n")[0].lower()
                )


CLAIMS = {
    "array": b"\x9b" + MANY,
    "map": b"\xbb" + MANY,
    "text": b"\x7b" + MANY,
    "bytes": b"\x5b" + MANY,
    "array of arrays": (b"\x9a\xff\xff\xff\xff" * 15) + b"\x00" * 20,
    "map of maps": b"\xba\xff\xff\xff\xff\x60" * 15,
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_cbor_that_claims_to_be_huge(claim: bytes) -> None:
    with growing_by_at_most(1_000_000), pytest.raises(ProtocolError) as refused:
        CBOR.decode(CBOR_PING + claim)
    assert refused.value.fatal == CloseCode.INVALID_DATA
    with growing_by_at_most(1_000_000), pytest.raises(ProtocolError):
        CBOR.decode(claim)


SIZE = 50_000
BOMBS: dict[str, tuple[Codec, bytes]] = {
    "digits": (JSON, JSON_PING + b"1" * SIZE + b"}"),
    "a fraction": (JSON, JSON_PING + b"0." + b"1" * SIZE + b"}"),
    "an exponent": (JSON, JSON_PING + b"1e" + b"9" * SIZE + b"}"),
    "digits under an unknown key": (JSON, b'{"v":1,"t":"ping","x":' + b"1" * SIZE + b"}"),
    "arrays in arrays": (JSON, JSON_PING + b"[" * SIZE),
    "maps in maps": (JSON, JSON_PING + b'{"":' * (SIZE // 4)),
    "empty arrays": (JSON, JSON_PING + b"[" + b"[]," * (SIZE // 3) + b"[]]}"),
    "empty maps": (JSON, JSON_PING + b"[" + b"{}," * (SIZE // 3) + b"{}]}"),
    "keys": (JSON, b'{"v":1,"t":"ping"' + b"".join(b',"%x":1' % n for n in range(SIZE // 10)) + b"}"),
    "escapes": (JSON, JSON_PING + b'"' + b"\\u0000" * (SIZE // 6) + b'"}'),
    "blanks": (JSON, JSON_PING + b" " * SIZE + b"1}"),
    "arrays in arrays, CBOR": (CBOR, CBOR_PING + b"\x81" * SIZE),
    "tags in tags": (CBOR, CBOR_PING + b"\xc1" * SIZE),
    "empty arrays, CBOR": (CBOR, CBOR_PING + b"\x9a" + struct.pack(">I", SIZE) + b"\x80" * SIZE),
    "empty maps, CBOR": (CBOR, CBOR_PING + b"\x9a" + struct.pack(">I", SIZE) + b"\xa0" * SIZE),
    "a big number": (CBOR, CBOR_PING + b"\xc2\x5a" + struct.pack(">I", SIZE) + b"\xff" * SIZE),
    "keys whose hashes collide": (
        CBOR,
        b"\xba"
        + struct.pack(">I", SIZE // 10)
        + b"".join(b"\x1b" + struct.pack(">Q", n * (2**61 - 1) % 2**64) + b"\x00" for n in range(SIZE // 10)),
    ),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_what_a_message_becomes_is_a_bounded_multiple_of_it(bomb: tuple[Codec, bytes]) -> None:
    """At most a list or map of 64 bytes, and its place in another one, for each byte."""
    codec, payload = bomb
    with growing_by_at_most(200 * len(payload)), contextlib.suppress(ProtocolError):
        codec.decode(payload)


@pytest.mark.parametrize("name", ["empty arrays, CBOR", "keys", "digits", "keys whose hashes collide"])
async def test_bombs_harm_nobody_else(name: str) -> None:
    codec, payload = BOMBS[name]
    async with running_gateway() as gateway, bystander(gateway):
        async with attacker(gateway, codec=codec) as peer:
            frame = client_frame(BINARY if codec.binary else TEXT, payload)
            for _ in range(5):
                await peer.send(frame)
            answers = 0
            while answers < 5:
                answer = codec.decode((await peer.frame()).payload)
                answers += answer.t in {"pong", "error"}
        await forgotten(gateway, but=1)


HEADS: dict[str, Callable[[int], bytes]] = {
    "one long header": lambda number: b"x" * 1000,
    "many headers": lambda number: b"\r\nX-%d: y" % number * 50,
    "a long target": lambda number: b"x" * 1000,
}


@pytest.mark.parametrize("what", HEADS)
async def test_heads_without_end(what: str) -> None:
    async with running_gateway(limits={"head_bytes": 4096}) as gateway, bystander(gateway):
        for path in (b"/ws", b"/healthz"):
            start = b"GET " + path + (b"?" if what == "a long target" else b" HTTP/1.1\r\nHost: x\r\nX: ")
            async with await dial(gateway) as stream:
                with growing_by_at_most(2_000_000), trio.fail_after(DEADLINE):
                    await stream.send_all(start)
                    with contextlib.suppress(trio.BrokenResourceError):
                        for number in range(100):
                            await stream.send_all(HEADS[what](number))
                    assert status_of(await read_to_end(stream)) == 431
        await forgotten(gateway, but=1)


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_without_end(chunked: bool) -> None:
    async with running_gateway(limits={"body_bytes": 10_000}) as gateway, bystander(gateway):
        token = gateway.auth.issue(org="evil", user="m").token
        length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000000000"
        head = http_head("/api/v1/broadcast", "POST", f"Authorization: Bearer {token}", length)
        async with await dial(gateway) as stream:
            with growing_by_at_most(4_000_000), trio.fail_after(DEADLINE):
                await stream.send_all(head)
                with contextlib.suppress(trio.BrokenResourceError):
                    for _ in range(200):
                        await stream.send_all(b"3e8\r\n" + b"x" * 1000 + b"\r\n" if chunked else b"x" * 1000)
                assert status_of(await read_to_end(stream)) == 413
        await forgotten(gateway, but=1)
