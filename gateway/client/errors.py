"""What can go wrong, as a tree::

    ClientError
    ├── ConnectError            no connection came about
    │   ├── ConnectionFailed    the network, TLS, or no answer in time
    │   └── ConnectionRefused   the gateway answered the upgrade with an HTTP status
    ├── Disconnected            there is no connection any more, and there will be none
    │   ├── ConnectionClosed    the gateway closed it for good, or ``reconnect`` is off
    │   ├── ReconnectFailed     all tries failed and ``give_up`` is on; the last reason is the ``__cause__``
    │   └── ClientClosed        the ``async with connect(…)`` block was left
    └── CommandFailed           one command did not succeed; the connection lives on
        ├── CommandError        the gateway's numbered error
        ├── CommandTimeout      no reply in time; whether it was carried out is not known
        ├── CommandInterrupted  the connection was lost before the reply; not repeated by itself
        ├── TooManyPending      too many commands are waiting already; this one was not sent
        └── UnexpectedReply     the gateway's reply does not have the shape of the protocol

A ``ConnectError`` or ``Disconnected`` comes out of entering ``connect``, of the iteration (after
everything that was received) and of every command. Wrong arguments raise ``TypeError`` or ``ValueError``.
"""

from __future__ import annotations

__all__ = [
    "ClientClosed",
    "ClientError",
    "CommandError",
    "CommandFailed",
    "CommandInterrupted",
    "CommandTimeout",
    "ConnectError",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionRefused",
    "Disconnected",
    "ReconnectFailed",
    "TooManyPending",
    "UnexpectedReply",
]


class ClientError(Exception):
    """Base of all errors of this package."""


class ConnectError(ClientError):
    """No connection was established. ``retry``: another try may help, after at least ``retry_after`` seconds.

    ``token``: the token was refused, so another one may help. ``reached``: the address answered.
    """

    def __init__(
        self,
        message: str,
        *,
        retry: bool = True,
        retry_after: float | None = None,
        token: bool = False,
        reached: bool = True,
    ) -> None:
        super().__init__(message)
        self.retry = retry
        self.token = token
        self.reached = reached
        self.retry_after = retry_after


class ConnectionFailed(ConnectError):
    """The gateway could not be reached, or did not answer in time."""


class ConnectionRefused(ConnectError):
    """The gateway answered with HTTP ``status`` instead of an upgrade; ``reason`` is its explanation.

    Only 408, 429 and 5xx are worth another try.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        retry_after: float | None = None,
        address: str = "",
        code: int | None = None,
    ) -> None:
        retry = status in (408, 429) or status >= 500
        by = f" by {address}" if address else ""
        message = f"refused{by} with HTTP {status}: {reason}"
        super().__init__(message, retry=retry, retry_after=retry_after, token=status == 401)
        self.status = status
        self.reason = reason
        self.code = code
        """The gateway's error number; None when somebody else answered, such as a proxy."""


class Disconnected(ClientError):
    """There is no connection, and none will be made."""


class ConnectionClosed(Disconnected):
    """The gateway closed with ``code`` and ``reason``; 1006 stands for a connection that broke."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"closed with code {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class ReconnectFailed(Disconnected):
    """No connection after ``tries`` further tries."""

    def __init__(self, tries: int) -> None:
        super().__init__(f"no connection after {tries} further tries")
        self.tries = tries


class ClientClosed(Disconnected):
    """The client's block was left."""

    def __init__(self) -> None:
        super().__init__("the client is closed")


class CommandFailed(ClientError):
    """One command did not succeed."""


class CommandError(CommandFailed):
    """The gateway refused: ``code`` is a :class:`protocol.errors.ErrorCode`, ``retry_after`` in seconds."""

    def __init__(self, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after


class CommandTimeout(CommandFailed):
    """No reply within the command's timeout."""


class CommandInterrupted(CommandFailed):
    """The connection was lost after the command was sent. It may have been carried out."""


class TooManyPending(CommandFailed):
    """``max_pending`` commands are already waiting."""


class UnexpectedReply(CommandFailed):
    """The reply is not valid."""
