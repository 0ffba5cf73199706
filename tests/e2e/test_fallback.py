"""``client.js`` in a real browser behind proxies that break WebSocket: it falls back, says so, and returns.

What the client promises (docs/clients.md, docs/client-js.md) is shown in three situations: without WebSocket,
with streams that are cut again and again, and with nothing at all for a while. One browser and one gateway
serve all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from playwright.sync_api import Browser, Page, sync_playwright

from gateway.calls.caller import Caller
from gateway.testing.server import Server, run_server
from tests.e2e.browser import launch, open_page
from tests.e2e.proxy import Proxy, in_front_of

QUICK = {"base": 20, "maximum": 100, "tries": 10}
"""Backoff in milliseconds for tests that wait for a reconnect."""
PATIENCE = 30_000
"""Milliseconds for a step; the machine may be busy."""

ORDERS = """() => Object.fromEntries(["room", "organisation", "user"].map((order) => [order,
    client.events.filter(({ room, to }) => order === (room ? "room" : to ?? "organisation"))
        .map(({ data, seq }) => [data, seq])]))"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    async def pause(caller: Caller, data: Any) -> Any:
        return {"paused": data["councilor_id"], "by": caller.user}

    with run_server() as server:
        server.handle_call("pause_councilor", pause)
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    proxy = in_front_of(server)
    yield proxy
    server.run_sync(proxy.cut)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


class Teller:
    """Publishes numbers in all three orders."""

    def __init__(self, server: Server, user: str) -> None:
        self.room = f"of:{user}"
        self.last = 0
        self._server = server
        self._user = user

    def tell(self, count: int) -> None:
        """So many in each of the three."""
        self._server.run(self._tell, count)

    async def _tell(self, count: int) -> None:
        gateway = self._server.gateway
        for _ in range(count):
            self.last += 1
            await gateway.publish(self._user, self.room, "n", self.last)
            await gateway.publish(self._user, None, "n", self.last)
            await gateway.hub.send_to_user(self._user, self._user, "n", self.last)

    def told(self, page: Page) -> None:
        """All numbers have come once, in order, and their places have no holes."""
        wait = f"() => client.events.filter(({{ data }}) => data === {self.last}).length >= 3"
        page.wait_for_function(wait)
        heard = page.evaluate(ORDERS)
        for order, numbers in heard.items():
            assert [number for number, _ in numbers] == list(range(1, self.last + 1)), order
            first = numbers[0][1]
            assert [seq for _, seq in numbers] == list(range(first, first + self.last)), order


def begin(page: Page, server: Server, proxy: Proxy, user: str, **options: Any) -> Teller:
    """Connect in a page that came through the proxy, and join; each user has an organisation alone."""
    token = server.token(org=user, user=user)
    open_page(page, proxy.origin, token, backoff=QUICK, **options)
    teller = Teller(server, user)
    page.evaluate("(room) => client.join(room)", teller.room)
    return teller


def on(page: Page, transport: str) -> None:
    """Wait until the client uses this transport."""
    page.wait_for_function(f"() => client.transport === '{transport}'")


def named(page: Page, name: str) -> list[Any]:
    return [value for what, value in page.evaluate("client.told") if what == name]


def test_without_a_websocket_everything_works_and_is_called_degraded(
    server: Server, proxy: Proxy, page: Page
) -> None:
    proxy.websocket = False
    page.clock.install()
    teller = begin(page, server, proxy, "anna", retryWebSocket=0)
    assert page.evaluate("[client.transport, client.isConnected(), client.getState()]") == [
        "sse",
        True,
        "connected",
    ]
    assert "server-sent events" in page.evaluate("client.degraded")
    (told,) = named(page, "degraded")
    assert (told["degraded"], told["transport"]) == (True, "sse")
    (welcome,) = named(page, "connected")
    assert (welcome["user"], welcome["transport"], welcome["reconnected"]) == ("anna", "sse", False)
    teller.tell(5)
    teller.told(page)

    # A command to the backend, send() by name, the same message twice, handlers that come and go.
    called = page.evaluate("client.call('pause_councilor', { councilor_id: 'c1' })")
    assert called == {"paused": "c1", "by": "anna"}
    assert page.evaluate("client.send('stats').then(({ connections }) => connections)") >= 1
    seen = page.evaluate(
        """async (room) => {
            const seen = [];
            const note = ({ data }) => seen.push(data);
            client.on("paid", note);
            for (const text of ["once", "twice"]) await client.publish(room, "paid", text, { mid: "p1" });
            await client.publish(room, "paid", "other");
            await new Promise((resolve) => client.on("last", resolve) && client.publish(room, "last"));
            client.off("paid", note);
            const done = new Promise((resolve) => client.on("end", resolve));
            await client.publish(room, "paid", "unheard");
            await client.publish(room, "end");
            await done;
            return seen;
        }""",
        teller.room,
    )
    assert seen == ["once", "other"]

    # It pings every 25 s, and after disconnect() it stays away, however long.
    proxy.asked.clear()
    page.clock.run_for(25_000)
    page.wait_for_function("() => client.isConnected()")
    server.run(_until, lambda: "/api/v1/commands" in proxy.asked)
    page.evaluate("client.disconnect()")
    server.run(_until, lambda: not server.gateway.hub.connections)
    proxy.asked.clear()
    page.clock.run_for(3_600_000)
    page.evaluate("fetch('/healthz').then((answer) => answer.text())")
    assert proxy.asked == ["/healthz"]
    assert page.evaluate("client.getState()") == "disconnected"
    assert named(page, "lost") == named(page, "error") == []


def test_what_worked_is_remembered_by_the_next_page(server: Server, proxy: Proxy, page: Page) -> None:
    proxy.websocket = False
    begin(page, server, proxy, "bert")
    assert '"kind":"sse"' in page.evaluate("JSON.stringify({ ...localStorage })").replace("\\", "")
    proxy.asked.clear()
    page.reload()
    teller = begin(page, server, proxy, "bert")
    assert page.evaluate("client.transport") == "sse"
    assert "/ws" not in proxy.asked
    proxy.websocket = True
    teller.tell(3)
    on(page, "websocket")  # which is tried a second later
    teller.tell(3)
    teller.told(page)
    assert page.evaluate("[client.degraded, localStorage.length]") == ["", 0]


def test_a_refused_token_is_told_without_a_websocket_too(server: Server, proxy: Proxy, page: Page) -> None:
    proxy.websocket = False
    with pytest.raises(Exception, match="token"):
        open_page(page, proxy.origin, "no.such.token")
    (refused,) = named(page, "login:refused")
    assert (refused["code"], refused["reconnect"]) == (1008, False)
    assert "token" in refused["reason"]
    assert page.evaluate("client.getState()") == "disconnected"


def test_streams_that_are_cut_every_second_lose_and_repeat_nothing(
    server: Server, proxy: Proxy, page: Page
) -> None:
    proxy.websocket, proxy.period = False, 1.1
    teller = begin(page, server, proxy, "cora", retryWebSocket=0)

    async def publish() -> None:
        while proxy.cuts < 4:
            await teller._tell(1)
            await trio.sleep(0.03)  # how fast this publisher is

    server.run(publish)
    teller.tell(20)
    teller.told(page)
    assert page.evaluate("client.transport") == "sse", "a stream that lasts a second is of use"
    assert [each["transport"] for each in named(page, "degraded")] == ["sse"]
    assert named(page, "lost") == named(page, "error") == named(page, "disconnected") == []
    assert page.evaluate("client.publish('of:cora', 'n', 0).then(({ seq }) => seq)") == teller.last + 1


def test_everything_blocked_then_freed_transport_by_transport(
    server: Server, proxy: Proxy, page: Page
) -> None:
    teller = begin(page, server, proxy, "dora", retryWebSocket=50)
    assert page.evaluate("[client.transport, client.degraded]") == ["websocket", ""]
    teller.tell(2)
    teller.told(page)

    proxy.everything = False
    server.run_sync(proxy.cut)
    page.wait_for_function("() => client.told.some(([name]) => name === 'reconnect:failed')")
    assert page.evaluate("[client.isConnected(), client.getState()]") == [False, "reconnecting"]
    assert named(page, "reconnect:failed")[0]["attempts"] == 10
    assert [each["attempt"] for each in named(page, "reconnecting")][:10] == list(range(1, 11))
    assert page.evaluate("client.degraded") == "there is no connection"
    teller.tell(2)  # while nothing gets through
    page.evaluate("void (window.sent = client.publish('elsewhere', 'kept', 'until it is back'))")

    proxy.websocket, proxy.everything = False, True
    page.evaluate("client.reconnect()")  # the click of the user who was asked
    on(page, "sse")
    assert page.evaluate("window.sent.then(({ room }) => room)") == "elsewhere"
    teller.tell(2)
    teller.told(page)

    proxy.streams = proxy.everything = False
    server.run_sync(proxy.cut)
    page.wait_for_function("() => !client.isConnected()")
    teller.tell(2)
    proxy.everything = True
    on(page, "poll")
    teller.tell(2)
    teller.told(page)
    assert "long-poll" in page.evaluate("client.degraded")

    proxy.streams = proxy.websocket = True
    teller.tell(2)
    on(page, "websocket")  # by itself, beside what works
    teller.tell(2)
    teller.told(page)
    assert page.evaluate("[client.degraded, localStorage.length]") == ["", 0]
    assert [each["transport"] for each in named(page, "connected")][:3] == ["websocket", "sse", "poll"]
    page.evaluate("client.ping()")
    proxy.asked.clear()
    teller.tell(2)
    teller.told(page)
    assert proxy.asked == [], "nothing polls beside the WebSocket"
    assert named(page, "lost") == []


def test_a_connection_that_fell_silent_is_given_up(server: Server, proxy: Proxy, page: Page) -> None:
    page.clock.install()
    teller = begin(page, server, proxy, "emil")
    teller.tell(2)
    teller.told(page)
    server.run_sync(proxy.freeze)
    teller.tell(2)  # is on its way, and never comes
    page.clock.run_for(25_000)
    page.clock.run_for(2_000)
    page.wait_for_function("() => client.degraded === 'the connection is slow'")
    page.clock.run_for(8_000)
    page.wait_for_function("() => client.told.some(([name]) => name === 'disconnected')")
    assert named(page, "disconnected")[0]["code"] == 4000
    server.run_sync(proxy.thaw)
    on(page, "websocket")
    teller.tell(2)
    teller.told(page)
    assert named(page, "lost") == []


async def _until(condition: Any) -> None:
    with trio.fail_after(PATIENCE / 1000):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await trio.sleep(0.005)
