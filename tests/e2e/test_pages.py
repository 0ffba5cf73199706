"""The console's pages in a real browser: agents, inbox, operations, the API; all of them accessible."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from playwright.sync_api import BrowserContext, Page, expect

from gateway.app import Gateway
from tests.e2e.browser import console, in_browser, origin, run_in_trio
from tests.e2e.prerequisites import FOLDER
from tests.support import start_gateway

HOSTILE = (
    "\u202egnorw\u202c",
    "<img src=x onerror=alert(1)>",
    "W" * 90,
    "\u2066\u2067\u0645\u0631\u062d\u0628\u0627",
    "Z" + "\u0334\u0335\u0336\u0337\u0338" * 8,
    "a b\u2028c",
)

AXE = """() => axe.run().then(({ violations }) => violations.map(
    ({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).slice(0, 3).join(" | ")}`))"""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
REDRAWS = """() => {
    const [begun, rows] = [performance.now(), document.getElementById("feed")];
    window.redraws = 0;
    const count = new MutationObserver(() => { window.redraws += 1; });
    count.observe(document.getElementById("feed-count"), { childList: true });
    window.perSecond = () => (window.redraws - 2) / Math.max(1, (performance.now() - begun) / 1000);
}"""


@pytest.fixture
async def stored(nursery: trio.Nursery, tmp_path: Path) -> Gateway:
    """A gateway with a database, and with traces."""
    return await start_gateway(
        nursery, database=f"sqlite:///{tmp_path / 'gateway.db'}", trace={"messages": 100}
    )


def service(gateway: Gateway, verb: str, path: str, **body: Any) -> Any:
    """What REST answers to a service of acme."""
    token = gateway.auth.issue(org="acme", user="backend", roles=["service"]).token
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.request(
        verb, f"{origin(gateway)}/api/v1{path}", json=body or None, headers=headers, timeout=10
    )
    assert answer.is_success, answer.text
    return answer.json()


def go(page: Page, name: str) -> None:
    page.locator(f".tabs a[data-page={name}]").click()
    expect(page.locator(f"#page-{name}")).to_be_visible()


async def test_agents_live_and_past(stored: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        page, wrong = console(context, stored)
        go(page, "agents")
        expect(page.locator("#running")).to_contain_text("No agent runs now")
        expect(page.locator("#history")).to_contain_text("Nothing ran in the last 30 days")
        run = service(stored, "POST", "/executions", agent="researcher", method="summarise", team="insight")
        card = page.locator(".run")
        expect(card.locator(".chip")).to_have_text("queued")
        path = f"/executions/{run['id']}"
        service(stored, "PATCH", path, status="running", progress=40, step="reading", tools=["search"])
        expect(card.locator(".chip")).to_have_text("running")
        expect(card.locator(".spinner")).to_be_visible()
        expect(card).to_contain_text("reading")
        expect(card).to_contain_text("40 %")
        expect(page.locator(".toast")).to_contain_text("researcher started")
        service(stored, "PATCH", path, status="completed", result={"pages": 3})
        expect(card.locator(".chip")).to_have_text("completed")
        failed = service(stored, "POST", "/executions", agent="deployer", method="deploy", status="running")
        service(stored, "PATCH", f"/executions/{failed['id']}", status="failed", error="<b>no</b>")
        rows = page.locator("#history tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.nth(1)).to_contain_text('{"pages":3}')
        expect(rows.nth(1)).to_contain_text("search")
        expect(rows.nth(0)).to_contain_text("<b>no</b>")
        expect(page.locator("#history-cards .number").nth(0)).to_have_text("50.0 %")
        expect(page.locator("#history-cards .number").nth(2)).to_have_text("2")
        expect(page.locator("#history-chart svg")).to_have_attribute("aria-label", re.compile(": 2 in all"))
        page.select_option("#filters [name=status]", "completed")
        expect(rows).to_have_count(1)
        assert page.url.endswith("#/agents?status=completed")
        page.evaluate("history.back()")
        expect(rows).to_have_count(2)
        for name, value in (("agent", "deployer"), ("method", "deploy")):
            page.fill(f"#filters [name={name}]", value)
            page.keyboard.press("Enter")
            expect(rows).to_have_count(1)
            expect(rows).to_contain_text("deployer")
            page.evaluate("history.back()")
            expect(rows).to_have_count(2)
        page.evaluate("location.hash = '#/agents?from=2001-01-01&to=2001-01-02'")
        expect(page.locator("#filters [name=to]")).to_have_value("2001-01-02")
        expect(page.locator("#history")).to_contain_text("Nothing matches these filters")
        page.get_by_role("button", name="Clear the filters").click()
        rows.nth(1).get_by_role("button").click()
        timeline = page.locator("dialog.sheet .timeline li")
        expect(timeline).to_have_count(3)
        expect(timeline.nth(1)).to_contain_text("reading · 40 %")
        page.keyboard.press("Escape")
        expect(page.locator("dialog.sheet")).to_have_count(0)
        assert wrong == []

    await in_browser(work)


async def test_inbox_in_two_tabs(stored: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        here, wrong = console(context, stored)
        there, _ = console(context, stored)
        badge = here.locator("#badge")
        expect(here.locator("#indicator")).to_have_text("Connected")
        expect(there.locator("#indicator")).to_have_text("Connected")
        first = {"user": "alice", "type": "success", "title": "Report", "message": "It is ready."}
        service(stored, "POST", "/notifications", **first)
        service(stored, "POST", "/notifications", **{**first, "type": "error", "title": "Deploy"})
        expect(badge).to_contain_text("2")
        expect(here).to_have_title("(2) Trireme console")
        assert "data:image/svg+xml" in (here.locator("#tab-icon").get_attribute("href") or "")
        go(here, "inbox")
        go(there, "inbox")
        items = there.locator("#notifications > li")
        expect(items.locator("h3")).to_have_text(["Deploy", "Report"])
        items.nth(1).get_by_role("button", name="Mark as read").click()
        expect(badge).to_contain_text("1")
        expect(here.locator("#notifications > li.unread")).to_have_count(1)
        items.nth(0).get_by_role("button", name="Delete").click()
        expect(here.locator("#notifications > li")).to_have_count(1)
        expect(badge).to_be_hidden()
        asked = {
            "title": "May it deploy?",
            "users": ["alice", "carol"],
            "deadline": 600,
            "fallback": "reject",
        }
        approval = service(stored, "POST", "/approvals", **asked)
        for page in (here, there):
            expect(page.locator("li.ask h3")).to_have_text("May it deploy?")
            expect(page.locator(".countdown")).to_contain_text("reject in ")
        here.fill("li.ask .comment", "go")
        here.get_by_role("button", name="Approve").click()
        for page in (here, there):
            expect(page.locator("li.ask")).to_have_count(0)
            expect(page.locator("#decided li")).to_contain_text("approve")
            expect(page.locator("#decided li")).to_contain_text("“go”")
        decision = service(stored, "GET", f"/approvals/{approval['id']}")["decision"]
        assert (decision["choice"], decision["user"], decision["comment"]) == ("approve", "alice", "go")
        assert wrong == []

    await in_browser(work)


async def test_operations_and_what_a_member_sees_of_them(stored: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        bob, wrong = console(context, stored, user="bob")
        go(bob, "operations")
        expect(bob.locator("#page-operations")).to_contain_text("No permission")
        go(bob, "live")
        bob.fill("#join-room", "chat:design")
        bob.click("#join button")
        expect(bob.locator("#rooms li")).to_have_count(2)
        admin, problems = console(context, stored, user="root", roles=["service"])
        # A service sees what happens in rooms that it did not join.
        expect(admin.locator("#rooms li.followed")).to_have_text(re.compile("chat:design"))
        service(stored, "POST", "/broadcast", room="chat:design", event="drawn", data={})
        expect(admin.locator("#feed li").first).to_contain_text("drawn")
        admin.uncheck("#follow")
        expect(admin.locator("#rooms li")).to_have_count(1)
        sent = service(stored, "POST", "/broadcast", room="chat:42", event="message:new", data={})
        go(admin, "operations")
        rows = admin.locator("#connections tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.filter(has_text="bob")).to_contain_text("websocket")
        expect(rows.filter(has_text="bob")).to_contain_text("empty")
        expect(admin.locator("#operations-cards")).to_contain_text("Normal")
        expect(admin.locator("#chart-rates svg")).to_have_attribute("aria-label", re.compile("per second"))
        admin.fill("#trace-mid", sent["mid"])
        admin.get_by_role("button", name="Trace").click()
        expect(admin.locator("#trace tbody tr").filter(has_text="bob")).to_contain_text("sent")
        rows.filter(has_text="bob").get_by_role("button").click()
        admin.locator("dialog.sheet").get_by_role("button", name="Disconnect").click()
        question = admin.get_by_role("dialog", name="Disconnect bob?")
        question.get_by_role("button", name="Cancel").click()
        expect(bob.locator("#indicator")).to_have_text("Connected")
        admin.locator("dialog.sheet").get_by_role("button", name="Disconnect").click()
        question.get_by_role("button", name="Disconnect").click()
        expect(bob.locator("#indicator")).to_have_text("Disconnected")
        expect(rows).to_have_count(1)
        assert wrong == problems == []

    await in_browser(work)


async def test_thousands_of_events_and_hostile_names(stored: Gateway) -> None:
    async def flood(number: int) -> None:
        for each in range(number):
            name = HOSTILE[each % len(HOSTILE)]
            data = {"text": name * 5, "number": each}
            await stored.hub.publish("acme", "chat:42", "message:new", data, sender=name)

    def work(context: BrowserContext) -> None:
        page, wrong = console(context, stored, roles=["service"], user=HOSTILE[0])
        page.set_viewport_size({"width": 390, "height": 800})
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        page.evaluate(REDRAWS)
        run_in_trio(flood, 3000)
        expect(page.locator("#feed-count")).to_have_text("3,000")
        assert page.evaluate("perSecond()") <= 10
        assert page.locator("#feed li").count() < 60
        for part in ("data", "rest"):  # whatever script a name has, its number stands before it
            shown = page.locator(f"#feed li .{part}").first
            assert shown.evaluate("(each) => getComputedStyle(each).direction") == "ltr"
        assert page.evaluate(TOO_WIDE) <= 0
        page.click("#feed-pause")
        top = page.locator("#feed li").first.text_content()
        run_in_trio(flood, 50)
        expect(page.locator("#feed-pause")).to_have_text("Resume (50 new)")
        assert page.locator("#feed li").first.text_content() == top
        page.click("#feed-pause")
        expect(page.locator("#feed li").first).to_contain_text('"number":49')
        page.locator("#feed li button").first.click()
        expect(page.locator("dialog.sheet")).to_contain_text('"number": 49')
        assert page.evaluate(TOO_WIDE) <= 0
        assert wrong == []

    await in_browser(work)


async def test_the_page_of_the_api(stored: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        page, wrong = console(context, stored)
        expect(page.locator("#indicator")).to_have_text("Connected")
        page.locator(".tabs a[href='/docs']").click()
        expect(page.locator("#token-state")).to_have_text("alice of acme")
        page.keyboard.press("/")
        page.keyboard.type("decide_approval")
        expect(page.locator(".operation:visible")).to_have_count(1)
        page.locator(".contents a:visible").first.click()
        expect(page.locator("#decide_approval")).to_have_attribute("open", "")
        expect(page.locator("#decide_approval textarea")).to_have_value(re.compile('"choice"'))
        page.goto(f"{origin(stored)}/docs#get_stats")
        operation = page.locator("#get_stats")
        operation.get_by_role("button", name="Send").click()
        expect(operation.locator(".answer")).to_contain_text('"org": "acme"')
        line = f"""curl -sS -H "Authorization: Bearer $TOKEN" '{origin(stored)}/api/v1/stats'"""
        expect(operation.locator("pre").first).to_have_text(line)
        page.goto(f"{origin(stored)}/docs#error-301")
        expect(page.locator("#error-301")).to_be_in_viewport()
        expect(page.locator("#error-301")).to_contain_text("OVERLOADED")
        assert wrong == []

    await in_browser(work)


async def test_every_page_is_accessible_in_all_forms(stored: Gateway) -> None:
    axe = (FOLDER / "node_modules" / "axe-core" / "axe.min.js").read_text()

    def work(context: BrowserContext) -> None:
        found: list[str] = []
        page, _ = console(context, stored, roles=["service"])
        expect(page.locator("#indicator")).to_have_text("Connected")
        for title in ("Report", "Deploy"):
            service(
                stored, "POST", "/notifications", user="alice", type="info", title=title, message="Ready."
            )
        service(stored, "POST", "/approvals", title="Deploy?", users=["alice"], deadline=600)
        run = service(stored, "POST", "/executions", agent="researcher", status="running")
        service(stored, "PATCH", f"/executions/{run['id']}", status="failed", error="no")
        service(stored, "POST", "/executions", agent="deployer", status="running")
        for name, ready in (
            ("live", "#feed li"),
            ("agents", "#history tbody tr"),
            ("inbox", "li.ask"),
            ("operations", "#connections tbody tr"),
            ("docs", "#create_execution[open] textarea"),
        ):
            address = "/docs#create_execution" if name == "docs" else f"/#/{name}"
            page.goto(origin(stored) + address)
            expect(page.locator(ready).first).to_be_visible()
            page.evaluate(axe)
            for scheme, width in itertools.product(("light", "dark"), (1366, 390)):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                page.set_viewport_size({"width": width, "height": 850})
                found += [f"{name} {scheme} {width}: {each}" for each in page.evaluate(AXE)]
                assert page.evaluate(TOO_WIDE) <= 0, f"{name} is wider than {width}"
        assert found == []

    await in_browser(work)


async def test_degraded_where_no_websocket_gets_through(stored: Gateway) -> None:
    def work(context: BrowserContext) -> None:
        context.route_web_socket("**/ws*", lambda socket: socket.close())
        page, _ = console(context, stored, roles=["service"])
        expect(page.locator("#indicator")).to_have_text("Degraded")
        expect(page.locator("#banner")).to_contain_text("Degraded mode")
        expect(page.locator("#who")).to_have_text("alice of acme")
        expect(page.locator("#rooms li")).to_contain_text("chat:42")
        service(stored, "POST", "/broadcast", room="chat:42", event="message:new", data={"text": "ahoy"})
        expect(page.locator("#feed li").first).to_contain_text("ahoy")
        go(page, "operations")
        expect(page.locator("#connections")).to_contain_text("sse")

    await in_browser(work)
