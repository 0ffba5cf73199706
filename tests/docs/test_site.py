"""The site (``make docs``) builds without a warning, and leads to every page."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

from tests.docs.markdown import ROOT


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["site_name"] == "Trireme"
    listed = re.findall(r'"([\w-]+\.md)"', text)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_every_link_between_pages_leads_to_a_file() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_it_builds_with_every_warning_an_error() -> None:
    command = [sys.executable, str(ROOT / "docs" / "build.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "build" / "site" / "quickstart.html").is_file()
