"""Imports run one way: what each part may know of the others, read from the sources.

A part is ``protocol`` or what lies directly in ``gateway``. A new part needs a line here, so
that somebody has thought about where it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVERYBODY = {"gateway"}

# Part → what of ours it may import besides itself, protocol and the version.
MAY_IMPORT: dict[str, set[str]] = {
    "protocol": set(),
    "gateway": EVERYBODY,
    "gateway.version": set(),
    "gateway.config": set(),
    "gateway.logs": {"gateway.config.settings"},
    "gateway.problems": set(),
    "gateway.networks": set(),
    "gateway.wire": {"gateway.config.settings", "gateway.networks", "gateway.problems"},
    "gateway.broker": {"gateway.config"},
    "gateway.auth": {"gateway.config.settings"},
    "gateway.calls": {"gateway.config.settings", "gateway.auth.identity"},
    "gateway.store": {"gateway.config.settings"},
    "gateway.limits": {"gateway.config.settings", "gateway.networks", "gateway.auth.identity"},
    "gateway.hub": {
        *("gateway.config.settings", "gateway.auth.identity", "gateway.broker"),
        *("gateway.wire.broadcast", "gateway.wire.flusher", "gateway.wire.outbox", "gateway.wire.shares"),
    },
    "gateway.cluster": {"gateway.config.settings", "gateway.auth", "gateway.broker", "gateway.hub"},
    "gateway.metrics": {"gateway.calls", "gateway.hub", "gateway.cluster", "gateway.limits"},
    "gateway.admission": {
        *("gateway.auth.identity", "gateway.auth.tokens", "gateway.cluster.base", "gateway.hub.hub"),
        "gateway.limits.guard",
    },
    "gateway.operations": {
        *("gateway.config.settings", "gateway.auth", "gateway.broker.base", "gateway.cluster.base"),
        *("gateway.hub", "gateway.limits.overload", "gateway.store", "gateway.calls.caller"),
    },
    "gateway.session": {
        *("gateway.config.settings", "gateway.auth", "gateway.broker.base", "gateway.hub"),
        *("gateway.cluster.base", "gateway.limits", "gateway.admission", "gateway.operations"),
        "gateway.calls",
        *(
            "gateway.wire.outbox",
            "gateway.wire.shares",
            "gateway.wire.signal",
        ),  # what a session's frames go into, and whose turn it is
    },
    "gateway.transports": {
        *("gateway.config.origins", "gateway.broker.base", "gateway.broker.channels"),
        *("gateway.hub.connection", "gateway.hub.lag", "gateway.hub.room"),
        *("gateway.config.settings", "gateway.problems", "gateway.auth", "gateway.session", "gateway.wire"),
    },
    "gateway.rest": {
        *("gateway.config.settings", "gateway.problems", "gateway.auth", "gateway.broker", "gateway.hub"),
        *("gateway.calls", "gateway.cluster", "gateway.limits", "gateway.metrics", "gateway.store"),
        *("gateway.admission", "gateway.operations"),
    },
    "gateway.client": set(),
    "gateway.publisher": set(),
    "gateway.web": set(),
    "gateway.app": EVERYBODY,
    "gateway.embedding": {"gateway.app", "gateway.config.settings"},
    "gateway.extensions": {"gateway.config.settings"},
    "gateway.welcome": {"gateway.auth.tokens", "gateway.config.settings", "gateway.wire.sockets"},
    "gateway.process": {"gateway.app", "gateway.config", "gateway.welcome", "gateway.wire.sockets"},
    "gateway.testing": EVERYBODY,
    "gateway.cli": EVERYBODY,
    "gateway.demo": {
        *("gateway.app", "gateway.embedding", "gateway.config", "gateway.auth.keys", "gateway.logs"),
        "gateway.client",
    },
    "gateway.__main__": EVERYBODY,
}

# All that protocol/ may use: nothing here opens a file or a socket, or runs a loop.
PURE = {
    *(
        "__future__",
        "codecs",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "io",
        "json",
        "re",
        "struct",
        "sys",
        "time",
        "types",
        "typing",
    ),
    *("weakref", "cbor2", "msgspec"),
}
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}


def part_of(module: str) -> str:
    if module in MAY_IMPORT:
        return module
    names = module.split(".")
    if names[0] == "protocol":
        return names[0]
    single = ".".join(names[:3])  # a file whose rules are others than its package's
    return single if single in MAY_IMPORT else ".".join(names[:2])


def module_of(path: Path) -> str:
    names = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def imported(tree: ast.AST) -> Iterator[str]:
    """Name every module that is imported anywhere; ``from package import module`` names both."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            yield node.module
            if node.module in ("gateway", "protocol"):
                yield from (
                    f"{node.module}.{alias.name}"
                    for alias in node.names
                    if is_module(node.module, alias.name)
                )


def is_module(package: str, name: str) -> bool:
    folder = ROOT / package
    return (folder / f"{name}.py").exists() or (folder / name).is_dir()


def forbidden(module: str, tree: ast.AST) -> list[str]:
    """Return what ``module`` imports of ours and may not know."""
    part = part_of(module)
    allowed = {part, "protocol", "gateway.version", *MAY_IMPORT[part]}
    return [
        name
        for name in imported(tree)
        if name.split(".")[0] in ("gateway", "protocol", "bench", "tests")
        and not any(name == known or name.startswith(known + ".") for known in allowed)
    ]


SOURCES = sorted([*ROOT.glob("protocol/**/*.py"), *ROOT.glob("gateway/**/*.py")])
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


@every_source
def test_a_module_knows_only_what_its_part_may_know(path: Path) -> None:
    module = module_of(path)
    assert part_of(module) in MAY_IMPORT, "say above what this new part may import"
    assert forbidden(module, ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("protocol/**/*.py")), ids=lambda path: path.name)
def test_protocol_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert {name.split(".")[0] for name in imported(tree)} - {"protocol"} <= PURE
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & IMPURE_BUILTINS
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("io", "time")
    }
    assert attributes <= {"io.BytesIO", "time.time_ns"}


def test_the_table_has_no_cycle() -> None:
    graph = {
        part: {part_of(known) for known in knows}
        for part, knows in MAY_IMPORT.items()
        if knows is not EVERYBODY
    }
    assert list(TopologicalSorter(graph).static_order())


def known_files(module: str, tree: ast.AST) -> set[str]:
    """The files of ours that ``module`` imports, anywhere; an import for typing only counts too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # Of a package, what is imported may be a module, or a name out of the package's own file.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return (found & MODULES) - {module}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Files that import each other, directly or over others: one list for each group of them."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for known in graph[waiting.pop()] - seen:
                seen.add(known)
                waiting.append(known)
        reached[start] = seen
    groups = {frozenset(each for each in reached[one] if one in reached[each]) for one in graph}
    return sorted(sorted(group) for group in groups if group)


MODULES = {module_of(path) for path in SOURCES}


def test_no_files_import_each_other() -> None:
    graph = {
        module: known_files(module, ast.parse(path.read_text(encoding="utf-8")))
        for path in SOURCES
        for module in [module_of(path)]
    }
    assert circles(graph) == []


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a", "f"}, "f": {"e"}}
    assert circles(graph) == [["a", "b", "c"], ["e", "f"]]
    for source in (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gateway.hub.hub import Hub",
        "def later():\n    from gateway.hub import hub",
        "import gateway.hub.hub",
    ):
        assert known_files("gateway.wire.outbox", ast.parse(source)) == {"gateway.hub.hub"}


@pytest.mark.parametrize(
    "module, source",
    [
        ("gateway.hub.hub", "from gateway.session.session import Session"),
        ("gateway.hub.hub", "import gateway.rest"),
        ("gateway.hub.hub", "from gateway.wire.listener import Listener"),
        ("gateway.hub.hub", "def f():\n    from gateway import session"),
        ("gateway.session.session", "from gateway.wire.connection import WireConnection"),
        ("gateway.session.commands", "import gateway.transports.websocket"),
        ("gateway.extensions", "from gateway.app import Gateway"),
        ("gateway.broker.memory", "from gateway.hub.hub import Hub"),
        ("gateway.auth.tokens", "from gateway.hub import hub"),
        ("gateway.client.client", "from gateway.config.settings import Settings"),
        ("protocol.codec", "import gateway.wire.outbox"),
        ("gateway.app", "from tests.support import start_gateway"),
    ],
)
def test_this_test_can_fail(module: str, source: str) -> None:
    assert forbidden(module, ast.parse(source))
