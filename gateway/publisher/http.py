"""A request and its answer in the words of httpx."""

from __future__ import annotations

from typing import Any, Final

import httpx

from gateway.publisher.exchange import Answer, Failed, Request
from gateway.version import VERSION

__all__ = ["FAILURES", "answer_of", "content_of", "failed"]

FAILURES: Final = (httpx.TransportError,)
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def content_of(request: Request) -> dict[str, Any]:
    """The arguments of httpx's ``request``."""
    headers = {"User-Agent": f"trireme-publisher/{VERSION}"}
    if request.body is not None:
        headers["Content-Type"] = "application/json"
    if request.token is not None:
        headers["Authorization"] = f"Bearer {request.token}"
    return {
        "method": request.call.method,
        "url": request.call.path,
        "params": request.call.query,
        "content": request.body,
        "headers": headers,
        "timeout": request.timeout,
    }


def answer_of(response: httpx.Response) -> Answer:
    """What the generator of ``exchange`` is sent."""
    return Answer(response.status_code, response.content, response.headers.get("Retry-After"))


def failed(error: httpx.TransportError) -> Failed:
    """What the generator of ``exchange`` is sent."""
    where = error.request.url.copy_with(query=None, userinfo=None)
    return Failed(f"no answer from {where}: {error!r}", sent=not isinstance(error, _NOT_SENT))
