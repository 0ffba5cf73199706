"""For backends: publish to a gateway over REST, from programs with threads or on an event loop::

    publisher = Publisher("http://127.0.0.1:8000", token=token)
    publisher.publish("chat:42", "message:new", {"text": "hi"})

    async with AsyncPublisher("http://127.0.0.1:8000", token=token) as publisher:
        await publisher.notify("Export ready", "42 rows", user="alice", type="success")

Both keep their connections, repeat what may be repeated (a message has one id however often it is sent), and
send what is put into their queue in batches. ``calls`` says what is asked, ``exchange`` when it is asked
again, ``backlog`` what waits: all three are pure. ``blocking`` and ``loop`` do as they say; what these two
have in common stands in ``methods``.
"""

from gateway.publisher.blocking import Publisher
from gateway.publisher.errors import (
    PublisherClosed,
    PublisherError,
    QueueFull,
    Refused,
    Unreachable,
)
from gateway.publisher.loop import AsyncPublisher
from gateway.publisher.results import BatchResult, Published, SentTo, Token

__all__ = [
    "AsyncPublisher",
    "BatchResult",
    "Published",
    "Publisher",
    "PublisherClosed",
    "PublisherError",
    "QueueFull",
    "Refused",
    "SentTo",
    "Token",
    "Unreachable",
]
