"""REST calls to a node in memory, with httpx: one link for each request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import h11
import httpx
import trio

from gateway.testing.link import LinkEnd

__all__ = ["LinkTransport"]


class LinkTransport(httpx.AsyncBaseTransport):
    """An httpx transport that dials links in place of sockets; answers may be streams without end."""

    def __init__(
        self, dial: Callable[[], Awaitable[LinkEnd]], lets_through: Callable[[str], bool] | None = None
    ) -> None:
        """A path that is not let through is refused as a proxy does it."""
        self._dial = dial
        self._lets_through = lets_through

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx. Its errors are httpx's own, so that what retries on them can be tested."""
        if self._lets_through is not None and not self._lets_through(request.url.path):
            await trio.lowlevel.checkpoint()
            return httpx.Response(403, text="blocked", request=request)
        try:
            stream = await self._dial()
        except OSError as error:
            raise httpx.ConnectError(str(error), request=request) from error
        try:
            return await self._exchange(stream, request)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise

    async def _exchange(self, stream: LinkEnd, request: httpx.Request) -> httpx.Response:
        http = h11.Connection(h11.CLIENT)
        body = await request.aread()
        headers = [*request.headers.raw, (b"Connection", b"close")]
        target = request.url.raw_path
        said = http.send(h11.Request(method=request.method.encode(), target=target, headers=headers))
        said = (said or b"") + (http.send(h11.Data(body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
        try:
            await stream.send_all(said)
        except trio.BrokenResourceError as error:
            raise httpx.WriteError(str(error), request=request) from error
        answer = await _next_event(http, stream, request)
        while isinstance(answer, h11.InformationalResponse):
            answer = await _next_event(http, stream, request)
        assert isinstance(answer, h11.Response)
        return httpx.Response(
            answer.status_code, headers=list(answer.headers), stream=_Body(http, stream, request)
        )


async def _next_event(http: h11.Connection, stream: LinkEnd, request: httpx.Request) -> object:
    while True:
        try:
            event = http.next_event()
            if event is not h11.NEED_DATA:
                return event
            http.receive_data(await stream.receive_some())
        except (h11.RemoteProtocolError, trio.BrokenResourceError) as error:
            raise httpx.ReadError(str(error), request=request) from error


class _Body(httpx.AsyncByteStream):
    def __init__(self, http: h11.Connection, stream: LinkEnd, request: httpx.Request) -> None:
        self._http = http
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while isinstance(event := await _next_event(self._http, self._stream, self._request), h11.Data):
            yield bytes(event.data)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)
