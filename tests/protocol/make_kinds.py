"""Writes down the table of kinds where no Python reads it: ``python -m tests.protocol.make_kinds``.

In the grammar, ``protocol/envelope.cddl``, and in the browser's client, ``gateway/web/client/kinds.js``; then
``node gateway/web/client/build.mjs`` makes ``client.js`` anew. A test holds both to the table.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

from protocol.kinds import TABLE

ROOT = Path(__file__).parents[2]
GRAMMAR = ROOT / "protocol" / "envelope.cddl"
SCRIPT = ROOT / "gateway" / "web" / "client" / "kinds.js"

_ELSEWHERE = {"auth", "call"}
"""The client's own business: it authenticates by its options, and any other name is a call."""


def filled(words: list[str], behind: str) -> str:
    """The words in lines of at most 100 characters, with ``behind`` after each but the last."""
    parts = [*(word + behind for word in words[:-1]), words[-1]]
    whole = " ".join(part.replace(" ", "\0") for part in parts)
    lines = textwrap.wrap(whole, 100, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def grammar(text: str) -> str:
    """The grammar with the kinds of the table."""
    numbers = filled([f"{kind.name}: {kind.number}" for kind in TABLE], ",")
    names = filled([json.dumps(kind.name) for kind in TABLE], " /")
    text = re.sub(r"cbor-kind = &\(\n.*?\n\)", f"cbor-kind = &(\n{numbers}\n)", text, flags=re.DOTALL)
    return re.sub(r"json-kind =.*?\n\n", f"json-kind =\n{names}\n\n", text, flags=re.DOTALL)


def script() -> str:
    """The module of the browser's client."""
    by_number = {kind.number: kind.name for kind in TABLE}
    every = [json.dumps(by_number[n]) if n in by_number else "undefined" for n in range(max(by_number) + 1)]
    commands = [kind for kind in TABLE if kind.sender != "server" and kind.name not in _ELSEWHERE]
    bound = ", ".join(json.dumps(kind.name) for kind in commands if not kind.over_http)
    free = ", ".join(json.dumps(kind.name) for kind in commands if kind.over_http)
    return f"""\
// The kinds of messages, written by tests/protocol/make_kinds.py from protocol/kinds.py.

/** By their numbers in CBOR. */
export const KINDS = [
{filled(every, ",")},
];
/** Commands that belong to a connection. */
export const BOUND = new Set([{bound}]);
/** What `send(type, data)` understands as a command of the protocol; everything else is a call. */
export const COMMANDS = new Set([...BOUND, {free}]);
"""


def main() -> None:
    GRAMMAR.write_text(grammar(GRAMMAR.read_text(encoding="utf-8")), encoding="utf-8")
    SCRIPT.write_text(script(), encoding="utf-8")


if __name__ == "__main__":
    main()
