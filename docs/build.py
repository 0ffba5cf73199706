"""Build the documentation as a site into build/site; any warning is an error. Run by ``make docs``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build" / "docs"
_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")


def main() -> int:
    """Returns the exit code of the generator."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(ROOT / "docs", COPY, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in COPY.glob("*.md"):
        # Links into the source tree lead somewhere in a clone, not on the site.
        page.write_text(_OUTSIDE.sub(r"`\1`", page.read_text(encoding="utf-8")), encoding="utf-8")
    command = [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
