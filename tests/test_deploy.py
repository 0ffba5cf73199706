"""What the operations page and its files name is there: metrics, settings, paths."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
import trio

from gateway.config.settings import CallSettings, Group, Settings
from gateway.config.sources import load_settings
from tests.redis_server import redis_server
from tests.support import running_gateway, until

DOCS = Path(__file__).parents[1] / "docs"
FOLDER = DOCS / "deploy"
FILES = [DOCS / "operations.md", *sorted(FOLDER.iterdir())]
METRIC = re.compile(r"\b(?:trireme|process)_[a-z_]*[a-z]\b")


def settings_of(struct: type[msgspec.Struct], prefix: str = "") -> set[str]:
    found = set()
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, Group):
            found |= settings_of(field.type, f"{prefix}{field.name}.")
        else:
            found.add(prefix + field.name)
    return found


SETTINGS = settings_of(Settings)
GROUPS = {name.split(".")[0] for name in SETTINGS if "." in name}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The metrics of a gateway with everything on."""
    folder = tmp_path_factory.mktemp("metrics")

    async def look() -> bytes:
        async with (
            redis_server(folder) as redis,
            running_gateway(
                broker=redis.url,
                database=f"sqlite:///{folder / 'gateway.db'}",
                trace={"messages": 10},
                calls={"order:*": CallSettings(url="http://backend.test/calls")},
            ) as gateway,
        ):
            await until(lambda: gateway.broker.ready() is None)
            found = gateway._rest.metrics.render()
        async with running_gateway() as gateway:  # the memory broker has some of its own
            return found + gateway._rest.metrics.render()

    text = trio.run(look).decode()
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}


def test_metrics_have_the_names_that_are_written(shown: set[str]) -> None:
    """Above all those of the dashboard and of the alerts, which would stay silent."""
    for file in FILES:
        written = set(METRIC.findall(file.read_text())) - {"trireme_gateway"}
        assert written - shown == set(), file.name
    for name, least in (("grafana-dashboard.json", 50), ("prometheus-alerts.yml", 20)):
        assert len(set(METRIC.findall((FOLDER / name).read_text()))) >= least, name


def test_the_table_of_metrics_has_all_of_them(shown: set[str]) -> None:
    text = (DOCS / "rest.md").read_text()
    table = text[text.index("| metric | what |") : text.index("### `GET /api/v1/openapi.json`")]
    named = set(re.findall(r"`(trireme_[a-z_]+)", table))
    assert {each for each in shown if each.startswith("trireme_")} - named == set()
    assert named - shown == set()


def test_every_part_of_the_gateway_is_watched() -> None:
    """Each family of metrics is in the dashboard."""
    watched = set(METRIC.findall((FOLDER / "grafana-dashboard.json").read_text()))
    for part in ("store", "inbox", "executions", "approvals", "backend", "calls", "connections_by_encoding"):
        assert any(name.startswith(f"trireme_{part}") for name in watched), part


def test_settings_have_the_names_that_are_written() -> None:
    text = (DOCS / "operations.md").read_text() + (FOLDER / "trireme.service").read_text()
    text += (FOLDER / "prometheus-alerts.yml").read_text()
    pattern = re.compile(rf"\b((?:{'|'.join(sorted(GROUPS))})\.[a-z_]+)(?![\w.*-])")
    written = {name for name in pattern.findall(text) if not name.endswith((".md", "_"))}
    assert len(written) > 15
    assert written - SETTINGS == set()


def test_the_variables_of_the_kubernetes_example_are_settings() -> None:
    text = (FOLDER / "kubernetes.yaml").read_text()
    variables = dict(re.findall(r"\{name: (GATEWAY_\w+), value: \"(.*)\"\}", text))
    named = set(re.findall(r"name: (GATEWAY_\w+)$", text, re.MULTILINE))
    assert len(variables) > 4 and named
    placeholders = {"GATEWAY_BROKER": "redis://x", "GATEWAY_AUTH_SECRET": "x" * 32, "GATEWAY_NODE": "x"}
    assert named == set(placeholders)
    settings = load_settings(None, variables | placeholders, {})
    grace = re.search(r"terminationGracePeriodSeconds: (\d+)", text)
    assert grace is not None
    drain = settings.drain
    assert int(grace[1]) > drain.delay + drain.timeout + settings.shutdown_timeout


def test_the_dashboard_can_be_imported() -> None:
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) > 15
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


@pytest.mark.parametrize("page", ["operations.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", (DOCS / page).read_text())
    assert len(links) > 8
    assert [link for link in links if not (DOCS / link).exists()] == []
