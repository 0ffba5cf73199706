"""EventSource in a real Chromium: a foreign client of ``/stream`` that resumes by itself."""

from __future__ import annotations

import trio
from playwright.sync_api import BrowserContext

from gateway.app import Gateway
from tests.e2e.browser import in_browser, origin, run_in_trio
from tests.support import start_gateway, until

_LISTEN = """(token) => {
    window.seen = [];
    window.opened = 0;
    window.source = new EventSource(`/api/v1/stream?join=r&token=${token}`);
    window.source.onopen = () => { window.opened += 1; };
    window.source.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.t === "event") window.seen.push(message.data);
    };
}"""


async def test_it_comes_back_by_itself_and_misses_nothing(nursery: trio.Nursery) -> None:
    gateway: Gateway = await start_gateway(nursery)
    token = gateway.auth.issue(org="acme", user="alice").token

    def joined() -> bool:
        return any(each.memberships for each in gateway.hub.connections.values())

    async def publish(first: int, last: int) -> None:
        for number in range(first, last):
            await gateway.publish("acme", "r", "e", number)

    async def cut() -> None:
        for session in list(gateway.sessions):
            session.close(1012, "somewhere else")
        await until(lambda: not gateway.hub.connections)

    def visit(context: BrowserContext) -> list[int]:
        page = context.new_page()
        page.goto(origin(gateway))  # its connection is kept alive, and used for the stream
        page.evaluate(_LISTEN, token)
        run_in_trio(until, joined)
        run_in_trio(publish, 0, 10)
        page.wait_for_function("() => seen.length === 10")
        run_in_trio(cut)
        run_in_trio(publish, 10, 20)
        page.wait_for_function("() => seen.length >= 20 && opened === 2")
        seen: list[int] = page.evaluate("seen")
        return seen

    assert await in_browser(visit) == list(range(20))
