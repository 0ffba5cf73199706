"""What ``import gateway`` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gateway


def test_every_public_name_is_there() -> None:
    assert {name: getattr(gateway, name) for name in gateway.__all__}
    with pytest.raises(AttributeError, match="has no attribute 'Hub'"):
        gateway.Hub  # noqa: B018
    assert set(gateway.__all__) <= set(dir(gateway))


def test_the_client_does_not_bring_the_server() -> None:
    code = "import sys, gateway.client; print([each for each in sys.modules if each.startswith('gateway.')])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert "gateway.client" in out and not any(
        part in out for part in ("gateway.app", "gateway.hub", "gateway.rest", "gateway.config")
    )
