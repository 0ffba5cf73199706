"""Cursors: where a client stands in each of its orders, signed, so that any node can go on from there.

A cursor names no room and gives no permission: the query says which rooms are wanted, the token whether
that is allowed, and the cursor only from where. So it is signed to keep out what could not have come from
here, not to hide anything. Packed: a kind (1 byte: the release's format, and whom it is for), then for each
order a byte (which order it is, how the epoch is written, how long the number is), for a room 6 bytes of its
name's hash, the epoch (6 bytes for one of ours, 12 hexadecimal digits) and the number; then 12 bytes of keyed
BLAKE2b; all in base64url. Two of them, joined by a dot, count as one: what is the same for many clients is
written once for all of them, and only where the user stands is each client's own. A stream repeats its cursor
with each event, where every byte counts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from gateway.auth.identity import Identity
from gateway.broker.base import Since
from gateway.config.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["ORGANISATION", "USER", "Cursors", "Positions", "order_of", "packed"]

ORGANISATION: Final = "\0o"
"""Stands for the order of the organisation where a room is named; no room has such a name."""
USER: Final = "\0u"
"""Stands for the order of the user."""

_SHARED: Final = b"\x30"
"""Format 3, for everybody in an organisation: it stands in bytes that all of them get."""
_PERSONAL: Final = b"\x31"
"""Format 3, for one user."""
_HASH: Final = 6
"""Who finds two rooms with one hash confuses nobody else: a cursor is used with the rooms of one query."""
_ROOM: Final = b"\x00"
_OWN: Final = {ORGANISATION: b"\x10", USER: b"\x20"}
_WHICH: Final = 0x30
"""The bits of an order's first byte that say which it is: ``_ROOM`` or one of ``_OWN``."""
_TEXT: Final = 0x40
"""The bit that says that the epoch is text, behind its length; else it is 6 bytes."""
_NUMBER: Final = 0x0F
"""The bits that say how many bytes the number has."""
_EPOCH: Final = 6
_OURS: Final = re.compile(r"[0-9a-f]{12}", re.ASCII)
_CACHED: Final = 1024
"""Names of rooms (200 bytes at most), and of rooms with epochs (100), whose bytes are kept."""
_SIGNATURE: Final = 12
_MAX: Final = 12_000
"""Characters of a cursor: more than 34 orders take."""
_PARTS: Final = 2
_PURPOSE: Final = b"trireme cursor 3"
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_REFUSED: Final = "cursor: not issued here, or not to this user; leave it out to begin anew"


class Positions:
    """What a cursor says: the last event that the client has, for each order."""

    __slots__ = ("_places",)

    def __init__(self, places: dict[bytes, Since]) -> None:
        self._places = places

    def of(self, order: str) -> Since | None:
        """The position in a room, ``ORGANISATION`` or ``USER``; None where the cursor knows nothing of it."""
        return self._places.get(order_of(order))


class Cursors:
    """Writes and reads the cursors of one node; nodes with the same keys understand each other."""

    __slots__ = ("_keyed",)

    def __init__(self, settings: AuthSettings) -> None:
        """The key is derived from the one that signs tokens, or else from what checks them."""
        secret = settings.secret.encode()
        if settings.algorithm != "HS256":
            file = settings.private_key_file or settings.public_key_file
            secret = Path(file).read_bytes() if file else settings.jwks_url.encode()
        key = hmac.digest(secret, _PURPOSE, "sha256")
        self._keyed = hashlib.blake2b(digest_size=_SIGNATURE, key=key)
        """To be copied: the key has its block of the hash for itself."""

    def write(self, positions: Mapping[str, Since], org: str, user: str) -> str:
        """The cursor of ``positions``, for a user of ``org``; the same for the same positions."""
        places = b"".join(sorted([packed(order_of(order), *since) for order, since in positions.items()]))
        return self._write(_PERSONAL, places, org, user).decode("ascii")

    def write_shared(self, places: Iterable[bytes], org: str) -> bytes:
        """The cursor of what :func:`packed` made, for everybody in ``org``.

        Made for each event of a stream, so nothing is done here that can be done once.
        """
        return self._write(_SHARED, b"".join(places), org, "")

    def rewrite(self, shared: str, apart: Mapping[str, Since], org: str, user: str) -> str:
        """What the cursor ``shared``, of this node's own making, says to all, but for what is ``apart``."""
        data = base64.urlsafe_b64decode(shared + "=" * (-len(shared) % 4))
        stands = _unpack(data[:-_SIGNATURE])
        stands.update((order_of(order), since) for order, since in apart.items())
        places = b"".join([packed(order, *since) for order, since in stands.items()])
        return self._write(_PERSONAL, places, org, user).decode("ascii")

    def _write(self, kind: bytes, places: bytes, org: str, user: str) -> bytes:
        whole = kind + places
        return _text(whole + self._sign(whole, org, user))

    def read(self, cursor: str, identity: Identity) -> Positions:
        """What ``cursor`` says to this identity.

        Raises BAD_FIELD when it is not one of ours, of another user or organisation, or of another release.
        """
        places: dict[bytes, Since] = {}
        try:
            parts = cursor.split(".")
            if len(cursor) > _MAX or len(parts) > _PARTS:
                raise ValueError
            for part in parts:
                places |= self._read(part, identity)
        except ValueError:
            raise ProtocolError(ErrorCode.BAD_FIELD, _REFUSED) from None
        return Positions(places)

    def _read(self, part: str, identity: Identity) -> dict[bytes, Since]:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        if _text(data).decode("ascii") != part:
            raise ValueError("reserved bits are set")
        packed, signature = data[:-_SIGNATURE], data[-_SIGNATURE:]
        kind = packed[:1]
        if kind not in {_SHARED, _PERSONAL}:
            raise ValueError("of another release")
        user = "" if kind == _SHARED else identity.user or ""
        if not hmac.compare_digest(signature, self._sign(packed, identity.org, user)):
            raise ValueError("not signed here, or for another user")
        return _unpack(packed)

    def _sign(self, packed: bytes, org: str, user: str) -> bytes:
        # With their lengths: no two pairs of names may give the same bytes.
        names = (org.encode(), user.encode())
        signed = b"%d:%b%d:%b%b" % (len(names[0]), names[0], len(names[1]), names[1], packed)
        signature = self._keyed.copy()
        signature.update(signed)
        return signature.digest()


def packed(order: bytes, epoch: str, seq: int) -> bytes:
    """One order of a cursor, which :func:`order_of` named."""
    first, begun = _begun(order, epoch)
    number = seq.to_bytes((seq.bit_length() + 7) // 8, "big")
    return b"%c%b%b" % (first | len(number), begun, number)


@lru_cache(_CACHED)
def order_of(order: str) -> bytes:
    """What stands for a room, ``ORGANISATION`` or ``USER`` in a cursor."""
    own = _OWN.get(order)
    return own or _ROOM + hashlib.blake2b(order.encode(), digest_size=_HASH).digest()


@lru_cache(_CACHED)
def _begun(order: bytes, epoch: str) -> tuple[int, bytes]:
    """The first byte without the number's length, and what comes before the number."""
    if _OURS.fullmatch(epoch):
        return order[0], order[1:] + bytes.fromhex(epoch)
    text = epoch.encode()
    return order[0] | _TEXT, b"%b%c%b" % (order[1:], len(text), text)


def _text(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_URL_SAFE, b"=")


def _unpack(packed: bytes) -> dict[bytes, Since]:
    """The places of a cursor whose signature is right, so nothing of it is checked again."""
    places: dict[bytes, Since] = {}
    at = 1
    while at < len(packed):
        first = packed[at]
        order, at = bytes([first & _WHICH]), at + 1
        if order == _ROOM:
            order, at = order + packed[at : at + _HASH], at + _HASH
        if first & _TEXT:
            start = at + 1
            at = start + packed[at]
            epoch = packed[start:at].decode()
        else:
            epoch, at = packed[at : at + _EPOCH].hex(), at + _EPOCH
        end = at + (first & _NUMBER)
        places[order] = Since(epoch, int.from_bytes(packed[at:end], "big"))
        at = end
    return places
