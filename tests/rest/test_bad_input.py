"""Bad requests: each gets a clear problem document, and harms nobody else."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import jwt
import pytest
import trio

from gateway.app import Gateway
from gateway.testing.settings import SECRET
from tests.rest.api import Api, problem, success
from tests.support import connected, running_gateway

JSON = {"Content-Type": "application/json"}
GETS = [
    "/stats",
    "/connections",
    "/connections/c",
    "/rooms",
    "/rooms/r/history",
    "/rooms/r/presence",
    "/messages/m/trace",
    "/notifications",
    "/approvals",
    "/approvals/a",
    "/executions",
    "/executions/summary",
    "/executions/e",
    "/stream",
    "/poll",
]
POSTS = [
    "/auth/token",
    "/auth/refresh",
    "/auth/ticket",
    "/auth/revoke",
    "/broadcast",
    "/events",
    "/users/u/send",
    "/users/send",
    "/connections/c/send",
    "/connections/c/disconnect",
    "/batch",
    "/notifications",
    "/notifications/7/read",
    "/notifications/read-all",
    "/approvals",
    "/approvals/a/decide",
    "/executions",
    "/commands",
]
WITH_BODY = {
    "/auth/token": b'{"user": "e", "roles": []}',
    "/auth/refresh": b'{"ttl": 60}',
    "/auth/revoke": b'{"user": "e", "org": "acme"}',
    "/broadcast": b'{"event": "e", "org": "acme"}',
    "/events": b'{"event": "e", "org": "acme"}',
    "/users/u/send": b'{"event": "e", "org": "acme"}',
    "/users/send": b'{"event": "e", "org": "acme", "users": ["u"]}',
    "/connections/c/send": b'{"event": "e", "org": "acme"}',
    "/connections/c/disconnect": b'{"reason": "e", "org": "acme"}',
    "/batch": b'{"operations": [{"op": "send", "event": "e"}]}',
    "/notifications": b'{"title": "e", "message": "e", "type": "info", "org": "acme"}',
    "/approvals": b'{"title": "e", "users": ["u"], "org": "acme"}',
    "/approvals/i/decide": b'{"choice": "e", "org": "acme"}',
    "/executions": b'{"agent": "e", "org": "acme"}',
}
EVERY = [
    *(("GET", path) for path in GETS),
    *(("POST", path) for path in POSTS),
    ("DELETE", "/notifications/7"),
    ("PATCH", "/executions/e"),
]


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({"org": "acme", **claims}, secret, algorithm=algorithm)


# --- tokens -------------------------------------------------------------------------------------------


async def test_every_operation_is_tried(openapi: dict[str, Any]) -> None:
    """A new operation belongs into the lists above."""
    secured = sum(
        operation.get("security") != [] for path in openapi["paths"].values() for operation in path.values()
    )
    assert secured == len(EVERY)


@pytest.mark.parametrize(("method", "path"), EVERY)
async def test_every_operation_needs_a_good_token(api: Api, method: str, path: str) -> None:
    expired = signed(exp=1)
    forged = signed("another-secret-another-secret-another-secret")
    assert "token" in problem(await api.request(method, path, token=""), 401, 200)
    assert "expired" in problem(await api.request(method, path, token=expired), 401, 201)
    assert "signature" in problem(await api.request(method, path, token=forged), 401, 200)


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        "a.b.c",
        "x" * 15_000,
        signed(SECRET * 2, algorithm="HS512"),
        jwt.encode({"org": "acme"}, "", algorithm="none"),
        signed(org=""),
        signed(org=7),
        signed(org=None),
    ],
    ids=["nonsense", "dots", "long", "algorithm", "none", "no org", "org 7", "org null"],
)
async def test_bad_tokens_are_refused(api: Api, token: str) -> None:
    problem(await api.get("/stats", token=token), 401, 200)


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "bearer", "Token abc", "x"])
async def test_other_authorization_is_refused(api: Api, header: str) -> None:
    problem(await api.get("/stats", token="", headers={"Authorization": header}), 401, 200)


async def test_refusals_are_counted(api: Api, gateway: Gateway) -> None:
    await api.get("/stats", token="")
    await api.get("/stats", token=signed(exp=1))
    await api.get("/stats?org=globex")
    text = (await api.client.get("/metrics")).text
    for code in (200, 201, 204):
        assert f'trireme_http_errors_total{{code="{code}"}} 1.0' in text


async def test_tokens_are_not_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    good, bad = api.token(user="alice"), signed("another-secret-another-secret-another-secret")
    await api.get("/stats", token=good)
    await api.get("/stats", token=bad)
    await api.post("/broadcast", {"event": 1}, token=good)
    for token in (good, bad):
        assert token.rpartition(".")[2] not in caplog.text


# --- bodies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "good"), WITH_BODY.items(), ids=WITH_BODY)
async def test_bodies_must_be_json_objects(api: Api, path: str, good: bytes) -> None:
    async def post(content: bytes, headers: Any = JSON) -> Any:
        return await api.request("POST", path, content=content, headers=headers)

    nan = good[:-1] + b"," + good[1 : good.index(b":")] + b": NaN}"
    for content in (b"{", b"no json", b"\xff\xfe", good[:-1], good * 2, nan):
        problem(await post(content), 400, 100)
    for text in (b"\xff", b"\xed\xa0\x80", b"\x00", b"\\x"):
        if b'"e"' in good:
            problem(await post(good.replace(b'"e"', b'"' + text + b'"')), 400, 100)
    for content in (b"[]", b"7", b"null", b'"text"'):
        problem(await post(content), 400, 104)
    problem(await post(b"{}", {"Content-Type": "text/plain"}), 415, 100)
    problem(await post(b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}), 415, 100)


MISSPELT = [
    ("/broadcast", {"event": "e", "rooom": "chat:42"}),
    ("/events", {"event": "task_started", "rooom": "chat:42"}),
    ("/users/alice/send", {"event": "e", "dta": 1}),
    ("/connections/c/send", {"event": "e", "dta": 1}),
    ("/connections/c/disconnect", {"cod": 4000}),
    ("/batch", {"operations": [], "atomic": True}),
    ("/batch", {"operations": [{"op": "broadcast", "event": "e", "rooom": "chat:42"}]}),
    ("/batch", {"operations": [{"op": "send", "event": "e", "user": "alice", "dta": 1}]}),
    ("/auth/token", {"user": "alice", "romms": {"chat:*": ["join"]}}),
    ("/auth/refresh", {"tll": 60}),
    ("/auth/revoke", {"jti": "x", "usr": "alice"}),
]


@pytest.mark.parametrize(("path", "body"), MISSPELT, ids=[path for path, _ in MISSPELT])
async def test_a_field_that_is_not_known_is_refused(
    api: Api, gateway: Gateway, path: str, body: dict[str, Any]
) -> None:
    """Ignored, a misspelt room would reach everyone, and a token be good for every room."""
    async with connected(gateway, user="alice") as alice:
        assert "unknown field" in problem(await api.post(path, body), 400, 104)
        assert await alice.settled() == []


async def test_an_empty_body_is_refused_where_one_is_needed(api: Api) -> None:
    problem(await api.request("POST", "/broadcast", headers=JSON), 400, 100)
    problem(await api.request("POST", "/broadcast"), 400, 100)


async def test_nesting_without_end_is_refused(api: Api) -> None:
    content = b'{"event":"e","data":' + b"[" * 5_000
    detail = problem(await api.request("POST", "/broadcast", content=content, headers=JSON), 400, 100)
    assert "nested" in detail or "JSON" in detail


@pytest.mark.parametrize("container", [b"[]", b"{}", b'""', b"0", b"[[[]]]"])
@pytest.mark.parametrize("path", ["/broadcast", "/batch"])
async def test_a_body_of_too_many_values_is_refused(api: Api, path: str, container: bytes) -> None:
    values = b",".join([container] * 40_000)
    content = b'{"event":"e","operations":[],"data":[' + values + b"]}"
    detail = problem(await api.request("POST", path, content=content, headers=JSON), 413, 404)
    assert detail == "the message contains more than 8192 values and keys"


async def test_a_body_that_is_too_large_is_refused(api: Api, gateway: Gateway) -> None:
    limit = gateway.settings.limits.body_bytes
    fits = b'{"event":"e","data":"x"' + b" " * (limit - 24) + b"}"
    assert len(fits) == limit
    success(await api.request("POST", "/broadcast", content=fits, headers=JSON))
    detail = problem(await api.request("POST", "/broadcast", content=fits + b" ", headers=JSON), 413, 404)
    assert str(limit) in detail

    async def chunks() -> Any:
        for _ in range(limit // 65536 + 1):
            yield b" " * 65536

    problem(await api.request("POST", "/broadcast", content=chunks(), headers=JSON), 413, 404)


# --- paths and methods ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/api", "/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v2/stats", "/x%00y", "/assets/", "/%2e%2e"],
)
async def test_unknown_paths(api: Api, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        problem(await api.client.request(method, path, content=b"{}"), 404, 109)


@pytest.mark.parametrize(("method", "path"), EVERY)
async def test_wrong_methods_say_which_are_right(api: Api, method: str, path: str) -> None:
    right = {each for each, other in EVERY if other == path}
    if path == "/notifications/read-all":
        right.add("DELETE")  # there it is an id that nothing has
    if path == "/executions/summary":
        right.add("PATCH")  # likewise
    for wrong in {"GET", "POST", "PUT", "PATCH", "DELETE"} - right:
        response = await api.request(wrong, path)
        problem(response, 405, 102)
        assert method in response.headers["Allow"].split(", ")


async def test_query_parameters_are_checked(api: Api) -> None:
    for query in ("limit=0", "limit=1001", "limit=x", "limit=1.5", "limit=", "limit=" + "9" * 5000):
        assert "limit" in problem(await api.get(f"/connections?{query}"), 400, 104)
    problem(await api.get("/connections?user=%FF"), 400, 104)
    success(await api.get("/connections?unknown=1"))


async def test_head_and_options_are_answered(api: Api) -> None:
    response = await api.request("HEAD", "/stats")
    assert (response.status_code, response.content) == (200, b"")
    response = await api.request("OPTIONS", "/stats")
    assert "GET" in response.headers["Allow"]


# --- failures of our own ----------------------------------------------------------------------------------


async def test_a_crash_is_a_problem_without_a_traceback(
    api: Api, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(org: str | None) -> Any:
        raise RuntimeError("the inside of the gateway")

    with monkeypatch.context() as patch:
        patch.setattr(gateway.cluster, "stats", crash)
        response = await api.get("/stats")
    problem(response, 500, 500)
    assert "inside" not in response.text
    assert "the inside of the gateway" in caplog.text
    success(await api.get("/stats"))


async def test_a_handler_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_gateway(connection={"command_timeout": 0.05}) as gateway:

        async def hang(token: str) -> None:
            await trio.sleep_forever()

        monkeypatch.setattr(gateway.auth, "verify", hang)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as client:
            response = await client.get("/api/v1/stats", headers={"Authorization": "Bearer x"})
        problem(response, 503, 303)
        assert response.headers["Retry-After"] == "1"


async def test_bad_requests_harm_nobody_else(api: Api, gateway: Gateway) -> None:
    async with connected(gateway) as alice, trio.open_nursery() as nursery:
        await alice.ask("join", room="r")
        for number in range(20):
            nursery.start_soon(api.post, f"/users/{number}/send", {"event": number})
            nursery.start_soon(api.get, "/nothing")
        place = success(await api.post("/broadcast", {"room": "r", "event": "e"}))
        assert (await alice.event()).mid == place["mid"]


@pytest.mark.parametrize("host", ["..", "a" * 64, "a" * 64 + ":80", ".x"])
async def test_a_host_that_is_none_is_the_clients_fault(
    api: Api, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for path in ("/stats", "/nothing"):
        assert "Host" in problem(await api.get(path, headers={"Host": host}), 400, 100)
    assert caplog.records == []
    success(await api.get("/stats"))
