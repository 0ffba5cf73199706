"""What a page of the documentation prints: its fenced blocks, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks_of", "file_of", "text_of"]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"\n]+)")?\n(?P<text>.*?)^```$', re.DOTALL | re.M
)


@dataclass(frozen=True)
class Block:
    """One fenced block; ``title`` is the name of a file or of a terminal (``Terminal 2``)."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The file that the reader is told to save it as; empty when there is none."""
        return "" if self.terminal else self.title

    @property
    def terminal(self) -> str:
        return self.title if self.title.startswith("Terminal ") else ""


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[Block]:
    text = text_of(page)
    blocks = [
        Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            found["title"] or "",
            found["text"],
        )
        for found in _FENCE.finditer(text)
    ]
    # A fence that is written otherwise would be skipped without a word.
    assert len(blocks) * 2 == len(re.findall(r"^```", text, re.M)), f"{page}: a fence cannot be read"
    return blocks


def file_of(page: str, name: str) -> str:
    """The text of the file ``name`` as the page prints it."""
    (found,) = [block.text for block in blocks_of(page) if block.title == name]
    return found
