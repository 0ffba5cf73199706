"""``docs/events.md``: its tables are those of the code, and its examples run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from gateway import Settings
from gateway.client import CommandFailed, connect
from gateway.config.sources import load_settings
from protocol.emits import Emits
from protocol.events import CATALOGUE, activity, chat, core, organisation, platform
from protocol.typed import TypedEvent
from tests.docs.markdown import blocks_of, file_of, text_of
from tests.support import connected, running_gateway, until, url

ROOT = Path(__file__).parents[1]
PAGE = text_of("docs/events.md")
PYTHON = [
    file_of("docs/events.md", name)
    for name in ("emit.py", "shop_events.py", "shop_extension.py", "follow.py")
]
TOML = [block.text for block in blocks_of("docs/events.md") if block.language == "toml"]
EVERY = {field.name for field in msgspec.structs.fields(TypedEvent)}


def row(typed: type[TypedEvent]) -> str:
    own = [field for field in msgspec.structs.fields(typed) if field.name not in EVERY]
    own.sort(key=lambda field: not field.required)
    fields = ", ".join(f"`{field.name}{'' if field.required else '?'}`" for field in own)
    room = "named" if typed.needs_room else f"`{typed.room}`" if typed.room else ""
    return f"| `{typed.event}` | `{typed.__name__}` | {room} | {fields} |"


@pytest.mark.parametrize("part", [organisation, platform, activity, chat, core])
def test_the_tables_are_those_of_the_code(part: object) -> None:
    module = part.__name__  # type: ignore[attr-defined]
    expected = [row(typed) for typed in CATALOGUE.values() if typed.__module__ == module]
    assert len(expected) > 3
    assert "\n".join(expected) in PAGE


def test_there_are_no_other_rows() -> None:
    listed = re.findall(r"^\| `[\w:]+` \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert sorted(listed) == sorted(typed.__name__ for typed in CATALOGUE.values())
    assert {"ts", "source", "details"} == EVERY and all(f"`{name}`" in PAGE for name in EVERY)


def test_the_helpers_are_named_as_it_says() -> None:
    for typed in CATALOGUE.values():
        name = f"emit_{typed.event.replace(':', '_')}"
        if typed.event == "task:created":
            name = "emit_task_created_for_approval"
        assert vars(Emits)[name]._kind is typed


async def test_emitting(tmp_path: Path) -> None:
    (tmp_path / "emit.py").write_text(PYTHON[0])
    async with running_gateway() as gateway, connected(gateway, roles=["service"]) as alice:
        for room in ("tasks", "system", "conversation:7"):
            await alice.ask("join", room=room)
        done = await trio.run_process(
            [sys.executable, "emit.py"],
            cwd=tmp_path,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            env={
                "TRIREME_WS": url(gateway),
                "TOKEN": gateway.auth.issue(org="acme", user="worker", roles=["service"]).token,
                "PYTHONPATH": str(ROOT),
            },
        )
        assert (done.returncode, done.stdout) == (0, b"sent\n"), done.stdout.decode()
        received = [each for each in await alice.settled() if each.t == "event"]
        assert [(each.room, each.event) for each in received] == [
            ("tasks", "task_status_changed"),
            ("system", "alert_triggered"),
            ("conversation:7", "message:new"),
        ]


async def test_own_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop_events.py").write_text(PYTHON[1])
    (tmp_path / "shop_extension.py").write_text(PYTHON[2])
    (tmp_path / "gateway.toml").write_text(TOML[0])
    monkeypatch.syspath_prepend(tmp_path)
    configured: Settings = load_settings(tmp_path / "gateway.toml", {}, {})
    follow: dict[str, object] = {}
    exec(compile(PYTHON[3], "follow.py", "exec"), follow)
    import shop_events  # type: ignore[import-not-found]

    try:
        async with running_gateway(events=configured.events, extensions=["shop_extension"]) as gateway:
            token = gateway.auth.issue(org="acme", user="shop").token
            async with (
                connect(url(gateway), token=token) as client,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(follow["follow"], client)  # type: ignore[arg-type]
                async with connected(gateway) as alice:
                    await until(lambda: set(client.rooms) == {"billing", "stock"})
                    paid = {"invoice": "i7", "amount": 12.5}
                    for room, event, data, code in (
                        ("billing", "invoice:paid", paid, None),
                        ("billing", "invoice:paid", {**paid, "amount": 0}, 104),
                        ("billing", "invoice:paid", {"invoice": "i8"}, 103),
                        ("billing", "message:new", {"text": "hi"}, 107),
                        ("stock", "other", [1], None),
                        ("tasks", "task_started", {}, 103),
                        ("tasks", "other", {}, None),
                    ):
                        assert (await alice.ask("publish", room=room, event=event, data=data)).code == code
                await client.emit(shop_events.StockLow("nails", 3))
                with pytest.raises(CommandFailed, match="amount"):
                    await client.publish("billing", "invoice:paid", {"invoice": "i9", "amount": "12"})
                said: list[str] = []
                with trio.fail_after(60):
                    while len(said) < 3:
                        await trio.lowlevel.checkpoint()
                        said += capsys.readouterr().out.splitlines()
                assert sorted(said) == ["order more: nails", "other [1]", "paid: i7 12.5"]
                nursery.cancel_scope.cancel()
    finally:
        for name in ("shop_events", "shop_extension"):
            sys.modules.pop(name, None)
