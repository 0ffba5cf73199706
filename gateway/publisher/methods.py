"""What both publishers have: their settings, the queue as seen from outside, and methods made of calls."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import httpx

from gateway.publisher.backlog import Backlog, OnError
from gateway.publisher.calls import operation_of_publish, operation_of_send
from gateway.publisher.exchange import Policy
from gateway.publisher.options import PublishOptions, SendOptions
from protocol.emits import Emits

__all__ = ["Common", "describe"]

PATH = "/api/v1"


def describe(method: Callable[..., Any], like: Callable[..., Any]) -> None:
    """Give ``method`` the name, the text and the arguments of ``like``, behind ``self``."""
    method.__name__ = method.__qualname__ = like.__name__
    method.__doc__ = like.__doc__
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    taken = inspect.signature(like).parameters.values()
    method.__signature__ = inspect.Signature([own, *taken])  # type: ignore[attr-defined]


class Common(Emits, abc.ABC):
    """A publisher but for how it sends and waits."""

    def __init__(
        self,
        url: str,
        token: object,
        *,
        timeout: float = 10.0,
        deadline: float = 30.0,
        tries: int = 5,
        connections: int = 10,
        queue_messages: int = 10_000,
        queue_bytes: int = 16 * 2**20,
        on_error: OnError | None = None,
        close_timeout: float = 5.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """What each is stands in ``PublisherOptions``."""
        self._policy = Policy(timeout, deadline, tries)
        self._token = token if isinstance(token, str) else None
        self._close_timeout = close_timeout
        self._backlog = Backlog(queue_messages, queue_bytes, tries, on_error)
        self._http: dict[str, Any] = {
            "base_url": url.rstrip("/") + PATH,
            "headers": headers,
            "limits": httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        }
        """The settings of httpx's client."""

    @property
    def waiting(self) -> int:
        """Events of the queue that are not sent yet."""
        return len(self._backlog)

    @property
    def dropped(self) -> int:
        """Events of the queue that were given up; ``on_error`` was told why."""
        return self._backlog.dropped

    def enqueue(
        self, room: str | None, event: str, data: Any = None, **options: Unpack[PublishOptions]
    ) -> None:
        """Have it published soon, with others in one request; returns at once.

        Raises :class:`QueueFull` when the gateway does not keep up, ValueError for data that is no JSON.
        """
        self._enqueue(operation_of_publish(room, event, data, options))

    def enqueue_to_user(
        self, user: str, event: str, data: Any = None, **options: Unpack[SendOptions]
    ) -> None:
        """As :meth:`enqueue`, to a user."""
        self._enqueue(operation_of_send(user, event, data, options))

    @abc.abstractmethod
    def _enqueue(self, operation: Mapping[str, Any]) -> None:
        """Put it into the backlog, and have it sent."""
