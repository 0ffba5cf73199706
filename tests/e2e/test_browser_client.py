"""``client.js`` in a real browser: reconnection, isolation, many clients."""

from __future__ import annotations

import trio
from playwright.sync_api import BrowserContext, WebSocket, expect

from gateway.app import Gateway
from protocol.errors import CloseCode
from tests.docs.markdown import file_of
from tests.e2e.browser import Cable, call_in_trio, in_browser, open_client, origin, run_in_trio
from tests.support import start_gateway, until

QUICK = {"base": 20, "maximum": 100, "tries": 1000}
"""Backoff in milliseconds for tests that wait for a reconnect."""

COUNT_TO = """(n) => new Promise((done, fail) => {
    setTimeout(() => fail(new Error(`${client.events.length} of ${n} events came in time`)), 15_000);
    const look = () => client.events.length >= n && done();
    client.on("*", look);
    look();
})"""
STATE = """(wanted) => new Promise((done, fail) => {
    setTimeout(() => fail(new Error(`still ${client.getState()}, not ${wanted}`)), 15_000);
    const look = () => client.getState() === wanted && done();
    client.on("state", look);
    look();
})"""


async def test_nothing_is_lost_over_a_cut(gateway: Gateway, cable: Cable) -> None:
    """What was published while the network was away arrives after it, once, in order."""

    async def publish(first: int, last: int) -> None:
        for number in range(first, last + 1):
            await gateway.hub.publish("acme", "chat:42", "message:new", {"number": number})

    def work(context: BrowserContext) -> None:
        page = context.new_page()
        open_client(page, gateway, port=cable.port, backoff=QUICK)
        page.evaluate("client.join('chat:42', { events: ['message:*'] })")
        page.evaluate("client.subscribe('message:*')")
        run_in_trio(publish, 1, 3)
        page.evaluate(COUNT_TO, 3)
        for first in (4, 9):  # twice: the second time it knows its place from what was replayed
            call_in_trio(cable.cut)
            run_in_trio(until, lambda: not gateway.hub.connections)
            run_in_trio(publish, first, first + 3)
            call_in_trio(cable.mend)
            page.evaluate(COUNT_TO, first + 3)
            run_in_trio(publish, first + 4, first + 4)
            page.evaluate(COUNT_TO, first + 4)
        assert page.evaluate("client.events.map((event) => event.data.number)") == list(range(1, 14))
        assert page.evaluate("client.events.map((event) => event.seq)") == list(range(1, 14))
        told = page.evaluate("client.told")
        assert [value["reconnected"] for name, value in told if name == "connected"] == [False, True, True]
        assert [value for name, value in told if name in {"lost", "error", "reconnect:failed"}] == []

    await in_browser(work)


async def test_what_the_history_no_longer_holds_is_told(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, history={"messages": 3})
    cable = Cable(gateway.port)
    await nursery.start(cable.run)

    async def publish(first: int, last: int) -> None:
        for number in range(first, last + 1):
            await gateway.hub.publish("acme", "chat:42", "message:new", number)
            await gateway.hub.publish("acme", None, "notice", number)

    def work(context: BrowserContext) -> None:
        page = context.new_page()
        open_client(page, gateway, port=cable.port, backoff=QUICK)
        page.evaluate("client.join('chat:42')")
        run_in_trio(publish, 1, 1)
        page.evaluate(COUNT_TO, 2)
        call_in_trio(cable.cut)
        run_in_trio(until, lambda: not gateway.hub.connections)
        run_in_trio(publish, 2, 7)
        call_in_trio(cable.mend)
        page.evaluate(COUNT_TO, 8)
        run_in_trio(publish, 8, 8)
        page.evaluate(COUNT_TO, 10)
        heard = page.evaluate("client.events.map((event) => [event.room ?? '', event.data])")
        assert [number for room, number in heard if room] == [1, 5, 6, 7, 8]
        assert [number for room, number in heard if not room] == [1, 5, 6, 7, 8]
        lost = [value for name, value in page.evaluate("client.told") if name == "lost"]
        told = {(each.get("room"), each["from"], each["to"], each["reason"]) for each in lost}
        assert told == {("chat:42", 2, 4, "history"), (None, 2, 4, "history")} and len(lost) == 2

    await in_browser(work)


async def test_server_restart(gateway: Gateway, nursery: trio.Nursery) -> None:
    """After a restart the client is in its rooms again, and told that their order began anew."""

    async def restart() -> Gateway:
        gateway.stop()
        await gateway.finished.wait()
        again = await start_gateway(nursery, port=port)
        for number in range(3):  # before the client is back
            await again.hub.publish("acme", "chat:42", "message:new", number)
        return again

    def work(context: BrowserContext) -> None:
        page = context.new_page()
        open_client(page, gateway, backoff=QUICK)
        page.evaluate("client.join('chat:42')")
        run_in_trio(gateway.hub.publish, "acme", "chat:42", "message:new", "before")
        page.evaluate(COUNT_TO, 1)
        again = run_in_trio(restart)
        page.evaluate(COUNT_TO, 4)
        run_in_trio(again.hub.publish, "acme", "chat:42", "message:new", "after")
        page.evaluate(COUNT_TO, 5)
        assert page.evaluate("client.events.map((event) => event.data)") == ["before", 0, 1, 2, "after"]
        told = page.evaluate("client.told")
        ends = [value for name, value in told if name == "disconnected"]
        assert ends == [
            {"code": CloseCode.SERVICE_RESTART, "reason": "the gateway is shutting down", "reconnect": True}
        ]
        delays = [value["delay"] for name, value in told if name == "reconnecting"]
        assert 1000 <= delays[0] <= 2020, "the wait that the gateway drew for this client, and the jitter"
        lost = [value for name, value in told if name == "lost"]
        assert [(each.get("room"), each.get("of"), each["from"], each["reason"]) for each in lost] == [
            (None, None, 1, "epoch"),
            (None, "user", 1, "epoch"),
            ("chat:42", None, 2, "epoch"),
        ]

    port = gateway.port
    await in_browser(work)


async def test_disconnect_is_for_good(gateway: Gateway) -> None:
    """A dropped client comes back; one that disconnected does not, however long one waits."""
    sockets: list[WebSocket] = []

    def work(context: BrowserContext) -> None:
        page = context.new_page()
        page.on("websocket", lambda socket: sockets.append(socket))
        page.clock.install()
        open_client(page, gateway)
        call_in_trio(gateway.hub.close_matching, lambda _: True, CloseCode.TRY_AGAIN_LATER, "later")
        page.evaluate(STATE, "reconnecting")
        page.clock.run_for(500)  # the longest first wait
        page.evaluate(STATE, "connected")
        assert len(sockets) == 2

        page.evaluate("client.disconnect()")
        run_in_trio(until, lambda: not gateway.hub.connections)
        page.clock.run_for(3_600_000)
        page.evaluate("fetch('/healthz').then((answer) => answer.text())")
        assert page.evaluate("client.getState()") == "disconnected"
        assert len(sockets) == 2

    await in_browser(work)


async def test_gives_up_after_the_configured_tries(gateway: Gateway, cable: Cable) -> None:
    def work(context: BrowserContext) -> None:
        page = context.new_page()
        backoff = {"base": 20, "maximum": 50, "tries": 3, "giveUp": True}
        open_client(page, gateway, port=cable.port, backoff=backoff)
        page.evaluate("client.join('chat:42')")
        call_in_trio(cable.cut)
        page.evaluate(STATE, "failed")
        told = page.evaluate("client.told")
        assert [value["attempt"] for name, value in told if name == "reconnecting"] == [1, 2, 3]
        assert [value["attempts"] for name, value in told if name == "reconnect:failed"] == [3]

        call_in_trio(cable.mend)
        page.evaluate("client.connect()")
        run_in_trio(gateway.hub.publish, "acme", "chat:42", "message:new", "still a member")
        page.evaluate(COUNT_TO, 1)

    await in_browser(work)


async def test_comes_back_by_itself_long_after_it_said_that_it_failed(gateway: Gateway, cable: Cable) -> None:
    def work(context: BrowserContext) -> None:
        page = context.new_page()
        backoff = {"base": 20, "maximum": 120_000, "tries": 1}
        open_client(page, gateway, port=cable.port, backoff=backoff)
        page.evaluate("client.join('chat:42')")
        page.evaluate(
            "void (window.failed = new Promise((resolve) => client.on('reconnect:failed', () => resolve())))"
        )
        call_in_trio(cable.cut)
        page.evaluate("window.failed")
        call_in_trio(cable.mend)
        page.evaluate("window.dispatchEvent(new Event('online'))")
        page.evaluate(STATE, "connected")
        run_in_trio(gateway.hub.publish, "acme", "chat:42", "message:new", "still a member")
        page.evaluate(COUNT_TO, 1)

    await in_browser(work)


async def test_organisations_are_isolated(gateway: Gateway) -> None:
    """Five organisations, same room, same user names: each hears itself only."""
    orgs = ["acme", "globex", "initech", "umbrella", "wonka"]

    async def publish() -> None:
        for org in orgs:
            await gateway.hub.publish(org, None, "to:all", org)
            await gateway.hub.send_to_user(org, "alice", "to:alice", org)
            await gateway.hub.publish(org, "chat:42", "to:room", org)

    def work(context: BrowserContext) -> None:
        pages = {org: context.new_page() for org in orgs}
        for org, page in pages.items():
            assert open_client(page, gateway, org=org)["org"] == org
            page.evaluate("client.join('chat:42')")
        for org, page in pages.items():
            page.evaluate("(org) => client.publish('chat:42', 'said', org)", org)
        run_in_trio(publish)
        for org, page in pages.items():
            page.evaluate(COUNT_TO, 4)
            page.evaluate("client.ping()")  # whatever else was on its way is here now
            heard = page.evaluate("client.events.map(({ event, data }) => [event, data])")
            assert heard == [["said", org], ["to:all", org], ["to:alice", org], ["to:room", org]]
            assert page.evaluate("client.stats()")["connections"] == 1
            assert page.evaluate("client.presence('chat:42')")["members"] == [
                {"user": "alice", "connections": 1}
            ]

    await in_browser(work)


async def test_fifty_clients_at_once(gateway: Gateway) -> None:
    """Each publishes once, and each hears all fifty in the same order."""
    tokens = [gateway.auth.issue(org="acme", user=f"user{number}").token for number in range(50)]

    def work(context: BrowserContext) -> None:
        page = context.new_page()
        page.goto(f"{origin(gateway)}/assets/icon.svg")
        heard = page.evaluate(
            """async (tokens) => {
                const { Trireme } = await import("/client.js");
                const url = `ws://${location.host}/ws`;
                window.clients = tokens.map((token) => new Trireme(url, { token }));
                const all = clients.map((client) => new Promise((done, fail) => {
                    const heard = [];
                    setTimeout(() => fail(new Error(`heard ${heard.length}`)), 30_000);
                    client.on("hello", ({ seq, data }) => {
                        if (heard.push([seq, data]) === tokens.length) done(heard);
                    });
                }));
                // Chromium itself delays more than a dozen attempts at a time, by seconds.
                for (let first = 0; first < clients.length; first += 10) {
                    await Promise.all(clients.slice(first, first + 10).map((client) => client.connect()));
                }
                await Promise.all(clients.map((client) => client.join("harbour")));
                await Promise.all(clients.map((client, n) => client.publish("harbour", "hello", n)));
                return Promise.all(all);
            }""",
            tokens,
        )
        assert call_in_trio(lambda: len(gateway.hub.connections)) == 50
        assert len(heard) == 50
        assert [seq for seq, _ in heard[0]] == list(range(1, 51))
        assert sorted(number for _, number in heard[0]) == list(range(50))
        assert all(each == heard[0] for each in heard)
        page.evaluate("clients.forEach((client) => client.disconnect())")
        run_in_trio(until, lambda: not gateway.hub.connections)

    await in_browser(work)


async def test_readme_example(gateway: Gateway, nursery: trio.Nursery) -> None:
    """The page of the README works as it stands, from an origin of its own."""
    content = (
        file_of("README.md", "hello.html").replace("127.0.0.1:8000", f"127.0.0.1:{gateway.port}").encode()
    )

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
            + f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        await stream.aclose()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, listeners)
    port = listeners[0].socket.getsockname()[1]
    token = gateway.auth.issue(org="acme", user="alice").token

    def work(context: BrowserContext) -> None:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/hello.html?token={token}")
        run_in_trio(until, lambda: len(gateway.hub.statistics.rooms("acme")) == 1)
        page.click("#say")
        expect(page.locator("#messages li")).to_have_text("1 alice: hello")

    await in_browser(work)
