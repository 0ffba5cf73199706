"""What is handed out works: the wheel in an environment of its own, the files for containers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from gateway.config.sources import load_settings
from tests.docs.markdown import ROOT, Block
from tests.docs.terminal import typing_in


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("gateway", "protocol"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", out, source], check=True)
    (found,) = out.iterdir()
    return found


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    needed = {
        path.relative_to(ROOT).as_posix()
        for package in ("gateway", "protocol")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in needed - held if not name.endswith(".md")} == set()


@pytest.fixture
def environment(wheel: Path, tmp_path: Path) -> Path:
    """A virtual environment with the wheel; what it depends on comes from the one of the tests."""
    made = tmp_path / "installed"
    venv.create(made, symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(made)})
    # No .pth file there is followed, such as the one of an editable install of the gateway.
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(made / "bin" / "python")]
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "install", *flags, str(wheel)], check=True)
    return made


async def test_the_installed_wheel_serves_publishes_and_tails(environment: Path, tmp_path: Path) -> None:
    """As printed: the commands are those that the gateway itself prints when it starts."""

    def block(text: str, terminal: str = "", language: str = "sh") -> Block:
        return Block("the wheel", 0, language, terminal, text)

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    async with typing_in(folder, PATH=path) as someone:
        where = "python3 -c 'import gateway, protocol; print(gateway.__file__, protocol.__file__)'"
        await someone.follow(block(where))
        await someone.follow(block("…installed…gateway…installed…protocol…", language="text"))
        await someone.follow(block("gateway serve --dev", "Terminal 1"))
        serving = someone.terminals["Terminal 1"]
        await serving.until(re.compile(r'--json \'\{"room"'))
        console, tail, publish, export, *_ = (
            line.strip() for line in serving.output.splitlines() if line.startswith("  ")
        )
        assert tail.startswith("gateway tail") and publish.startswith("gateway publish")
        assert "#token=" in console and "$(gateway token" in export
        await someone.follow(block(tail, "Terminal 2"))
        await someone.follow(block(publish))
        await someone.terminals["Terminal 2"].until(re.compile(r'message:new .*\{"text":"hello"\}'))
        for page in ("/", "/client.js", "/docs", "/api/v1/openapi.json"):
            curl = f"curl -sS http://127.0.0.1:8000{page} --output page --write-out %{{http_code}}"
            await someone.follow(block(curl))


def test_the_image_copies_what_it_installs() -> None:
    text = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = {
        name for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.MULTILINE) for name in line.split()
    }
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert re.search(r"^USER [1-9]\d*$", text, re.MULTILINE) and "HEALTHCHECK" in text


def test_the_services_of_compose_fit_together(tmp_path: Path) -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"node-1", "node-2", "migrate", "nginx", "redis", "postgres"}
    for name, service in services.items():
        assert "image" in service, name
        assert set(service.get("depends_on", ())) <= set(services), name
        for needed, condition in service.get("depends_on", {}).items():
            healthy = "healthcheck" in services[needed] or "build" in services[needed]
            assert condition["condition"] == "service_completed_successfully" or healthy, (name, needed)
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (ROOT / source).is_file(), (name, volume)
    for name in ("node-1", "node-2"):
        given = {
            key: re.sub(r"\$\{.*?\}", "x" * 40, value) for key, value in services[name]["environment"].items()
        }
        settings = load_settings(None, given, {})
        assert (settings.node, settings.broker) == (name, "redis://redis:6379")
        assert int(services[name]["stop_grace_period"][:-1]) > (
            settings.drain.delay + settings.drain.timeout + settings.shutdown_timeout
        )
    nginx = (ROOT / "docs/deploy/nginx.conf").read_text()
    assert set(re.findall(r"server (\S+):8000", nginx)) == {"node-1", "node-2"}


def test_what_is_yaml_can_be_read() -> None:
    for path in (ROOT / "docs/deploy").glob("*.y*ml"):
        assert list(yaml.safe_load_all(path.read_text())), path
