"""What the two codecs have in common: their interface, and the careful path.

Each codec has a fast path in C that accepts exactly the valid envelopes without
unknown keys. Whatever it does not accept is decoded again without types and examined
here in a fixed order, so that both codecs refuse the same things with the same number:

1. more items than may be: counted before;
2. not well-formed or too deep: fatal, 1007;
3. version, then kind;
4. the fields in the order of the envelope, then unknown keys, which are ignored when
   their values are of the value model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Protocol

from protocol.envelope import KEYS, VERSION, Envelope
from protocol.errors import ErrorCode, ProtocolError
from protocol.kinds import FIELDS, TABLE
from protocol.values import MAX_INT, MAX_ITEMS, check_event_data, find_problem, text_problem

__all__ = ["Codec", "examine", "too_many_items"]


class Codec(Protocol):
    """One way of writing envelopes. Instances hold no state of a connection."""

    @property
    def name(self) -> str:
        """``cbor`` or ``json``."""

    @property
    def subprotocol(self) -> str:
        """The WebSocket subprotocol that selects it."""

    @property
    def binary(self) -> bool:
        """Whether its messages are binary WebSocket messages."""

    def decode(self, payload: bytes, *, max_items: int = MAX_ITEMS) -> Envelope:
        """Read one message that has at most ``max_items`` values and keys, its own ones included.

        They are counted before anything is made of them, when the message is long enough to hold more.
        Raises ``ProtocolError`` TOO_LARGE for more, with the ``id`` when it stands in front.
        Raises ``ProtocolError``, with ``fatal`` set to 1007 when the bytes are not well-formed
        or too deep, otherwise with the command's ``id`` where that can be read.
        """

    def encode(self, envelope: Envelope) -> bytes:
        """Write one message.

        ``data`` must be of the value model: what did not come through a codec goes through
        ``protocol.values.check_value`` first. Raises ``TypeError`` or ``ValueError`` for what
        the codec cannot write at all.
        """


_TEXTS = frozenset(field.name for field in FIELDS if field.type == "text")
_NUMBERS = frozenset(field.name for field in FIELDS if field.type == "unsigned")
_FLAGS = frozenset(field.name for field in FIELDS if field.type == "boolean")
_PUBLISHING = frozenset(kind.name for kind in TABLE if kind.publishes)


def examine(
    fields: Mapping[str, Any],
    unknown: Iterable[object],
    kinds: Mapping[Any, str],
) -> Envelope:
    """Read an envelope from decoded but unchecked parts; raises ``ProtocolError``.

    ``fields`` are the known keys by name, ``unknown`` the values of the other keys, ``kinds``
    the codec's own form of each kind.
    """
    # What is fatal is so wherever it is, and comes before any other complaint.
    problems = {name: find_problem(value) for name, value in fields.items()}
    unknown_problem = find_problem(list(unknown), level=1)

    number = fields.get("id")
    id = number if _is_unsigned(number) else None

    def refuse(code: ErrorCode, message: str) -> NoReturn:
        raise ProtocolError(code, message, id=id)

    for name in ("v", "t"):
        if fields.get(name) is None:
            refuse(ErrorCode.MISSING_FIELD, f"{name}: is missing")
    version, kind = fields["v"], fields["t"]
    if type(version) is not int:
        refuse(ErrorCode.BAD_FIELD, "v: must be an integer")
    if version != VERSION:
        refuse(ErrorCode.UNSUPPORTED_VERSION, f"v: only version {VERSION} is supported")
    form = type(next(iter(kinds)))
    if type(kind) is not form:
        refuse(ErrorCode.BAD_FIELD, "t: must be text" if form is str else "t: must be an integer")
    if kind not in kinds:
        refuse(ErrorCode.UNKNOWN_KIND, "t: is not a known kind")
    for name in KEYS:
        value = fields.get(name)
        if value is None or name in ("v", "t"):
            continue
        if name in _NUMBERS and not _is_unsigned(value):
            refuse(ErrorCode.BAD_FIELD, f"{name}: must be an integer from 0 to 2^63-1")
        if name in _FLAGS and type(value) is not bool:
            refuse(ErrorCode.BAD_FIELD, f"{name}: must be true or false")
        problem = text_problem(value) if name in _TEXTS else problems[name]
        if problem is not None:
            refuse(ErrorCode.BAD_FIELD, f"{name}: {problem}")
    if kinds[kind] in _PUBLISHING:
        # Needed here only: the fast paths take seven levels at most.
        try:
            check_event_data(fields.get("data"))
        except ProtocolError as error:
            refuse(error.code, error.message)
    if unknown_problem is not None:
        refuse(ErrorCode.BAD_FIELD, f"an unknown key: {unknown_problem}")
    rest = {name: value for name, value in fields.items() if name not in ("v", "t")}
    return Envelope(t=kinds[kind], **rest)


def too_many_items(most: int, id: int | None) -> ProtocolError:
    """Make the error for a message with more than ``most`` values and keys."""
    id = id if _is_unsigned(id) else None
    return ProtocolError(ErrorCode.TOO_LARGE, f"the message contains more than {most} values and keys", id=id)


def _is_unsigned(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_INT
