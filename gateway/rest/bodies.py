"""Bodies are taken in when a handler asks for them: who has no token is answered before that."""

from __future__ import annotations

from typing import Any

import trio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest

__all__ = ["BodyConnection", "BodyRequest"]


class BodyRequest(TrioRequest):
    """A request whose body stays where it is until somebody wants it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wanted = trio.Event()

    async def get_data(self, *arguments: Any, **options: Any) -> Any:
        """The whole body; from now on it is received. Raises 413 and 408 as Quart does."""
        self.wanted.set()
        return await super().get_data(*arguments, **options)


class BodyConnection(TrioASGIHTTPConnection):
    """Takes in no body that nobody wants; the server's buffer is one piece, then the peer has to wait."""

    async def handle_messages(self, nursery: trio.Nursery, request: Any, receive: Any) -> None:  # type: ignore[override]
        """Receive for ``request`` once it is wanted; cancelled when the request was answered."""
        if not _is_empty(request):
            await request.wanted.wait()
        await super().handle_messages(nursery, request, receive)


def _is_empty(request: Any) -> bool:
    """Without a body, so that a client that goes away is noticed at once."""
    headers = request.headers
    return "Transfer-Encoding" not in headers and headers.get("Content-Length", "0") == "0"
