"""What can go wrong, as a tree::

    PublisherError
    ├── Refused           the gateway answered, and not with success; its number and reason
    ├── Unreachable       no answer within the time; ``sent`` tells whether it may have been done
    ├── QueueFull         as much waits as may; the event was not taken
    └── PublisherClosed   the publisher was closed

Wrong arguments raise ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PublisherClosed", "PublisherError", "QueueFull", "Refused", "Unreachable"]


class PublisherError(Exception):
    """Base of all errors of this package."""


class Refused(PublisherError):
    """The gateway's answer: HTTP ``status``, error ``code`` (None: it was not the gateway's), ``reason``.

    ``retry_after`` is in seconds; ``problem`` the whole problem document, with the execution or the approval
    as it is where the answer was 409.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        code: int | None = None,
        retry_after: float | None = None,
        problem: dict[str, Any] | None = None,
    ) -> None:
        number = "" if code is None else f", error {code}"
        super().__init__(f"HTTP {status}{number}: {reason}")
        self.status = status
        self.reason = reason
        self.code = code
        self.retry_after = retry_after
        self.problem = {} if problem is None else problem


class Unreachable(PublisherError):
    """No answer. ``sent`` False: it was not done; True: nobody knows, so repeat it with the same ``mid``."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class QueueFull(PublisherError):
    """As many events or bytes wait as may: the gateway is away, or slower than what is put in."""


class PublisherClosed(PublisherError):
    """Nothing more is sent."""

    def __init__(self) -> None:
        super().__init__("the publisher is closed")
