"""Cursors: where a client stands in each of its rooms, signed, so that any node can go on from there.

A cursor names no room and gives no permission: the query says which rooms are wanted, the token whether
that is allowed, and the cursor only from where. So it is signed to keep out what could not have come from
here, not to hide anything. Packed: a kind (1 byte: the release's format, and whom it is for), then for each
room 8 bytes of its name's hash, its epoch, and its number as a varint, then 16 bytes of HMAC-SHA256; all in
base64url.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.auth.identity import Identity
from gateway.broker.base import Since
from gateway.config.settings import AuthSettings
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["Cursors", "Positions"]

_SHARED: Final = 0x10
"""Format 1, for everybody in an organisation: it stands in bytes that all of them get."""
_PERSONAL: Final = 0x11
"""Format 1, for one user."""
_ROOM: Final = 8
_SIGNATURE: Final = 16
_MAX: Final = 12_000
"""Characters of a cursor: more than 32 rooms take."""
_PURPOSE: Final = b"trireme cursor 1"
_REFUSED: Final = "cursor: was not given here, or not to this user; leave it out to begin anew"


class Positions:
    """What a cursor says: the last event that the client has, for each room."""

    __slots__ = ("_places",)

    def __init__(self, places: dict[bytes, Since]) -> None:
        self._places = places

    def of(self, room: str) -> Since | None:
        """The position in ``room``; None where the cursor knows nothing of it."""
        return self._places.get(_hash(room))


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
        packed = bytearray([_SHARED if user is None else _PERSONAL])
        for room, (epoch, seq) in positions.items():
            packed += _hash(room)
            text = epoch.encode()
            packed.append(len(text))
            packed += text
            _put_number(packed, seq)
        packed += self._sign(bytes(packed), org, user)
        return base64.urlsafe_b64encode(packed).decode("ascii").rstrip("=")

    def read(self, cursor: str, identity: Identity) -> Positions:
        """What ``cursor`` says to this identity.

        Raises BAD_FIELD when it is not one of ours, of another user or organisation, or of another release.
        """
        try:
            if len(cursor) > _MAX:
                raise ValueError
            data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise ProtocolError(ErrorCode.BAD_FIELD, _REFUSED) from None
        packed, signature = data[:-_SIGNATURE], data[-_SIGNATURE:]
        kind = packed[0] if packed else 0
        if kind not in {_SHARED, _PERSONAL}:
            raise ProtocolError(ErrorCode.BAD_FIELD, _REFUSED)
        user = None if kind == _SHARED else identity.user or ""
        if not hmac.compare_digest(signature, self._sign(packed, identity.org, user)):
            raise ProtocolError(ErrorCode.BAD_FIELD, _REFUSED)
        return Positions(_unpack(packed))

    def _sign(self, packed: bytes, org: str, user: str | None) -> bytes:
        names = [org.encode(), (user or "").encode()]
        # With their lengths: no two pairs of names may give the same bytes.
        signed = b"".join(b"%d:%b" % (len(name), name) for name in names) + packed
        return hmac.digest(self._key, signed, "sha256")[:_SIGNATURE]


def _hash(room: str) -> bytes:
    return hashlib.blake2b(room.encode(), digest_size=_ROOM).digest()


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
        room = packed[at : at + _ROOM]
        at += _ROOM
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
        places[room] = Since(epoch, seq)
    return places
