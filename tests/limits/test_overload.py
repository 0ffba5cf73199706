"""Load shedding: who is refused first, and that it ends by itself."""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from gateway.app import Gateway
from gateway.config.settings import OverloadSettings
from gateway.limits import overload
from gateway.limits.overload import Overload
from protocol.errors import ErrorCode as E
from tests.rest.api import Api, asking, problem, success
from tests.support import Raw, connected, running_gateway, until
from tests.upgrade import knock


async def late(connection: Any, data: float) -> None:
    """A handler that holds up the event loop, as no handler should."""
    time.sleep(data)  # noqa: ASYNC251


async def refuses_what_it_should(gateway: Gateway, ask: Api, member: Raw, service: Raw, reason: str) -> None:
    """While load is shed."""
    token = gateway.auth.issue(org="acme", user="late").token
    refused = await knock(gateway, f"/ws?token={token}")
    assert (refused.status, refused.problem["code"]) == (503, E.OVERLOADED)
    assert refused.headers["retry-after"] == "7" and refused.problem["retry_after"] == 7.0
    answer = await member.ask("publish", room="r", event="e")
    assert (answer.code, answer.data) == (E.OVERLOADED, {"retry_after": 7.0})
    assert (await service.ask("publish", room="r", event="e")).code == E.OVERLOADED
    assert (await service.ask("publish", room="r", event="e", critical=True)).t == "reply"
    problem(await ask.post("/broadcast", {"room": "r", "event": "e"}), 503, E.OVERLOADED)
    success(await ask.post("/broadcast", {"room": "r", "event": "e", "critical": True}))
    # Whoever is in goes on.
    for kind, fields in (("ping", {}), ("join", {"room": "s"}), ("history", {"room": "r"})):
        assert (await member.ask(kind, **fields)).code is None
    ready = await ask.client.get("/readyz")
    assert reason in problem(ready, 503, E.OVERLOADED)
    assert ready.headers["Retry-After"] == "7"
    assert (await ask.client.get("/healthz")).status_code == 200
    assert "trireme_overloaded 1.0" in (await ask.client.get("/metrics")).text


async def test_a_late_event_loop_sheds_load_and_recovers() -> None:
    settings = {"overload": {"loop_lag": 0.3, "retry_after": 7.0}}
    async with (
        running_gateway(**settings) as gateway,
        asking(gateway) as ask,
        connected(gateway) as member,
        connected(gateway, user="svc", roles=["service"]) as service,
    ):
        gateway.handle_call("late", late)
        assert (await ask.client.get("/readyz")).status_code == 200
        assert (await member.ask("publish", room="r", event="e")).t == "reply"
        await member.ask("call", event="late", data=0.8)
        await until(lambda: gateway.guard.overload.reason is not None, "the shedding")
        await refuses_what_it_should(gateway, ask, member, service, "the event loop lags")
        await until(lambda: gateway.guard.overload.reason is None, "the recovery")
        assert (await ask.client.get("/readyz")).status_code == 200
        assert (await member.ask("publish", room="r", event="e")).t == "reply"
        async with connected(gateway):
            pass
        metrics = (await ask.client.get("/metrics")).text
        assert "trireme_overloaded 0.0" in metrics and "trireme_overload_refusals_total 4.0" in metrics


async def test_too_much_memory_sheds_load_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 2**30
    monkeypatch.setattr(overload, "resident_bytes", lambda: taken)
    settings = {"overload": {"loop_lag": 0.0, "memory_bytes": 2 * 2**30, "retry_after": 7.0}}
    async with (
        running_gateway(**settings) as gateway,
        asking(gateway) as ask,
        connected(gateway) as member,
        connected(gateway, user="svc", roles=["service"]) as service,
    ):
        taken = 2 * 2**30
        await until(lambda: gateway.guard.overload.reason is not None, "the shedding")
        await refuses_what_it_should(gateway, ask, member, service, "memory is short")
        taken = 2**30
        await until(lambda: gateway.guard.overload.reason is None, "the recovery")
        async with connected(gateway):
            pass


def samples(watch: Overload, lag: float, memory: int, count: int = 1) -> str | None:
    for _ in range(count):
        watch.sample(lag, memory)
    return watch.reason


def test_it_does_not_flap() -> None:
    watch = Overload(OverloadSettings(loop_lag=1.0, memory_bytes=1000))
    assert samples(watch, 0.99, 999, 100) is None
    assert samples(watch, 1.0, 0) == "the event loop lags"
    assert samples(watch, 0.6, 0, 100) is not None, "calm is below half the bound"
    assert samples(watch, 0.4, 0, 3) is not None
    assert samples(watch, 0.6, 0) is not None
    assert samples(watch, 0.4, 0, 3) is not None, "and lasts for four samples"
    assert samples(watch, 0.4, 0) is None
    assert samples(watch, 0.0, 1000) == "memory is short"
    assert samples(watch, 0.0, 950, 100) is not None, "memory seldom shrinks by half"
    assert samples(watch, 0.0, 899, 4) is None
    # Both at once: the worse one is told.
    assert samples(watch, 3.0, 2000) == "the event loop lags"
    assert samples(watch, 0.0, 950, 100) == "the event loop lags", "the other one is not calm either"


def test_it_is_logged_once_for_each_time() -> None:
    watch = Overload(OverloadSettings(loop_lag=1.0))
    with structlog.testing.capture_logs() as logs:
        samples(watch, 5.0, 0, 50)
        samples(watch, 0.0, 0, 50)
        samples(watch, 5.0, 0, 50)
    assert [line["event"] for line in logs] == ["shedding load", "accepting full load again", "shedding load"]


def test_without_bounds_nothing_is_shed() -> None:
    watch = Overload(OverloadSettings(loop_lag=0.0, memory_bytes=0, memory_share=0.0))
    assert samples(watch, 1e6, 2**60, 10) is None
    watch.refuse_publish()


def test_the_memory_of_the_process_is_known() -> None:
    before = overload.resident_bytes()
    assert before > 2**20
    with mmap.mmap(-1, 64 * 2**20) as held:  # not from the allocator, which may have kept as much from before
        held.write(b"x" * (64 * 2**20))
        assert overload.resident_bytes() - before > 32 * 2**20


def test_without_a_number_it_is_a_part_of_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    group, none = tmp_path / "memory.max", tmp_path / "none"
    group.write_text("1000000\n")
    monkeypatch.setattr(overload, "_GROUP_BOUNDS", (group, none))
    watch = Overload(OverloadSettings(loop_lag=0.0, memory_share=0.5), workers=2)
    watch.sample(0.0, 249_999)
    assert watch.reason is None
    watch.sample(0.0, 250_001)
    assert watch.reason == "memory is short"
    group.write_text("max\n")
    whole = overload.available_bytes()
    assert whole > 10**8
    monkeypatch.setattr(overload, "_GROUP_BOUNDS", ())
    assert whole == overload.available_bytes()
