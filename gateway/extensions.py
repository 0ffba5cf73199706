"""The application's own Python, run in every gateway process: the setting ``extensions``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gateway.config.settings import SettingsError

__all__ = ["Setup", "load_extensions"]

Setup = Callable[[Any], None]
"""What a module defines as ``setup``: it gets the gateway before that runs, and registers handlers."""


def load_extensions(names: Iterable[str]) -> list[Setup]:
    """Import the modules, also from the current folder; raises ``SettingsError`` when that cannot be done."""
    return [_load(name) for name in names]


def _load(name: str) -> Setup:
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look there
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            f"extensions: {name!r} cannot be imported: {type(error).__name__}: {reason}"
        ) from error
    setup = getattr(module, "setup", None)
    if not callable(setup):
        raise SettingsError(f"extensions: {name!r} has no function setup(gateway)")
    return setup  # type: ignore[no-any-return]
