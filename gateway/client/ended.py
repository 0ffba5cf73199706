"""Why a connection ended, and what follows from it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from protocol.envelope import Envelope
from protocol.errors import CloseCode, should_reconnect

__all__ = ["Ended", "seconds"]

_BROKEN: Final = 1006
_SAYS_NOTHING: Final = frozenset({CloseCode.NORMAL, 1005, _BROKEN})
# RFC 6455, section 7.4.1: 1005 is for a Close frame without a code, 1006 for none at all. The gateway sends
# neither of the first two: they are a proxy's.

_OURS_TO_SAY: Final = frozenset(
    {CloseCode.PROTOCOL_ERROR, CloseCode.UNSUPPORTED_DATA, CloseCode.INVALID_DATA}
)


@dataclass(frozen=True, slots=True)
class Ended:
    """The close code, the reason, whether to come back, and after how many seconds at least."""

    code: int
    reason: str
    reconnect: bool
    retry_after: float | None = None

    @classmethod
    def broken(cls, reason: str) -> Ended:
        """There was no Close frame."""
        return cls(_BROKEN, reason, reconnect=True)

    @classmethod
    def violation(cls, reason: str) -> Ended:
        """The gateway said something that it must not say."""
        return cls(CloseCode.PROTOCOL_ERROR, f"the gateway sent: {reason}", reconnect=False)

    @classmethod
    def announced(cls, envelope: Envelope) -> Ended:
        """What ``closing`` says will follow."""
        data = envelope.data if isinstance(envelope.data, dict) else {}
        code = envelope.code or CloseCode.GOING_AWAY
        reconnect = data.get("reconnect") is not False and should_reconnect(code)
        return cls(code, envelope.message or "", reconnect, seconds(data.get("retry_after")))

    @classmethod
    def closed(cls, code: int, reason: str, announced: Ended | None) -> Ended:
        """What a closed socket means, given what was announced before."""
        if announced is None:
            return cls(code, reason, should_reconnect(code))
        if code in _SAYS_NOTHING:
            return announced  # cut off after it had been said
        return replace(
            announced,
            code=code,
            reason=reason or announced.reason,
            reconnect=announced.reconnect and should_reconnect(code),
        )

    @property
    def answer(self) -> int:
        """The close code to send, if the socket is still open."""
        return self.code if self.code in _OURS_TO_SAY else CloseCode.NORMAL


def seconds(value: object) -> float | None:
    """A duration from the gateway; None for what is none."""
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None
