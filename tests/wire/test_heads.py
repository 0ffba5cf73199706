"""Request heads: what is plain is read at once, and is what h11 would have read."""

from __future__ import annotations

import re
import time

import pytest

from gateway.wire import upgrade
from gateway.wire.upgrade import Refusal, parse_request, parse_upgrade

NEVER = re.compile(rb"(?!)")
HOST = b"Host: x\r\n"


def read(head: bytes) -> object:
    try:
        return parse_request(head, max_bytes=16384)
    except Refusal as refusal:
        return refusal.status


@pytest.mark.parametrize(
    "head",
    [
        b"GET /a?b=c%20d&b=e HTTP/1.1\r\n" + HOST + b"Accept:  text/html \t\r\nX-Empty:\r\n\r\n",
        b"GET /a HTTP/1.0\r\n\r\n",
        b"GET /a HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"X-Forwarded-For: 1\r\nx-forwarded-for: 2\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"Content-Length: five\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"Folded: a\r\n b\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"Spaced : a\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"No colon\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b": no name\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"Nul: \0\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"Bare: a\nb\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + HOST + b"Latin: \xe9\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /\xe9 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /a HTTP/1.2\r\n" + HOST + b"\r\n",
        b"get /a HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)
def test_it_is_as_h11_reads_it(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(head)
    monkeypatch.setattr(upgrade, "_PLAIN", NEVER)
    assert found == read(head)


def test_an_upgrade_is_as_h11_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    head = (
        b"GET /ws?token=t HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    found = parse_upgrade(head, max_bytes=16384)
    monkeypatch.setattr(upgrade, "_PLAIN", NEVER)
    assert found == parse_upgrade(head, max_bytes=16384)


@pytest.mark.parametrize("piece", [b"a: " + b" " * 40 + b"\r\n", b"a:\t b\r\n", b"a" * 99 + b":\r\n"])
def test_what_almost_fits_takes_no_longer(piece: bytes) -> None:
    """A pattern that went back for each character would take minutes of the processor."""
    head = b"GET /a HTTP/1.1\r\n" + HOST + piece * (15_000 // len(piece)) + b"bad\0: x\r\n\r\n"
    begun = time.process_time()
    for _ in range(100):
        assert upgrade._PLAIN.fullmatch(head) is None
    assert time.process_time() - begun < 10
