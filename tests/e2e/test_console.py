"""The console page in a real browser."""

from __future__ import annotations

import httpx
import trio
from playwright.sync_api import BrowserContext, expect

from gateway.app import Gateway
from tests.e2e.browser import Cable, call_in_trio, console, in_browser, origin, run_in_trio
from tests.support import connected, start_gateway, until

LATEST = "#feed li:not(.system):first-child"

ORDER = """async () => {
    const { client } = await import("/assets/connection.js");
    window.order = [];
    const rows = new MutationObserver(() => order.push("shown"));
    rows.observe(document.getElementById("feed"), { childList: true });
    client.on("message:new", () => setTimeout(() => order.push("a second later"), 1000));
}"""


def broadcast(gateway: Gateway, **body: object) -> None:
    token = gateway.auth.issue(org="acme", user="backend", roles=["service"]).token
    answer = httpx.post(
        f"{origin(gateway)}/api/v1/broadcast",
        json=body,
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    )
    assert answer.status_code == 200, answer.text


async def test_welcome(gateway: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        page, wrong = console(context, gateway)
        expect(page.locator("#indicator")).to_have_attribute("data-state", "connected")
        expect(page.locator("#indicator")).to_have_text("Connected")
        expect(page.locator("#who")).to_have_text("alice of acme")
        expect(page.locator("#identity")).to_contain_text("trireme.v1.json")
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        expect(page.locator("#stat-connections")).to_have_text("1")
        expect(page.locator("#stat-rooms")).to_have_text("2")  # the page of agents is in one
        assert page.url == f"{origin(gateway)}/", "the token does not stay in the address"
        page.reload()
        expect(page.locator("#who")).to_have_text("alice of acme")
        assert wrong == []

    await in_browser(work)


async def test_asks_before_it_takes_a_token_that_another_page_brings(gateway: Gateway) -> None:
    tokens = {user: gateway.auth.issue(org="acme", user=user).token for user in ("mallory", "alice")}
    follow = """(address) => {
        const link = document.createElement("a");
        Object.assign(link, { href: address, rel: "noreferrer" });
        document.body.append(link);
        link.click();
    }"""

    def work(context: BrowserContext) -> None:
        page = context.new_page()
        page.goto(f"http://localhost:{gateway.port}/docs")
        page.evaluate(follow, f"{origin(gateway)}/#token={tokens['mallory']}")
        expect(page.locator("#ask")).to_contain_text("mallory of acme")
        assert page.url == f"{origin(gateway)}/"
        page.get_by_role("button", name="Do not use it").click()
        expect(page.locator("#sign-in")).to_be_visible()
        assert page.evaluate("sessionStorage.getItem('token')") is None
        page.goto("about:blank")
        page.goto(f"{origin(gateway)}/#token={tokens['alice']}")
        expect(page.locator("#who")).to_have_text("alice of acme")
        page.evaluate("(token) => { location.hash = 'token=' + token; }", tokens["mallory"])
        expect(page.locator("#ask")).to_contain_text("mallory of acme")
        page.get_by_role("button", name="Do not use it").click()
        expect(page.locator("#who")).to_have_text("alice of acme")
        page.evaluate("(token) => { location.hash = 'token=' + token; }", tokens["mallory"])
        page.get_by_role("button", name="Use it", exact=True).click()
        expect(page.locator("#who")).to_have_text("mallory of acme")

    await in_browser(work)


async def test_large_integers_are_shown_as_they_are(gateway: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        page, wrong = console(context, gateway)
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        page.fill("#publish-data", '{"id": 9223372036854775807}')
        page.get_by_role("button", name="Publish").click()
        expect(page.locator(LATEST)).to_contain_text('{"id":9223372036854775807}')
        assert wrong == []

    await in_browser(work)


async def test_live_event_is_seen_within_a_second(gateway: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        page, wrong = console(context, gateway)
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        page.evaluate(ORDER)
        broadcast(gateway, room="chat:42", event="message:new", data={"text": "<b>ahoy</b>"})
        expect(page.locator(LATEST)).to_contain_text("message:new")
        expect(page.locator(LATEST)).to_contain_text('{"text":"<b>ahoy</b>"}')
        expect(page.locator(LATEST)).to_contain_text("chat:42 #1 · backend")
        page.wait_for_function("() => order.includes('a second later')")
        assert page.evaluate("order[0]") == "shown"
        assert wrong == []

    await in_browser(work)


async def test_approval_event(gateway: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        page, wrong = console(context, gateway)
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        page.fill("#feed-pattern", "task:*")
        broadcast(gateway, room="chat:42", event="task:created", data={"task": "deploy"})
        broadcast(gateway, room="chat:42", event="message:new", data={})
        broadcast(gateway, event="task:approved", data={"task": "deploy", "by": "carol"})
        expect(page.locator("#feed-count")).to_have_text("3")
        expect(page.locator("#feed li:visible .name")).to_have_text(["task:approved", "task:created"])
        expect(page.locator(LATEST)).to_contain_text('"by":"carol"')
        page.fill("#feed-pattern", "")
        expect(page.locator("#feed li:visible .name")).to_have_text(
            ["task:approved", "message:new", "task:created"]
        )
        assert wrong == []

    await in_browser(work)


async def test_publish_join_and_leave(gateway: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        page, wrong = console(context, gateway)
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        page.fill("#join-room", "task:7")
        page.click("#join button")
        expect(page.locator("#rooms li")).to_have_count(2)
        page.fill("#publish-data", "{ not JSON")
        page.click("#publish .primary")
        expect(page.locator("#publish-result")).to_contain_text("Not JSON")
        page.fill("#publish-data", '{"text": "from the page"}')
        page.click("#publish .primary")
        expect(page.locator("#publish-result")).to_contain_text("Placed as #1")
        expect(page.locator(LATEST)).to_contain_text("from the page")
        page.click("#rooms button[aria-label='Leave task:7']")
        expect(page.locator("#rooms li")).to_have_count(1)
        assert wrong == []

    async with connected(gateway, user="bob") as bob:
        await bob.ask("join", room="task:7")
        await in_browser(work)
        event = await bob.event()
        assert (event.room, event.event, event.data) == ("task:7", "typing:start", {"user": "alice"})
        event = await bob.event()
        assert (event.room, event.event, event.sender) == ("task:7", "message:new", "alice")
        assert event.data == {"text": "from the page"}
    await until(lambda: not gateway.hub.connections)


async def test_server_restart(gateway: Gateway, nursery: trio.Nursery) -> None:
    """The page says what happens, comes back by itself and is in its rooms again."""

    async def stop() -> None:
        gateway.stop()
        await gateway.finished.wait()

    def work(context: BrowserContext) -> None:
        page, _ = console(context, gateway)
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        run_in_trio(stop)
        expect(page.locator("#indicator")).to_have_attribute("data-state", "reconnecting")
        expect(page.locator("#banner")).to_contain_text("The gateway cannot be reached.")
        expect(page.locator("#feed")).to_contain_text("the gateway is shutting down")
        again = run_in_trio(lambda: start_gateway(nursery, port=port))
        broadcast(again, room="chat:42", event="message:new", data={"text": "while it was away"})
        page.evaluate("document.getElementById('retry').click()")  # it may be back already
        expect(page.locator("#indicator")).to_have_attribute("data-state", "connected")
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator("#feed")).to_contain_text("The connection is back")
        expect(page.locator("#feed")).to_contain_text("while it was away")
        broadcast(again, room="chat:42", event="message:new", data={"text": "after that"})
        expect(page.locator(LATEST)).to_contain_text("after that")

    port = gateway.port
    await in_browser(work)


async def test_after_ten_tries_the_user_is_asked_and_one_click_tries_again(
    gateway: Gateway, cable: Cable
) -> None:
    def work(context: BrowserContext) -> None:
        page = context.new_page()
        page.clock.install()
        token = gateway.auth.issue(org="acme", user="alice").token
        page.goto(f"http://127.0.0.1:{cable.port}/#token={token}")
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        call_in_trio(cable.cut)  # as a process that was killed: without a word
        expect(page.locator("#indicator")).to_have_text("Offline")
        for _ in range(200):
            page.clock.run_for(30_000)  # the longest wait between two tries
            if "after 10 tries" in (page.locator("#banner-text").text_content() or ""):
                break
        expect(page.locator("#banner-text")).to_contain_text("cannot be reached after 10 tries")
        call_in_trio(cable.mend)
        page.get_by_role("button", name="Retry now").click()
        expect(page.locator("#indicator")).to_have_text("Connected")
        expect(page.locator("#banner")).to_be_hidden()
        broadcast(gateway, room="chat:42", event="message:new", data={"text": "still there"})
        page.clock.run_for(1_000)
        expect(page.locator(LATEST)).to_contain_text("still there")

    await in_browser(work)


async def test_refused_token(gateway: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        page = context.new_page()
        page.goto(origin(gateway))
        expect(page.locator("#sign-in")).to_be_visible()
        page.fill("#sign-in-token", "no.such.token")
        page.click("#sign-in .primary")
        expect(page.locator("#sign-in-reason")).to_contain_text("The gateway refused the token")
        expect(page.locator("#sign-in")).to_be_visible()
        page.fill("#sign-in-token", gateway.auth.issue(org="acme", user="carol").token)
        page.click("#sign-in .primary")
        expect(page.locator("#who")).to_have_text("carol of acme")
        expect(page.locator("#sign-in")).to_be_hidden()

    await in_browser(work)


async def test_disconnect_button(gateway: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        page, wrong = console(context, gateway)
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        page.click("#toggle")
        expect(page.locator("#indicator")).to_have_text("Disconnected")
        expect(page.locator("#identity dt")).to_have_count(0)
        run_in_trio(until, lambda: not gateway.hub.connections)
        page.click("#toggle")
        expect(page.locator("#indicator")).to_have_text("Connected")
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        assert wrong == []

    await in_browser(work)
