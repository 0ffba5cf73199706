"""``docs/migrating.md`` shows the examples as they are."""

from __future__ import annotations

import re

from tests.examples.support import EXAMPLES, ROOT

PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
SYSTEMS = ("notifications.mjs", "platform_backend.py", "activity_feed.py", "chat.py", "agent_core.py")


def test_each_system_shows_its_example() -> None:
    sections = re.split(r"^## [A-E]\. ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) == len(SYSTEMS)
    for section, name in zip(sections, SYSTEMS, strict=True):
        assert f"(../examples/{name})" in section
        source = (EXAMPLES / name).read_text(encoding="utf-8")
        shown = re.findall(r"^```(?:python|js)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        assert shown
        for part in shown:
            assert part in source + "\n", part


def test_every_example_is_shown_somewhere() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    for file in EXAMPLES.iterdir():
        if file.is_file():
            assert f"(../examples/{file.name})" in pages, file.name
