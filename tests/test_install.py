"""``install.py`` shows how far pip is, and passes its failures on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT

LINES = """echo "Collecting a>=1 (from trireme-gateway)"
echo "  Downloading a-1.whl"
echo "Collecting b"
echo "Installing collected packages: b, a"
"""


@pytest.mark.parametrize("code", [0, 3])
def test_it_shows_the_steps_and_passes_the_exit_code(code: int, tmp_path: Path) -> None:
    pip = tmp_path / "bin" / "python"
    pip.parent.mkdir()
    pip.write_text(f"#!/bin/sh\n{LINES}echo broken\nexit {code}\n")
    pip.chmod(0o755)
    command = [sys.executable, str(ROOT / "install.py"), str(pip), "--editable", "."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == code
    assert done.stdout.splitlines() == [
        "[1/2] Finding and downloading packages:",
        "[2/2] Installing 2 packages:",
    ]
    assert ("broken" in done.stderr) is (code != 0)
