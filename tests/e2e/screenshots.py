"""``python -m tests.e2e.screenshots FOLDER``: each page, in light and dark, on a desk and on a phone.

For people to look at after a change of the pages. It starts the demonstration itself, lets it live for a
while, and names each picture ``PAGE-SCHEME-SIZE.png``.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.browser import launch

__all__ = ["main"]

SIZES: Final = {"desk": (1366, 850), "phone": (390, 844)}
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
PAGES: Final = {
    "live": ("/#/live", "#feed li:nth-child(9)"),
    "agents": ("/#/agents", "#history tbody tr"),
    "inbox": ("/#/inbox", "#notifications > li"),
    "operations": ("/#/operations", "#chart-rates path[d*='L']"),
    "api": ("/docs#create_execution", "#create_execution[open] textarea"),
}
"""Page: where it is, and what it shows once it has something to show."""
PATIENCE: Final = 60_000
"""Milliseconds for a page to have something to show."""
_ADDRESS: Final = re.compile(r"http://\S+/#token=\S+")


@contextlib.contextmanager
def demonstration(pace: float) -> Iterator[str]:
    """A running demonstration; gives the console's address, with a token in it."""
    command = [sys.executable, "-m", "gateway.demo", "--port", "0", "--pace", str(pace)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            lines = iter(process.stdout.readline, "")
            yield next(found[0] for found in map(_ADDRESS.search, lines) if found)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def _shots(browser: Browser, address: str, folder: Path) -> Iterator[Path]:
    base = address.partition("/#")[0]
    for size, (width, height) in SIZES.items():
        context = browser.new_context(viewport={"width": width, "height": height}, device_scale_factor=1)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(address)
        expect(page.locator("#indicator")).to_have_text("Connected", timeout=PATIENCE)
        for name, (path, ready) in PAGES.items():
            page.goto(base + path)
            expect(page.locator(ready).first).to_be_visible(timeout=PATIENCE)
            yield from _both_schemes(page, folder / name, size)
        yield from _states(page, base, folder, size)
        context.close()


def _states(page: Page, base: str, folder: Path, size: str) -> Iterator[Path]:
    """What a member sees to whom nothing has happened, without a connection, and without a token."""
    body = {"org": "acme", "user": "zoe", "roles": ["member"], "ttl": 3600}
    bearer = page.evaluate("sessionStorage.getItem('token')")
    answer = page.request.post(
        f"{base}/api/v1/auth/token", data=body, headers={"Authorization": f"Bearer {bearer}"}
    )
    page.goto("about:blank")
    page.goto(f"{base}/#token={answer.json()['token']}")
    expect(page.locator("#indicator")).to_have_text("Connected")
    for name in ("live", "inbox", "operations"):
        page.goto(f"{base}/#/{name}")
        expect(page.locator(f"#page-{name}")).to_be_visible()
        yield from _both_schemes(page, folder / f"{name}-empty", size)
    page.goto(f"{base}/#/live")
    page.context.set_offline(True)
    page.evaluate("document.getElementById('toggle').click()")
    page.evaluate("document.getElementById('toggle').click()")
    expect(page.locator("#banner")).to_be_visible()
    yield from _both_schemes(page, folder / "live-offline", size)
    page.context.set_offline(False)
    page.evaluate("sessionStorage.clear()")
    page.goto("about:blank")
    page.goto(base)
    expect(page.locator("#sign-in")).to_be_visible()
    yield from _both_schemes(page, folder / "sign-in", size)


def _both_schemes(page: Page, stem: Path, size: str) -> Iterator[Path]:
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        path = stem.with_name(f"{stem.name}-{scheme}-{size}.png")
        page.screenshot(path=path, full_page=size == "phone" and stem.name != "api")
        yield path


def main() -> int:
    """Take them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.screenshots", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the workload runs first (20)")
    parser.add_argument("--pace", type=float, default=4.0, help="how fast it goes (4.0)")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with demonstration(given.pace) as address, sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page()
        page.goto(address)
        page.wait_for_timeout(given.seconds * 1000)
        page.close()
        for path in _shots(browser, address, given.folder):
            print(path, flush=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
