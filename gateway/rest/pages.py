"""The console, the browser client and the API's documentation: files of ``gateway/web``, and nothing else.

They are read once at the start: there are few of them, and a path from outside then never
becomes a path on the disk.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import mimetypes
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

import trio
from quart import Blueprint, Response, current_app, request
from quart_schema import hide
from werkzeug.exceptions import NotFound

from gateway.rest.asyncapi import asyncapi_document
from gateway.rest.openapi import openapi_document
from gateway.rest.services import services

__all__ = ["EXTENSION", "blueprint", "load_pages"]

EXTENSION: Final = "trireme.pages"
_TYPES: Final = frozenset({".html", ".js", ".map", ".css", ".svg", ".png", ".ico", ".woff2"})

_WORTH: Final = 0.9
"""Files that compression makes no smaller than this are sent as they are."""
_GZIPPED: Final = "-gzip"
"""Ends the tag of a file that was compressed: its bytes are others (RFC 9110, section 8.8.3)."""

blueprint = Blueprint("pages", __name__)


class _File(NamedTuple):
    content: bytes
    content_type: str
    etag: str
    gzipped: bytes = b""
    """The same in fewer bytes; empty where that saves nothing."""

    @classmethod
    def of(cls, name: str, content: bytes) -> _File:
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if kind.startswith("text/") or kind == "application/json":
            kind += "; charset=utf-8"
        return cls(content, kind, hashlib.sha256(content).hexdigest()[:32])

    def compressed(self) -> _File:
        """The file with what it is when compressed, which takes milliseconds."""
        # Without a time stamp: equal files are equal bytes.
        gzipped = gzip.compress(self.content, mtime=0)
        return self._replace(gzipped=gzipped) if len(gzipped) < len(self.content) * _WORTH else self


def load_pages() -> dict[str, _File]:
    """Read the files of ``gateway/web`` that a browser may have, by their path in there."""
    found: dict[str, _File] = {}

    def walk(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            name = prefix + entry.name
            if entry.is_dir():
                walk(entry, name + "/")
            elif name[name.rfind(".") :] in _TYPES:
                found[name] = _File.of(name, entry.read_bytes()).compressed()

    walk(files("gateway") / "web", "")
    return found


def _answer(name: str) -> Response:
    pages: dict[str, _File] = current_app.extensions[EXTENSION]
    file = pages.get(name)
    if file is None:
        raise NotFound("there is no such file")
    return _answer_with(file)


def _answer_with(file: _File) -> Response:
    zips = bool(file.gzipped) and request.accept_encodings["gzip"] > 0
    etag = file.etag + _GZIPPED if zips else file.etag
    response = Response(file.gzipped if zips else file.content, content_type=file.content_type)
    if zips:
        response.content_encoding = "gzip"
    known = next((tag for tag in (file.etag, file.etag + _GZIPPED) if tag in request.if_none_match), None)
    if known is not None:
        etag = known
        # Empty bytes: without any body Quart would iterate over nothing on an event loop that is not there.
        response = Response(b"", status=304)
        del response.headers["Content-Length"], response.headers["Content-Type"]  # they would be of the file
    response.set_etag(etag)
    if file.gzipped:
        response.vary.add("Accept-Encoding")
    # Files keep their names over releases, so browsers ask each time; the tag makes that cheap.
    response.headers["Cache-Control"] = "no-cache"
    return response


@functools.lru_cache(maxsize=1)
def _opened_directly(console: _File) -> _File:
    """The console that takes a token from its address without asking.

    It has no name of its own: whoever links to it would be taken for the user.
    """
    return _File.of("index.html", console.content.replace(b"<html ", b'<html data-opened="directly" ', 1))


@blueprint.get("/")
@hide
async def get_console() -> Response:
    """Show the console, which cannot see by itself whether another page has opened it."""
    console: _File = current_app.extensions[EXTENSION]["index.html"]
    if request.headers.get("Sec-Fetch-Site") in {"none", "same-origin"}:
        console = _opened_directly(console)
    response = _answer_with(console)
    response.vary.add("Sec-Fetch-Site")
    return response


@blueprint.get("/client.js")
@blueprint.get("/client.js.map")
@hide
async def get_client() -> Response:
    """Give the browser client, one ES module, and its source map to pages of any origin."""
    response = _answer(request.path.lstrip("/"))
    response.headers["Access-Control-Allow-Origin"] = "*"  # browsers fetch modules only with it
    return response


@blueprint.get("/favicon.ico")
@hide
async def get_icon() -> Response:
    """Give browsers the icon that they ask for unasked."""
    return _answer("icon.svg")


@blueprint.get("/docs")
@hide
async def get_docs() -> Response:
    """Show the OpenAPI document."""
    return _answer("docs.html")


@blueprint.get("/assets/<path:name>")
@hide
async def get_asset(name: str) -> Response:
    """Give a file of a page."""
    return _answer(name)


@blueprint.get("/api/v1/openapi.json")
@hide
async def get_openapi() -> Response:
    """Give the OpenAPI document."""
    pages: dict[str, _File] = current_app.extensions[EXTENSION]
    if "openapi.json" not in pages:
        document = openapi_document(current_app._get_current_object())  # type: ignore[attr-defined]
        pages["openapi.json"] = _File.of("openapi.json", document)
    return _answer("openapi.json")


@blueprint.get("/api/v1/asyncapi.json")
@hide
async def get_asyncapi() -> Response:
    """Give the AsyncAPI document: kinds and events, those of the application included."""
    pages: dict[str, _File] = current_app.extensions[EXTENSION]
    types = services().operations.types
    known = f"asyncapi-{len(types)}.json"  # types are only added
    if known not in pages:
        document = await trio.to_thread.run_sync(asyncapi_document, list(types))
        for name in [name for name in pages if name.startswith("asyncapi-")]:
            del pages[name]
        pages[known] = _File.of(known, document)
    return _answer_with(pages[known])
