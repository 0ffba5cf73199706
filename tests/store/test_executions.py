"""Executions from outside: REST and calls of a running gateway, on both databases."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
import trio_websocket

from gateway.app import Gateway
from protocol.errors import CloseCode, ErrorCode
from tests.rest.api import ADMIN, SERVICE, Api, asking, problem, success
from tests.store.support import rows
from tests.support import connected, start_gateway, until
from tests.wire.http_peer import http_peer

ALICE = {"user": "alice"}
STATUSES = ("queued", "running", "completed", "failed", "cancelled")


async def create(api: Api, **fields: Any) -> Any:
    response = await api.post("/executions", {"agent": "cicero", **fields})
    assert response.status_code == 201, response.text
    return response.json()


async def patch(api: Api, id: str, **fields: Any) -> Any:
    return await api.request("PATCH", f"/executions/{id}", json=fields)


def conflict(response: Any) -> Any:
    """The row that a conflict shows."""
    assert (response.status_code, response.json()["code"]) == (409, 111), response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.json()["execution"]


async def test_one_from_begin_to_end(api: Api) -> None:
    row = await create(
        api, team="senate", method="research", input={"topic": "Gaul"}, metadata={"attempt": 1}
    )
    assert row["status"] == "queued" and row["version"] == 1
    assert row["created_at"] == row["updated_at"] and "started_at" not in row
    id = row["id"]
    row = success(await patch(api, id, status="running", progress=10, step="reading"))
    assert (row["status"], row["progress"], row["step"], row["version"]) == ("running", 10, "reading", 2)
    assert row["started_at"] >= row["created_at"]
    row = success(await patch(api, id, tools=["search", "browser"], progress=99.5, version=2))
    row = success(await patch(api, id, status="completed", result={"pages": [1, 2]}, progress=100))
    assert row["result"] == {"pages": [1, 2]} and row["tools"] == ["search", "browser"]
    assert row["duration"] == (row["finished_at"] - row["started_at"]) / 1000
    assert row["input"] == {"topic": "Gaul"} and row["metadata"] == {"attempt": 1}
    whole = success(await api.get(f"/executions/{id}", claims=ALICE))
    updates = whole.pop("updates")
    assert whole == row
    assert [update["version"] for update in updates] == [1, 2, 3, 4]
    assert [update.get("status") for update in updates] == ["queued", "running", None, "completed"]
    assert updates[3]["changed"] == ["result"] and updates[3]["by"] == "backend"
    assert success(await api.get("/executions", claims=ALICE)) == {"executions": [row]}


async def test_only_valid_transitions(api: Api) -> None:
    allowed = {"queued": {"queued", "running"}, "running": {"running", "completed", "failed", "cancelled"}}
    for before, after in itertools.product(STATUSES, STATUSES):
        row = await create(api)
        if before != "queued":
            row = success(await patch(api, row["id"], status="running"))
        if before not in ("queued", "running"):
            row = success(await patch(api, row["id"], status=before))
        response = await patch(api, row["id"], status=after)
        if after in allowed.get(before, ()):
            assert success(response)["status"] == after
            continue
        assert conflict(response) == row
        got = success(await api.get(f"/executions/{row['id']}"))
        assert got["version"] == row["version"] == len(got["updates"])
    for fields in ({}, {"progress": 5}, {"result": 1}):  # nothing follows an end
        conflict(await patch(api, row["id"], **fields))


async def test_a_version_that_is_not_the_latest_changes_nothing(api: Api) -> None:
    id = (await create(api, status="running"))["id"]
    outcomes: list[Any] = []

    async def report(number: int) -> None:
        outcomes.append(await patch(api, id, progress=number, version=1))

    async with trio.open_nursery() as nursery:
        for number in range(1, 9):
            nursery.start_soon(report, number)
    winners = [each for each in outcomes if each.status_code == 200]
    assert len(winners) == 1
    row = success(winners[0])
    assert row["version"] == 2
    assert all(conflict(each) == row for each in outcomes if each is not winners[0])
    assert conflict(await patch(api, id, progress=3, version=7))["version"] == 2


async def test_a_heartbeat_gives_no_version(api: Api, address: str) -> None:
    row = await create(api, status="running")
    success(await patch(api, row["id"], progress=5))
    before = rows(address, "SELECT heartbeat_ms FROM executions")
    await until(lambda: datetime.now(UTC).timestamp() * 1000 > before[0][0] + 2)
    for fields in ({}, {"status": "running"}, {"progress": 5}):
        assert success(await patch(api, row["id"], **fields))["version"] == 2
    assert rows(address, "SELECT heartbeat_ms FROM executions") > before
    assert len(rows(address, "SELECT * FROM execution_updates")) == 2


async def test_ids_are_of_one_organisation(api: Api) -> None:
    row = await create(api, id="nightly:2026-11-27")
    assert conflict(await api.post("/executions", {"agent": "other", "id": row["id"]})) == row
    other = {"roles": ["service"], "org": "other"}
    for response in (
        await api.get(f"/executions/{row['id']}", claims=other),
        await api.request("PATCH", f"/executions/{row['id']}", json={"step": "x"}, claims=other),
    ):
        problem(response, 404, ErrorCode.NOT_FOUND)
    assert success(await api.get("/executions", claims=other)) == {"executions": []}
    assert success(await api.get("/executions/summary", claims=other))["total"] == 0
    mine = {**SERVICE, "org": "acme"}
    problem(await api.get("/executions?org=other", claims=mine), 403, ErrorCode.WRONG_ORGANISATION)
    response = await api.post("/executions", {"agent": "a", "org": "other", "id": row["id"]}, claims=ADMIN)
    assert response.status_code == 201
    assert len(success(await api.get("/executions?org=other", claims=ADMIN))["executions"]) == 1


async def test_who_may_report_and_who_may_read(api: Api) -> None:
    id = (await create(api, status="running"))["id"]
    problem(await api.post("/executions", {"agent": "a"}, claims=ALICE), 403, ErrorCode.FORBIDDEN)
    refused = await api.request("PATCH", f"/executions/{id}", json={"step": "x"}, claims=ALICE)
    problem(refused, 403, ErrorCode.FORBIDDEN)
    one = {"user": "bob", "rooms": {f"execution:{id}": ["join"]}}
    success(await api.get(f"/executions/{id}", claims=one))
    problem(await api.get("/executions", claims=one), 403, ErrorCode.FORBIDDEN)
    problem(await api.get("/executions/summary", claims=one), 403, ErrorCode.FORBIDDEN)
    none = {"user": "bob", "rooms": {"chat:*": ["join"]}}
    problem(await api.get(f"/executions/{id}", claims=none), 403, ErrorCode.FORBIDDEN)
    success(await api.get("/executions", claims={"user": "bob", "rooms": {"executions": ["join"]}}))


NESTED: Any = 1
for _ in range(9):
    NESTED = [NESTED]


BAD: list[tuple[dict[str, Any], int, int]] = [
    ({"progress": 200}, 400, 104),
    ({"progress": -1}, 400, 104),
    ({"progress": "10"}, 400, 104),
    ({"status": "paused"}, 400, 104),
    ({"step": "x" * 501}, 400, 104),
    ({"step": ""}, 400, 104),
    ({"step": "a\u0000b"}, 400, 104),
    ({"tools": ["t"] * 101}, 413, 404),
    ({"tools": ["x" * 200] * 30}, 413, 404),
    ({"tools": "search"}, 400, 104),
    ({"result": "x" * 65_536}, 413, 404),
    ({"result": NESTED}, 400, 104),
    ({"result": {"a": "nul \u0000"}}, 400, 104),
    ({"error": "x" * 5000}, 413, 404),
    ({"error": {"code": 1}}, 400, 104),
    ({"version": 0}, 400, 104),
    ({"proggress": 1}, 400, 104),
    ({"agent": "other"}, 400, 104),
]


async def test_bad_reports(gateway: Gateway, api: Api) -> None:
    id = (await create(api, id="e", status="running"))["id"]
    async with connected(gateway, roles=["service"]) as reporter:
        for fields, status, code in BAD:
            detail = problem(await patch(api, id, **fields), status, code)
            assert next(iter(fields)) in detail
            refused = await reporter.ask("call", event="executions.update", data={"id": id, **fields})
            assert (refused.t, refused.code) == ("error", code), fields
    assert success(await api.get(f"/executions/{id}"))["version"] == 1


async def test_a_result_of_50_megabytes(gateway: Gateway, api: Api) -> None:
    id = (await create(api, id="e", status="running"))["id"]
    head = f"PATCH /api/v1/executions/{id} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {api.token()}\r\nContent-Length: {50 * 2**20}\r\n\r\n"
    async with http_peer(gateway.port) as peer:
        answer = await peer.ask(head.encode() + b'{"result":"' + b"x" * 100_000)
        assert (answer.status, answer.json()["code"]) == (413, ErrorCode.TOO_LARGE)
    async with connected(gateway, roles=["service"]) as reporter:
        said = {"v": 1, "t": "call", "id": 1, "event": "executions.update"}
        whole = json.dumps({**said, "data": {"id": id, "result": "x" * 50 * 2**20}})
        with pytest.raises(trio_websocket.ConnectionClosed) as closed:
            await reporter.send_raw(whole)
            await reporter.receive()
        assert closed.value.reason is not None and closed.value.reason.code == CloseCode.TOO_LARGE
    assert success(await api.get(f"/executions/{id}"))["version"] == 1
    success(await patch(api, id, status="completed"))


async def test_bad_creations_and_questions(api: Api) -> None:
    for fields, code in (
        ({"agent": ""}, 104),
        ({"agent": "x" * 201}, 104),
        ({"status": "completed"}, 104),
        ({"id": "a/b"}, 104),
        ({"id": "a*"}, 104),
        ({"id": ""}, 104),
        ({"id": "summary"}, 104),
        ({"id": "ü" * 76}, 104),
        ({"metadata": [1]}, 104),
        ({"input": "x" * 17_000}, 404),
        ({"metadata": {"a": "x" * 4096}}, 404),
    ):
        response = await api.post("/executions", {"agent": "cicero", **fields})
        problem(response, 413 if code == 404 else 400, code)
    problem(await api.post("/executions", {"id": "x"}), 400, ErrorCode.MISSING_FIELD)
    problem(await patch(api, "unknown", step="x"), 404, ErrorCode.NOT_FOUND)
    problem(await api.get("/executions/unknown"), 404, ErrorCode.NOT_FOUND)
    problem(await patch(api, "a%00b", step="x"), 400, ErrorCode.BAD_FIELD)
    for query in (
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=1.2",
        "cursor=ffffffffffffffff.00000000",
        "status=paused",
        "from=yesterday",
        "from=2026-11-31",
        "from=2026-11-27T10:00:00",  # of which time zone?
        "to=-1",
        "to=99999999999999999",
        "agent=",
    ):
        problem(await api.get(f"/executions?{query}"), 400, ErrorCode.BAD_FIELD)
    for query in ("from=2026-11-27&to=2026-11-20", "from=2020-01-01&to=2026-01-01", "status=x"):
        problem(await api.get(f"/executions/summary?{query}"), 400, ErrorCode.BAD_FIELD)


async def test_pages_stay_while_others_come(api: Api) -> None:
    ids = [(await create(api, id=f"e{number}"))["id"] for number in range(5)]
    seen: list[str] = []
    query = "?limit=2"
    while True:
        page = success(await api.get(f"/executions{query}"))
        seen += [row["id"] for row in page["executions"]]
        await create(api)
        if "next" not in page:
            break
        query = f"?limit=2&cursor={page['next']}"
    assert seen == ids[::-1]
    problem(await api.get(f"/executions?agent=cicero&cursor={query[16:]}"), 400, ErrorCode.BAD_FIELD)


async def test_filters_and_the_summary(api: Api) -> None:
    for agent, status in (("a", "completed"), ("a", "failed"), ("b", "completed"), ("b", "running")):
        id = (await create(api, agent=agent, team="t", method=f"m{agent}", status="running"))["id"]
        if status != "running":
            success(await patch(api, id, status=status))
    today = datetime.now(UTC).date().isoformat()
    now = int(datetime.now(UTC).timestamp() * 1000)
    for query, number in (
        ("agent=a", 2),
        ("agent=b&status=running", 1),
        ("team=t&method=ma", 2),
        ("team=x", 0),
        (f"from={today}&to={today}", 4),
        (f"from={now - 60_000}&to={now + 60_000}", 4),
        (f"to={today}T00:00:00Z", 0),
        (f"from={today}T00:00:00%2B00:00&status=completed", 2),
    ):
        found = success(await api.get(f"/executions?{query}"))["executions"]
        assert len(found) == number, query
    summary = success(await api.get("/executions/summary", claims=ALICE))
    assert summary["total"] == 4
    counts = {"queued": 0, "running": 1, "completed": 2, "failed": 1, "cancelled": 0}
    assert summary["by_status"] == counts
    assert summary["success_rate"] == pytest.approx(2 / 3)
    assert len(summary["series"]) == 30
    assert summary["series"][-1] == {"day": today, "total": 4, "completed": 2, "failed": 1}
    assert all(day["total"] == 0 for day in summary["series"][:-1])
    assert 0 <= summary["duration"]["p50"] <= summary["duration"]["p95"]
    of_b = success(await api.get(f"/executions/summary?agent=b&from={today}&to={today}"))
    assert (of_b["total"], of_b["success_rate"], len(of_b["series"])) == (2, 1.0, 1)
    nothing = success(await api.get("/executions/summary?agent=nobody"))
    assert nothing["success_rate"] is None
    assert nothing["duration"] == {"average": None, "p50": None, "p95": None}


async def test_calls_over_a_socket(gateway: Gateway, api: Api) -> None:
    async with connected(gateway, roles=["service"], user="backend") as reporter, connected(gateway) as alice:

        async def call(raw: Any, event: str, data: Any = None) -> Any:
            return await raw.ask("call", event=f"executions.{event}", data=data)

        row = (await call(reporter, "create", {"agent": "cicero", "status": "running"})).data
        row = (await call(reporter, "update", {"id": row["id"], "progress": 40})).data
        assert row["version"] == 2
        refused = await call(reporter, "update", {"id": row["id"], "status": "queued"})
        assert (refused.code, refused.data) == (ErrorCode.CONFLICT, {"execution": row})
        assert (await call(alice, "update", {"id": row["id"], "step": "x"})).code == ErrorCode.FORBIDDEN
        assert (await call(alice, "list", {"agent": "cicero", "from": 0})).data == {"executions": [row]}
        assert (await call(alice, "get", {"id": row["id"]})).data["updates"][1]["progress"] == 40
        assert (await call(alice, "summary")).data["by_status"]["running"] == 1
        assert (await call(alice, "get")).code == ErrorCode.MISSING_FIELD
        assert (await call(alice, "get", {"ID": 1})).code == ErrorCode.BAD_FIELD
        assert (await call(alice, "list", {"limit": 0})).code == ErrorCode.BAD_FIELD


async def test_metrics(gateway: Gateway, api: Api) -> None:
    await create(api)

    told = gateway.operations.executions.measures
    await until(lambda: told()["executions_told_total"][1] == 1)
    text = (await api.client.get("/metrics")).text
    for name in ("told_total 1.0", "left_total 0.0", "waiting 0.0", "stale_total 0.0"):
        assert f"\ntrireme_executions_{name}\n" in text, name


async def test_without_a_database_there_are_none() -> None:
    async with trio.open_nursery() as nursery:
        gateway = await start_gateway(nursery, database="none")
        async with asking(gateway) as api, connected(gateway) as raw:
            problem(await api.post("/executions", {"agent": "a"}), 404, ErrorCode.NOT_FOUND)
            problem(await api.get("/executions"), 404, ErrorCode.NOT_FOUND)
            answer = await raw.ask("join", room="executions", data={"snapshot": True})
            assert answer.code == ErrorCode.NOT_FOUND
            assert (await raw.ask("call", event="executions.list")).code == ErrorCode.UNKNOWN_CALL
            assert (await raw.ask("leave", room="executions")).code == ErrorCode.NOT_JOINED
        nursery.cancel_scope.cancel()
