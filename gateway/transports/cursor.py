"""Cursors: where a client stands in each of its orders, signed, so that any node can go on from there.

A cursor names no room and gives no permission: the query says which rooms are wanted, the token whether
that is allowed, and the cursor only from where. So it is signed to keep out what could not have come from
here, not to hide anything. Packed: a kind (1 byte: the release's format, and whom it is for), then for each
order 8 bytes of its name's hash, its epoch, and its number as a varint, then 16 bytes of HMAC-SHA256; all in
base64url. Two of them, joined by a dot, count as one: what is the same for many clients is written once for
all of them, and only where the user stands is each client's own.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from gateway.auth.identity import Identity
from gateway.broker.base import Since
from gateway.config.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["ORGANISATION", "USER", "Cursors", "Positions"]

ORGANISATION: Final = "\0o"
"""Stands for the order of the organisation where a room is named; no room has such a name."""
USER: Final = "\0u"
"""Stands for the order of the user."""

_SHARED: Final = 0x10
"""Format 1, for everybody in an organisation: it stands in bytes that all of them get."""
_PERSONAL: Final = 0x11
"""Format 1, for one user."""
_ORDER: Final = 8
_HASHED: Final = 1024
"""Names of rooms (200 bytes at most) whose hash is kept."""
_SIGNATURE: Final = 16
_MAX: Final = 12_000
"""Characters of a cursor: more than 34 orders take."""
_PARTS: Final = 2
_PURPOSE: Final = b"trireme cursor 1"
_REFUSED: Final = "cursor: was not given here, or not to this user; leave it out to begin anew"


class Positions:
    """What a cursor says: the last event that the client has, for each order."""

    __slots__ = ("_places",)

    def __init__(self, places: dict[bytes, Since]) -> None:
        self._places = places

    def of(self, order: str) -> Since | None:
        """The position in a room, ``ORGANISATION`` or ``USER``; None where the cursor knows nothing of it."""
        return self._places.get(_hash(order))


class Cursors:
    """Writes and reads the cursors of one node; nodes with the same keys understand each other."""

    __slots__ = ("_key",)

    def __init__(self, settings: AuthSettings) -> None:
        """The key is derived from the one that signs tokens, or else from what checks them."""
        secret = settings.secret.encode()
        if settings.algorithm != "HS256":
            file = settings.private_key_file or settings.public_key_file
            secret = Path(file).read_bytes() if file else settings.jwks_url.encode()
        self._key = hmac.digest(secret, _PURPOSE, "sha256")

    def write(self, positions: Mapping[str, Since], org: str, user: str | None = None) -> str:
        """The cursor of ``positions``, for a user of ``org``, or with None for everybody in it."""
        return self._write({_hash(order): since for order, since in positions.items()}, org, user)

    def rewrite(self, shared: str, apart: Mapping[str, Since], org: str, user: str) -> str:
        """What the cursor ``shared``, of this node's own making, says to all, but for what is ``apart``."""
        data = base64.urlsafe_b64decode(shared + "=" * (-len(shared) % 4))
        places = _unpack(data[:-_SIGNATURE])
        places.update((_hash(order), since) for order, since in apart.items())
        return self._write(places, org, user)

    def _write(self, places: Mapping[bytes, Since], org: str, user: str | None) -> str:
        packed = bytearray([_SHARED if user is None else _PERSONAL])
        for order, (epoch, seq) in places.items():
            packed += order
            text = epoch.encode()
            packed.append(len(text))
            packed += text
            _put_number(packed, seq)
        packed += self._sign(bytes(packed), org, user)
        return _text(packed)

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
        if _text(data) != part:
            raise ValueError("bits that say nothing are set")
        packed, signature = data[:-_SIGNATURE], data[-_SIGNATURE:]
        kind = packed[0] if packed else 0
        if kind not in {_SHARED, _PERSONAL}:
            raise ValueError("of another release")
        user = None if kind == _SHARED else identity.user or ""
        if not hmac.compare_digest(signature, self._sign(packed, identity.org, user)):
            raise ValueError("not signed here, or for somebody else")
        return _unpack(packed)

    def _sign(self, packed: bytes, org: str, user: str | None) -> bytes:
        names = [org.encode(), (user or "").encode()]
        # With their lengths: no two pairs of names may give the same bytes.
        signed = b"".join(b"%d:%b" % (len(name), name) for name in names) + packed
        return hmac.digest(self._key, signed, "sha256")[:_SIGNATURE]


def _text(data: bytes | bytearray) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


@lru_cache(_HASHED)
def _hash(order: str) -> bytes:
    return hashlib.blake2b(order.encode(), digest_size=_ORDER).digest()


def _put_number(packed: bytearray, number: int) -> None:
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)


def _unpack(packed: bytes) -> dict[bytes, Since]:
    """The places of a cursor whose signature is right, so nothing of it is checked again."""
    places: dict[bytes, Since] = {}
    at = 1
    while at < len(packed):
        order = packed[at : at + _ORDER]
        at += _ORDER
        end = at + 1 + packed[at]
        epoch = packed[at + 1 : end].decode()
        at, seq, shift = end, 0, 0
        while True:
            byte = packed[at]
            at += 1
            seq |= (byte & 0x7F) << shift
            shift += 7
            if byte <= 0x7F:
                break
        places[order] = Since(epoch, seq)
    return places
