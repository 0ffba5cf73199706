"""The npm package: made of its sources, small, typed, and at work in React and Vue."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Route, expect

from gateway.app import Gateway
from tests.docs.markdown import ROOT, blocks_of
from tests.e2e.browser import in_browser
from tests.e2e.prerequisites import FOLDER, npm
from tests.e2e.test_node import run_node

WEB = ROOT / "gateway" / "web"
SMALL = 12_000
"""Bytes of the client, minified and gzipped."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the packed client and the packages of the tests are installed."""
    folder = tmp_path_factory.mktemp("npm")
    modules = folder / "node_modules"
    modules.mkdir()
    for each in (FOLDER / "node_modules").iterdir():
        (modules / each.name).symlink_to(each)
    client = modules / "trireme-client"
    client.mkdir()
    for name in ["package.json", *json.loads((WEB / "package.json").read_text())["files"]]:
        (client / name).parent.mkdir(exist_ok=True)
        shutil.copy(WEB / name, client / name)
    return folder


async def test_the_file_that_pages_load_is_made_of_its_modules(tmp_path: Path) -> None:
    made = tmp_path / "client.js"
    await run_node(str(WEB / "client" / "build.mjs"), str(made))
    assert made.read_bytes() == (WEB / "client.js").read_bytes(), "run node gateway/web/client/build.mjs"


def test_it_is_small() -> None:
    assert len(gzip.compress((WEB / "client.js").read_bytes(), 9)) <= SMALL


def test_npm_packs_it(tmp_path: Path) -> None:
    subprocess.run([*npm(), "pack", "--silent", "--pack-destination", tmp_path, WEB], check=True)
    (packed,) = tmp_path.glob("trireme-client-*.tgz")
    with tarfile.open(packed) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
    stated = set(json.loads((WEB / "package.json").read_text())["files"])
    assert stated | {"package.json", "README.md"} == names


TYPED = """
import { Trireme } from "trireme-client";
interface Events { "message:new": { text: string }; "task:done": { id: number } }
const t = new Trireme<Events>({ token: "x" });
t.on("message:new", (event) => { const text: string = event.data.text; console.log(text, event.seq); });
t.publish("chat:42", "task:done", { id: 1 });
"""


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("", ""),
        ('t.on("message:nwe", () => {});', "TS2345"),
        ('t.publish("r", "task:done", { id: "1" });', "TS2322"),
    ],
)
async def test_names_and_data_are_typed(package: Path, wrong: str, error: str) -> None:
    source = package / "typed.ts"
    source.write_text(TYPED + wrong)
    tsc = str((FOLDER / "node_modules" / ".bin" / "tsc").resolve())
    flags = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--types", ""]
    try:
        await run_node(tsc, *flags, str(source))
    except AssertionError as failed:
        assert error and error in str(failed), failed
    else:
        assert not error, "this must not compile"


INDEX = (
    '<!doctype html><title>app</title><div id="app"></div><script type="module" src="./main.jsx"></script>'
)
CONFIG = """
import vue from "@vitejs/plugin-vue";
export default { base: "/app/", plugins: [vue()], logLevel: "error", esbuild: { jsx: "automatic" } };
"""


def sources(page: str) -> dict[str, str]:
    """The files of the example that a page shows."""
    shown = {block.language: block.text for block in blocks_of(page)}
    if "jsx" in shown:
        return {"main.jsx": shown["jsx"]}
    return {"Chat.vue": shown["vue"], "main.jsx": shown["js"]}


@pytest.mark.parametrize("page", ["docs/client-react.md", "docs/client-vue.md"])
async def test_the_example_of_the_page_works(gateway: Gateway, package: Path, page: str) -> None:
    for name, text in {"index.html": INDEX, "vite.config.mjs": CONFIG, **sources(page)}.items():
        (package / name).write_text(text)
    out = package / f"built-{Path(page).stem}"
    vite = str((FOLDER / "node_modules" / ".bin" / "vite").resolve())
    await run_node(vite, "build", str(package), "--outDir", str(out))
    token = gateway.auth.issue(org="acme", user="alice").token
    types = {".html": "text/html", ".js": "text/javascript"}

    def serve(route: Route) -> None:
        path = out / re.sub(r"^.*/app/", "", route.request.url.partition("#")[0])
        route.fulfill(body=path.read_bytes(), content_type=types[path.suffix])

    def work(context: BrowserContext) -> None:
        page = context.new_page()
        page.route("**/app/**", serve)
        page.goto(f"http://127.0.0.1:{gateway.port}/app/index.html#token={token}")
        expect(page.locator("#state")).to_have_text("connected")
        page.locator("#say:enabled").click()
        expect(page.locator("#messages li")).to_have_text(["alice: hi"])

    await in_browser(work)


async def test_the_plain_page_works_as_printed(gateway: Gateway) -> None:
    (html,) = [block.text for block in blocks_of("docs/client-html.md") if block.language == "html"]
    token = gateway.auth.issue(org="acme", user="alice").token

    def work(context: BrowserContext) -> None:
        page = context.new_page()
        page.route("**/page.html", lambda route: route.fulfill(body=html, content_type="text/html"))
        page.goto(f"http://127.0.0.1:{gateway.port}/page.html#token={token}")
        expect(page.locator("#state")).to_have_text("connected")
        page.get_by_label("message").fill("hi")
        page.get_by_role("button", name="Send").click()
        expect(page.locator("#messages li")).to_have_text(["alice: hi"])

    await in_browser(work)
