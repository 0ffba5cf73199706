"""``docs/security.md`` names tests and settings that there are."""

from __future__ import annotations

import re

from gateway.config.settings import Settings
from tests.docs.markdown import ROOT, text_of

SECURITY = text_of("docs/security.md")


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
