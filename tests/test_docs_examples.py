"""The ``curl`` examples of the documentation, run as they are printed against a running gateway."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from gateway.app import Gateway
from gateway.config.settings import Settings
from tests.rest.api import SERVICE
from tests.support import connected, start_gateway

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/quickstart.md",
    "docs/rest.md",
    "docs/authentication.md",
    "docs/notifications.md",
    "docs/approvals.md",
    "docs/events.md",
]
FENCE = re.compile(r"^```bash\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# An HTTP error is a failure of the example, and a curl that hangs one of the test.
PRELUDE = 'set -euo pipefail\ncurl() { command curl --fail-with-body --max-time 20 "$@"; echo; }\n'


@pytest.fixture
async def gateway(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway with everything on that an example shows."""
    yield await start_gateway(
        nursery, trace={"messages": 100}, database=f"sqlite:///{tmp_path / 'gateway.db'}"
    )


def examples() -> list[object]:
    found: list[object] = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{page}:{line}"))
    return found


async def run(script: str, gateway: Gateway, **environment: str) -> subprocess.CompletedProcess[bytes]:
    bash, curl = shutil.which("bash"), shutil.which("curl")
    assert bash, "bash is needed to run the examples"
    assert curl, "curl is needed to run the examples"
    given = {
        "PATH": str(Path(curl).parent),
        "TRIREME": f"http://127.0.0.1:{gateway.port}",
        "TOKEN": gateway.auth.issue(org="acme", **SERVICE).token,
        "SERVICE": gateway.auth.issue(org="acme", **SERVICE).token,
        **environment,
    }
    return await trio.run_process(
        [bash, "-c", PRELUDE + script], env=given, capture_stdout=True, capture_stderr=True, check=False
    )


@pytest.mark.parametrize("script", examples())
async def test_the_example_works(gateway: Gateway, script: str) -> None:
    async with connected(gateway, user="alice") as alice:
        await alice.ask("join", room="chat:42")
        result = await run(script, gateway, CONNECTION=alice.greeting.data["connection"])
    assert result.returncode == 0, result.stdout.decode() + result.stderr.decode()
    assert result.stdout.strip()


async def test_an_example_that_fails_is_noticed(gateway: Gateway) -> None:
    for script in ("curl -sS $TRIREME/nothing", "curl -sS $UNSET", "curl -sS $TRIREME/api/v1/stats; true"):
        assert (await run(script, gateway)).returncode != 0, script


async def test_every_operation_has_an_example(gateway: Gateway) -> None:
    result = await run("curl -sS $TRIREME/api/v1/openapi.json", gateway)
    documented = {
        f"{method.upper()} {path}"
        for path, methods in msgspec.json.decode(result.stdout)["paths"].items()
        for method in methods
    }
    text = (ROOT / "docs/rest.md").read_text()
    described = {}
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0].strip("`")
        described[title] = FENCE.search(section) is not None
    assert documented - set(described) == set()
    assert all(described.values()), described


# --- docs/security.md -------------------------------------------------------------------------------------

SECURITY = (ROOT / "docs/security.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)`(?: \(([^)]*)\))?", SECURITY)
    assert len(named) > 30
    for file, tests in named:
        text = (ROOT / "tests" / file).read_text()
        for test in re.findall(r"`(\w+)`", tests):
            assert re.search(rf"def test_\w*{test}\w*\(", text), f"{file}: {test}"


def test_every_setting_that_is_named_exists() -> None:
    rows = [row.split("|") for row in SECURITY.splitlines() if row.startswith("| ") and row.count("|") == 5]
    assert len(rows) > 20
    for row in rows[1:]:
        group = ""
        for setting in re.findall(r"`([a-z_.…]+)`", row[3]):
            before, _, name = setting.rpartition(".")
            group = before or (group if setting.startswith(".") else "")
            owner = getattr(Settings(), group) if group else Settings()
            fields = owner.__struct_fields__
            assert any(each.startswith(name.rstrip("…")) for each in fields) or name == "…", setting
