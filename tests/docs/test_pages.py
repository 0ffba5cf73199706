"""Every page that prints commands does what it prints, in order, in a fresh clone."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, Block, blocks_of
from tests.docs.terminal import reader

PAGES = [
    "README.md",
    "docs/quickstart.md",
    "docs/rest.md",
    "docs/authentication.md",
    "docs/notifications.md",
    "docs/streams.md",
    "docs/extending.md",
    "docs/calls.md",
    "docs/testing.md",
    "docs/approvals.md",
    "docs/events.md",
    "docs/tutorial-notifications.md",
    "docs/tutorial-platform.md",
    "docs/tutorial-activity.md",
    "docs/tutorial-chat.md",
    "docs/tutorial-agents.md",
]
EVERY_PAGE = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES)
async def test_the_page_does_what_it_prints(page: str, tmp_path: Path) -> None:
    async with reader(tmp_path) as someone:
        for block in blocks_of(page):
            await someone.follow(block)


def shown(pages: list[str], *languages: str) -> list[Block]:
    return [block for page in pages for block in blocks_of(page) if block.language in languages]


def test_what_a_page_shows_can_be_read() -> None:
    for block in shown(EVERY_PAGE, "json", "toml", "python"):
        try:
            match block.language:
                case "json":
                    _read_json(block.text)
                case "toml":
                    tomllib.loads(block.text)
                case "python":
                    compile(block.text, block.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except (ValueError, SyntaxError) as error:
            pytest.fail(f"{block.where}: {error}")


def _read_json(text: str) -> None:
    """One value, or one a line; ``…`` stands for what is left out."""
    text = re.sub(r",\s*…(?=\s*[}\]])", "", text)
    try:
        json.loads(text)
    except ValueError:
        for line in text.splitlines():
            json.loads(line)


def test_every_page_with_commands_is_run() -> None:
    assert {block.page for block in shown(EVERY_PAGE, "sh", "bash")} <= {*PAGES}
