"""Every page that prints commands does what it prints, in order, in a fresh clone."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, Block, blocks_of
from tests.docs.terminal import MAKE_RUN, Shared, reader, shared_gateway

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
    "docs/executions.md",
    "docs/events.md",
    "docs/tutorial-notifications.md",
    "docs/tutorial-platform.md",
    "docs/tutorial-activity.md",
    "docs/tutorial-chat.md",
    "docs/tutorial-agents.md",
]
EVERY_PAGE = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES)
async def test_the_page_does_what_it_prints(
    page: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    blocks = blocks_of(page)
    shared: Shared | None = request.getfixturevalue("gateway") if can_share(page, blocks) else None
    async with reader(tmp_path, shared) as someone:
        for block in blocks:
            await someone.follow(block)


def can_share(page: str, blocks: list[Block]) -> bool:
    """Is its gateway one like any other? The README's first command is always run."""
    files = {block.file for block in blocks}
    starts = [block for block in blocks if block.text.startswith("make ")]
    return (
        page != "README.md" and "gateway.toml" not in files and [block.text for block in starts] == [MAKE_RUN]
    )


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A gateway that is there for several pages, each with an organisation of its own."""
    with shared_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


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
