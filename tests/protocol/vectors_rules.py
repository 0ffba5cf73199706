"""Names, patterns and filters: what the conformance vectors say of them.

``make_vectors`` writes them out.
"""

# ruff: noqa: E501 -- tables, one row in one line

from __future__ import annotations

from typing import Any

NAMES: list[tuple[str, str, int | None]] = [
    # what, text, error code or null
    ("room", "chat:42", None), ("room", "r" * 200, None), ("room", "é" * 100, None), ("room", " ", None),
    ("room", "conversation:8b0a7f3e-5d51-4a9e-a3c9-0e8f1c2d3b4a", None), ("room", "a/b#c?d", None),
    ("room", "all", None), ("room", "\u0080", None),
    ("room", "", 105), ("room", "r" * 201, 105), ("room", "é" * 100 + "r", 105), ("room", "chat:*", 105),
    ("room", "a\nb", 105), ("room", "a\u0000", 105), ("room", "\u001f", 105), ("room", "\u007f", 105),
    ("event", "message:new", None), ("event", "e" * 100, None), ("event", "🚣" * 25, None),
    ("event", "", 106), ("event", "e" * 101, 106), ("event", "🚣" * 25 + "e", 106), ("event", "task:*", 106),
    ("event", "a\tb", 106), ("event", "\u007f", 106),
    ("mid", "01JAB*", None), ("mid", "m" * 100, None),
    ("mid", "", 104), ("mid", "m" * 101, 104), ("mid", "m\n", 104),
    ("pattern", "*", None), ("pattern", "all", None), ("pattern", "task:*", None), ("pattern", "*:a*b*", None),
    ("pattern", "p" * 100, None),
    ("pattern", "", 104), ("pattern", "p" * 101, 104), ("pattern", "task:\u0000*", 104),
]  # fmt: skip

PATTERNS: list[tuple[str, str, bool]] = [
    ("*", "anything", True), ("*", "", True), ("all", "anything", True), ("all", "all", True),
    ("task", "task", True), ("task", "task:", False), ("task", "Task", False),
    ("task:*", "task:created", True), ("task:*", "task:", True), ("task:*", "task", False),
    ("task:*", "a task:created", False),
    ("*:created", "task:created", True), ("*:created", "task:created:x", False),
    ("a*a", "aa", True), ("a*a", "a", False), ("a*b*c", "abc", True), ("a*b*c", "a-b-b-c", True),
    ("a*b*c", "acb", False), ("*a*", "xax", True), ("*a*", "xx", False), ("ab*ba", "aba", False),
    ("**", "x", True), ("a**b", "ab", True), ("[a-z]?", "b1", False), ("[a-z]?", "[a-z]?", True),
    ("a.c", "abc", False), ("*aab", "aaab", True),
    ("*a*a*", "a", False), ("*a*a*", "aa", True), ("*ab*ba*", "aba", False), ("*ab*ba*", "abba", True),
]  # fmt: skip

FILTERS: list[dict[str, Any]] = [
    {
        "about": "a new connection lets everything through",
        "steps": [], "events": ["*"], "except": [],
        "passes": ["task:created", "x"], "held": [],
    },
    {
        "about": "the first subscribe narrows",
        "steps": [["subscribe", ["task:*"]]], "events": ["task:*"], "except": [],
        "passes": ["task:created"], "held": ["x", "task"],
    },
    {
        "about": "later ones add",
        "steps": [["subscribe", ["task:*"]], ["subscribe", ["x"]]], "events": ["task:*", "x"], "except": [],
        "passes": ["task:created", "x"], "held": ["y"],
    },
    {
        "about": "unsubscribe on a new connection is an exception from everything",
        "steps": [["unsubscribe", ["task:*"]]], "events": ["*"], "except": ["task:*"],
        "passes": ["x"], "held": ["task:created"],
    },
    {
        "about": "all is everything, and later patterns do not narrow it",
        "steps": [["subscribe", ["all"]], ["subscribe", ["x"]]], "events": ["*", "x"], "except": [],
        "passes": ["x", "y"], "held": [],
    },
    {
        "about": "unsubscribe takes a pattern away",
        "steps": [["subscribe", ["task:*", "x"]], ["unsubscribe", ["task:*"]]], "events": ["x"], "except": [],
        "passes": ["x"], "held": ["task:created"],
    },
    {
        "about": "and the patterns within it",
        "steps": [["subscribe", ["task:created", "x"]], ["unsubscribe", ["task:*"]]], "events": ["x"], "except": [],
        "passes": ["x"], "held": ["task:created"],
    },
    {
        "about": "a part of a subscribed pattern becomes an exception",
        "steps": [["subscribe", ["task:*"]], ["unsubscribe", ["task:created"]]],
        "events": ["task:*"], "except": ["task:created"],
        "passes": ["task:done"], "held": ["task:created"],
    },
    {
        "about": "a wider exception takes the place of those within",
        "steps": [["unsubscribe", ["task:created", "x"]], ["unsubscribe", ["task:*"]]],
        "events": ["*"], "except": ["task:*", "x"],
        "passes": ["y"], "held": ["task:created", "task:done", "x"],
    },
    {
        "about": "subscribing again ends the exception",
        "steps": [["unsubscribe", ["task:*"]], ["subscribe", ["*"]]], "events": ["*"], "except": [],
        "passes": ["task:created"], "held": [],
    },
    {
        "about": "the first subscribe narrows also after unsubscribe",
        "steps": [["unsubscribe", ["task:*"]], ["subscribe", ["task:created"]]],
        "events": ["task:created"], "except": [],
        "passes": ["task:created"], "held": ["task:done", "x"],
    },
    {
        "about": "unsubscribing from everything leaves nothing",
        "steps": [["unsubscribe", ["all"]]], "events": [], "except": [],
        "passes": [], "held": ["x"],
    },
    {
        "about": "what was never let through is no exception",
        "steps": [["subscribe", ["task:*"]], ["unsubscribe", ["agent:*"]]], "events": ["task:*"], "except": [],
        "passes": ["task:created"], "held": ["agent:created"],
    },
]  # fmt: skip
