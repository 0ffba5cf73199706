"""Liveness, readiness and metrics."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import Gateway
from protocol.frames import PING_FRAME
from tests.rest.api import Api, problem, success
from tests.support import connected, until


async def metrics(api: Api) -> dict[str, float]:
    response = await api.client.get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    api.contract.check(response)
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_health_and_readiness_need_no_token(api: Api) -> None:
    assert success(await api.client.get("/healthz")) == {"status": "ok"}
    assert success(await api.client.get("/readyz")) == {"status": "ready"}


async def test_a_draining_node_is_alive_and_not_ready(api: Api, gateway: Gateway) -> None:
    gateway.draining = True
    response = await api.client.get("/readyz")
    assert "shutting down" in problem(response, 503, 304)
    assert int(response.headers["Retry-After"]) >= 1
    success(await api.client.get("/healthz"))


async def test_a_node_without_its_broker_is_not_ready(
    api: Api, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.broker, "ready", lambda: "connection refused")
    assert "connection refused" in problem(await api.client.get("/readyz"), 503, 302)


async def test_metrics_follow_what_happens(api: Api, gateway: Gateway) -> None:
    before = await metrics(api)
    assert before["trireme_connections"] == 0
    async with connected(gateway) as alice, connected(gateway, org="globex"):
        await alice.ask("join", room="r")
        await alice.ask("publish", room="r", event="e")
        await alice.ask("join", room="")
        during = await metrics(api)
        assert during["trireme_connections"] == 2
        assert during["trireme_organisations"] == 2
        assert during["trireme_rooms"] == 1
        assert during["trireme_connections_total"] == 2
        assert during["trireme_messages_received_total"] == 3
        assert during["trireme_messages_sent_total"] >= 6
        assert during["trireme_bytes_received_total"] > 0
        assert during["trireme_bytes_sent_total"] > 0
        assert during["trireme_publishes_total"] == 1
        assert during["trireme_deliveries_total"] == 1
        assert during["trireme_errors_total{code=105}"] == 1
        assert during["trireme_queue_messages"] == 0
    await until(lambda: not gateway.hub.connections)
    after = await metrics(api)
    assert after["trireme_connections"] == 0
    assert after["trireme_connections_total"] == 2
    assert after["trireme_disconnections_total{reason=1000}"] == 2
    assert after["trireme_messages_received_total"] >= during["trireme_messages_received_total"]


async def test_clients_do_not_choose_the_labels(api: Api, gateway: Gateway) -> None:
    for code in (4000, 4321, 3999, 4322):
        async with connected(gateway) as alice:
            await alice.socket.aclose(code)
    await until(lambda: not gateway.hub.connections)
    after = await metrics(api)
    closes = {name: count for name, count in after.items() if name.startswith("trireme_disconnections")}
    assert closes == {
        "trireme_disconnections_total{reason=4000}": 1,
        "trireme_disconnections_total{reason=other}": 3,
    }


async def test_http_requests_are_counted_by_status(api: Api) -> None:
    await api.get("/stats")
    await api.get("/stats", token="")
    await api.get("/nothing")
    counts = await metrics(api)
    assert counts["trireme_http_requests_total{status=401}"] == 1
    assert counts["trireme_http_requests_total{status=404}"] == 1
    assert counts["trireme_http_requests_total{status=200}"] >= 1


async def test_waiting_messages_are_shown(api: Api, gateway: Gateway) -> None:
    async with connected(gateway):
        [connection] = gateway.hub.connections.values()
        # Without a checkpoint in between, so that nothing is flushed meanwhile.
        connection.outbox.put(PING_FRAME)
        text = gateway._rest.metrics.render().decode()
    assert "trireme_queue_messages 1.0" in text
    assert "trireme_queue_bytes 2.0" in text
    assert "trireme_queue_longest 1.0" in text


async def test_the_build_and_the_loop_are_described(api: Api) -> None:
    found: dict[str, Any] = await metrics(api)
    assert any(name.startswith("trireme_build_info{") for name in found)
    assert found["trireme_loop_lag_seconds"] >= 0
    assert found["trireme_start_time_seconds"] > 1.7e9
    assert found["process_resident_memory_bytes"] > 0


async def test_kept_history_is_shown(api: Api) -> None:
    assert (await metrics(api))["trireme_history_bytes"] == 0
    success(await api.post("/broadcast", {"room": "r", "event": "e", "data": "x" * 5000}))
    found = await metrics(api)
    assert found["trireme_history_channels"] == 1
    assert 5000 < found["trireme_history_bytes"] < 6000
