"""Whether nodes and their clients speak TLS: for all that is started within :func:`over_tls`."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import trio
import trustme

__all__ = ["over_tls", "secured", "spoil_key", "tls_settings"]


@dataclass(frozen=True)
class _Certificate:
    pem: Path
    trusting: ssl.SSLContext


_present: ContextVar[_Certificate | None] = ContextVar("certificate", default=None)


@contextlib.contextmanager
def over_tls(folder: Path) -> Iterator[None]:
    """For the length of the block; the certificate is in ``folder``."""
    authority = trustme.CA()
    pem = folder / "node.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    token = _present.set(_Certificate(pem, trusting))
    try:
        yield
    finally:
        _present.reset(token)


def tls_settings() -> dict[str, str]:
    """The settings of the group ``tls``."""
    present = _present.get()
    return {} if present is None else {"certificate": str(present.pem), "key": str(present.pem)}


@contextlib.contextmanager
def spoil_key() -> Iterator[None]:
    """The key does not fit its certificate for the length of the block; nothing happens without TLS."""
    present = _present.get()
    if present is None:
        yield
        return
    before = present.pem.read_bytes()
    other = trustme.CA().issue_cert("localhost").private_key_pem.bytes()
    present.pem.write_bytes(other + before[before.index(b"-----BEGIN CERTIFICATE") :])
    yield
    present.pem.write_bytes(before)


async def secured(stream: trio.SocketStream) -> trio.abc.Stream:
    """The same connection as a client speaks on it."""
    present = _present.get()
    if present is None:
        return stream
    secure = trio.SSLStream(stream, present.trusting, server_hostname="localhost", https_compatible=True)
    await secure.do_handshake()
    return secure
