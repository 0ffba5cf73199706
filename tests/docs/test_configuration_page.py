"""``docs/configuration.md`` says what the settings are, and every setting says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.configuration import page
from gateway.config.described import Described, describe, members, toml_of
from gateway.config.settings import CallSettings, RoomEvents, RoomHistory, UserHistory
from gateway.config.sources import load_settings
from tests.docs.markdown import text_of
from tests.test_configuration import NEEDED

EVERY = list(describe().values())
INNER = [each for kind in (CallSettings, RoomEvents, RoomHistory, UserHistory) for each in members(kind)]
by_path = pytest.mark.parametrize("setting", EVERY, ids=lambda setting: setting.path)


def test_the_page_is_what_the_code_says() -> None:
    """After a change: ``gateway config page > docs/configuration.md``."""
    assert text_of("docs/configuration.md") == page()


@pytest.mark.parametrize("setting", EVERY + INNER, ids=lambda setting: setting.path)
def test_a_setting_says_what_it_means_and_why(setting: Described) -> None:
    assert len(setting.text) > 10, "it needs a documentation string in gateway/config/settings.py"
    assert len(setting.reason) > 10, "its reason comes after an empty line of its documentation string"
    if setting.kind.startswith("number"):
        assert setting.unit, "a number needs a unit (gateway/config/described.py)"
    if setting.default in ("", [], {}):
        assert setting.example != setting.default, "it needs an example (gateway/config/described.py)"


@by_path
def test_the_example_can_be_used(setting: Described, tmp_path: Path) -> None:
    group, _, name = setting.path.rpartition(".")
    file = tmp_path / "gateway.toml"
    file.write_text(f"[{group}]\n" * bool(group) + f"{name} = {toml_of(setting.example)}\n")
    load_settings(file, {}, NEEDED.get(setting.path, {}))
