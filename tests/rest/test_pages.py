"""The pages: nothing but files of ours, and nothing from elsewhere."""

from __future__ import annotations

import re

import pytest
import trio

from gateway.rest.pages import load_pages
from tests.rest.api import Api, problem
from tests.support import DEADLINE

# Names of XML vocabularies look like addresses and are never fetched.
NAMES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"}
PAGES = ["/", "/docs"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/docs", "text/html"),
        ("/client.js", "text/javascript"),
        ("/assets/docs.js", "text/javascript"),
        ("/assets/docs.css", "text/css"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/favicon.ico", "image/svg+xml"),
    ],
)
async def test_files_come_with_their_type_and_security_headers(api: Api, path: str, kind: str) -> None:
    response = await api.client.get(path)
    assert response.status_code == 200
    assert response.headers["Content-Type"].partition(";")[0] == kind
    policy = dict(
        part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["connect-src"] == "'self' ws: wss:"
    assert policy["frame-ancestors"] == "'none'"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    again = await api.client.get(path, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("site", "direct"),
    [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False), (None, False)],
)
async def test_the_console_learns_whether_another_page_opened_it(
    api: Api, site: str | None, direct: bool
) -> None:
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    response = await api.client.get("/", headers=headers)
    assert ('data-opened="directly"' in response.text) == direct
    assert "Sec-Fetch-Site" in response.headers["Vary"]
    other = await api.client.get("/", headers={"Sec-Fetch-Site": "cross-site" if direct else "none"})
    assert other.headers["ETag"] != response.headers["ETag"]


async def test_nobody_can_link_to_the_console_that_does_not_ask(api: Api) -> None:
    for name in load_pages():
        response = await api.client.get(f"/assets/{name}", headers={"Sec-Fetch-Site": "cross-site"})
        assert 'data-opened="directly"' not in response.text


async def test_an_unchanged_file_costs_neither_a_body_nor_the_connection(api: Api) -> None:
    tag = (await api.client.get("/client.js")).headers["ETag"]
    request = f"GET /client.js HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\n\r\n".encode()
    stream = await trio.open_tcp_stream("127.0.0.1", api.gateway.port)
    async with stream:
        for _ in range(3):
            await stream.send_all(request)
            head = b""
            with trio.fail_after(DEADLINE):
                while not head.endswith(b"\r\n\r\n"):
                    chunk = await stream.receive_some()
                    assert chunk, "the connection goes on"
                    head += chunk
            assert head.startswith(b"HTTP/1.1 304 ")
            assert b"\r\ncache-control: no-cache\r\n" in head.lower()
            assert b"\r\ncontent-length:" not in head.lower()


async def test_files_come_compressed_to_who_can_take_it_under_a_tag_of_their_own(api: Api) -> None:
    plain = await api.client.get("/client.js", headers={"Accept-Encoding": "identity"})
    zipped = await api.client.get("/client.js", headers={"Accept-Encoding": "gzip, br;q=0.5"})
    assert "Content-Encoding" not in plain.headers and zipped.headers["Content-Encoding"] == "gzip"
    assert zipped.content == plain.content and plain.headers["ETag"] != zipped.headers["ETag"]
    assert int(zipped.headers["Content-Length"]) < len(plain.content) / 2
    for response in (plain, zipped):
        assert "Accept-Encoding" in response.headers["Vary"]
    for given, encoding in [(plain, "identity"), (zipped, "gzip")]:
        headers = {"Accept-Encoding": encoding, "If-None-Match": given.headers["ETag"]}
        again = await api.client.get("/client.js", headers=headers)
        assert (again.status_code, again.content) == (304, b"")
        assert "Content-Encoding" not in again.headers
    refused = await api.client.get("/client.js", headers={"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused.headers
    assert (await api.client.get("/client.js.map")).json()["sources"]


def test_no_file_names_another_host() -> None:
    pages = load_pages()
    assert {"index.html", "client.js", "docs.html", "docs.js", "docs.css"} <= set(pages)
    for name, file in pages.items():
        if name.endswith((".html", ".js", ".css", ".svg")):
            found = set(re.findall(r"(?:https?|wss?):/?/?[\w.:-]+[\w/.-]*", file.content.decode())) - NAMES
            assert not {address for address in found if "//" in address}, name
            assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?//""", file.content.decode()), name


@pytest.mark.parametrize("path", PAGES)
async def test_what_a_page_asks_for_is_there_and_allowed_by_its_policy(api: Api, path: str) -> None:
    html = (await api.client.get(path)).text
    asked = re.findall(r"""(?:src|href)=["']([^"'#]+)""", html)
    assert asked
    for address in asked:
        if not address.startswith("data:"):
            assert address.startswith("/"), address
            assert (await api.client.get(address)).status_code == 200, address
    assert not re.search(r"<script(?![^>]*\bsrc=)", html), "the policy forbids scripts inside of a page"
    assert not re.search(r"<style|\sstyle=|\son\w+=", html), "the policy forbids styles inside of a page"


@pytest.mark.parametrize(
    "path",
    [
        "/assets/nothing.js",
        "/assets/package.json",
        "/assets/../app.py",
        "/assets/%2e%2e/app.py",
        "/assets/%2e%2e%2fsettings.py",
        "/assets//etc/passwd",
        "/assets/%2fetc%2fpasswd",
        "/assets/openapi.json",
    ],
)
async def test_other_files_are_not_there(api: Api, path: str) -> None:
    problem(await api.client.get(path), 404, 109)


async def test_answers_of_the_api_are_not_kept(api: Api) -> None:
    assert (await api.get("/stats")).headers["Cache-Control"] == "no-store"
    assert (await api.get("/stats", token="")).headers["Cache-Control"] == "no-store"
