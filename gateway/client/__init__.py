"""The Python client, on Trio and on asyncio: the loop that runs decides::

    async with gateway.client.connect("ws://127.0.0.1:8000", token=token) as client:
        await client.join("chat:42", events=["message:*"])
        published = await client.publish("chat:42", "message:new", {"text": "hi"})
        async for event in client:
            print(event.room, event.event, event.data)

It speaks CBOR (or JSON), comes back by itself when the connection is lost, renews its token where that is a
callable, rejoins its rooms where it left them, drops duplicates, and says in the iteration what is
missing (:class:`Lost`).

``connect`` explains the parameters, :mod:`gateway.client.errors` shows the tree of errors. From the
outside in: ``client`` is the application's side (``asking`` a longer one of its commands), ``session``
outlives connections, ``link`` is the life of one, ``renewal`` that of its token. What carries its messages
is a ``transport``: ``trio_socket`` or ``asyncio_socket``, or ``http_transport`` where no WebSocket gets
through. ``rooms``, ``backoff``, ``course``, ``ended``, ``replies``, ``emulation`` and ``event_stream`` are
pure: they decide, and wait for nothing.
"""

from gateway.client.backoff import Backoff
from gateway.client.client import Client
from gateway.client.connect import connect
from gateway.client.course import TransportKind
from gateway.client.errors import (
    ClientClosed,
    ClientError,
    CommandError,
    CommandFailed,
    CommandInterrupted,
    CommandTimeout,
    ConnectError,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionRefused,
    Disconnected,
    ReconnectFailed,
    TooManyPending,
    UnexpectedReply,
)
from gateway.client.messages import (
    ConnectionInfo,
    Decision,
    Event,
    Filter,
    HistoryPage,
    Joined,
    Limits,
    Lost,
    Member,
    Position,
    Presence,
    PresenceChange,
    Published,
    Refreshed,
    Sent,
)
from gateway.client.options import Token
from gateway.client.session import State
from protocol.registry import EventTypes
from protocol.typed import Custom, TypedEvent

__all__ = [
    "Backoff",
    "Client",
    "ClientClosed",
    "ClientError",
    "CommandError",
    "CommandFailed",
    "CommandInterrupted",
    "CommandTimeout",
    "ConnectError",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionInfo",
    "ConnectionRefused",
    "Custom",
    "Decision",
    "Disconnected",
    "Event",
    "EventTypes",
    "Filter",
    "HistoryPage",
    "Joined",
    "Limits",
    "Lost",
    "Member",
    "Position",
    "Presence",
    "PresenceChange",
    "Published",
    "ReconnectFailed",
    "Refreshed",
    "Sent",
    "State",
    "Token",
    "TooManyPending",
    "TransportKind",
    "TypedEvent",
    "UnexpectedReply",
    "connect",
]
