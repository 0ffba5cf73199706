"""What the operations page and its files name is there: metrics, settings, paths."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from gateway.config.settings import Group, Settings
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


async def test_metrics_have_the_names_that_are_written(tmp_path: Path) -> None:
    written = {name for file in FILES for name in METRIC.findall(file.read_text())}
    assert len(written) > 30
    async with redis_server(tmp_path) as redis, running_gateway(broker=redis.url) as gateway:
        await until(lambda: gateway.broker.ready() is None)
        text = gateway._rest.metrics.render().decode()
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert written - shown == set()


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
