"""The REST application: routes, and what holds for every request and every answer."""

from __future__ import annotations

import logging
from typing import Any, Final

import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import BadHost, BadRequest, HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from gateway.problems import (
    CONTENT_TYPE,
    code_for_status,
    problem_bytes,
    problem_document,
    problem_for,
    retry_after_header,
)
from gateway.rest import (
    approvals,
    auth,
    commands,
    connections,
    events,
    executions,
    health,
    messages,
    notifications,
    pages,
    rooms,
    stats,
)
from gateway.rest.bodies import BodyConnection, BodyRequest
from gateway.rest.http import check_target
from gateway.rest.openapi import add_openapi
from gateway.rest.services import EXTENSION, Services
from protocol.errors import ErrorCode, ProtocolError

__all__ = ["OWN_PATHS", "create_app"]

log = logging.getLogger(__name__)

OWN_PATHS: Final = ("/api/v1/", "/ws", "/healthz", "/readyz", "/metrics", "/client.js")
"""Beside another application on the port, this one keeps the paths that begin so; the console gives way."""

_SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}

_DETAILS: Final = {
    404: "there is nothing at this path",
    405: "this path does not take this method",
    408: "the body did not arrive in time",
    413: "the body is limited to {body_bytes} bytes",
}


class _Application(QuartTrio):
    """Quart, with a deadline on every handler; a bad ``Host`` is answered as other bad requests are."""

    handler_timeout: float
    asgi_http_class = BodyConnection
    request_class = BodyRequest

    def create_url_adapter(self, request: Any) -> Any:
        try:
            return super().create_url_adapter(request)
        except BadHost:
            return None  # errors are not answered yet here, but in dispatch_request

    async def dispatch_request(self, *args: Any, **kwargs: Any) -> Any:
        if request.url_rule is None and request.routing_exception is None:
            raise BadRequest("the Host header is not a host")
        # The routing error of an unknown path is raised in here too, after the body was read.
        rule = request.url_rule
        handler = None if rule is None else self.view_functions.get(rule.endpoint)
        with trio.fail_after(self.handler_timeout + getattr(handler, "patience", 0.0)):
            return await super().dispatch_request(*args, **kwargs)


def create_app(services: Services) -> QuartTrio:
    """Build the ASGI application over the parts in ``services``."""
    limits = services.settings.limits
    app = _Application("gateway.rest", static_folder=None)
    app.handler_timeout = services.settings.connection.command_timeout + 1
    app.url_map.merge_slashes = False  # a//b is a room of its own
    app.url_map.strict_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = limits.body_bytes
    app.config["BODY_TIMEOUT"] = limits.body_timeout
    app.extensions[EXTENSION] = services
    app.extensions[pages.EXTENSION] = pages.load_pages()
    add_openapi(app)
    for resource in (
        *(auth, stats, connections, rooms, events, messages, notifications, executions, approvals, commands),
    ):
        app.register_blueprint(resource.blueprint, url_prefix="/api/v1")
    app.register_blueprint(health.blueprint)
    app.register_blueprint(pages.blueprint)
    _add_hooks(app, services)
    return app


def _share(response: Response, allowed: list[str]) -> None:
    """Let pages of other origins read the answer (Fetch standard, section 3.3): the same that may connect.

    Nothing is given away by it: who asks is told by the bearer token alone, which no browser sends by itself.
    """
    if allowed:
        response.vary.add("Origin")
        if request.origin not in allowed:
            return
    response.headers["Access-Control-Allow-Origin"] = request.origin if allowed else "*"
    response.headers["Access-Control-Expose-Headers"] = "Retry-After"
    if request.method == "OPTIONS" and "Allow" in response.headers:
        response.headers["Access-Control-Allow-Methods"] = response.headers["Allow"]
        response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, Last-Event-ID"
        response.headers["Access-Control-Max-Age"] = "600"


def _add_hooks(app: QuartTrio, services: Services) -> None:
    counters = services.metrics.http

    @app.before_request
    async def check() -> None:
        check_target()

    @app.after_request
    async def finish(response: Response) -> Response:
        counters.requests[response.status_code] += 1
        response.headers.update(_SECURITY)
        response.headers.setdefault("Cache-Control", "no-store")
        _share(response, services.settings.allowed_origins)
        return response

    @app.errorhandler(ProtocolError)
    async def refuse(error: ProtocolError) -> Response:
        return _problem(problem_for(error))

    @app.errorhandler(HTTPException)
    async def refuse_http(error: HTTPException) -> Response | WerkzeugResponse:
        status = error.code or 500
        if status < 400:  # a redirect of the router
            return error.get_response()
        detail = _DETAILS.get(status, error.description or "").format(
            body_bytes=services.settings.limits.body_bytes
        )
        response = _problem(problem_document(code_for_status(status), detail, status=status))
        for name, value in error.get_headers(None):
            if name not in {"Content-Type", "Content-Length"}:
                response.headers[name] = value
        return response

    @app.errorhandler(trio.TooSlowError)
    async def give_up(error: trio.TooSlowError) -> Response:
        log.warning("%s %s took too long", request.method, request.path)
        return _problem(problem_document(ErrorCode.TIMEOUT, "this took too long", retry_after=1.0))

    @app.errorhandler(Exception)
    async def fail(error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return _problem(problem_document(ErrorCode.INTERNAL, "the gateway failed to handle this request"))

    def _problem(document: dict[str, Any]) -> Response:
        counters.errors[document["code"]] += 1
        status = document["status"]
        response = Response(problem_bytes(document), status=status, content_type=CONTENT_TYPE)
        if status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        if "retry_after" in document:
            response.headers["Retry-After"] = retry_after_header(document["retry_after"])
        return response
