"""The example of ``docs/store.md`` runs as it is printed."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from gateway.config.settings import Settings
from gateway.store import Store
from tests.store.support import rows

PAGE = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")


async def test_the_example_works(address: str) -> None:
    (printed,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"Store": Store, "settings": Settings(database=address)}
    exec("async def example():\n" + textwrap.indent(printed, "    "), names)
    await names["example"]()
    assert rows(address, "SELECT user_id, mid FROM notifications") == [("alice", "order-7")]
    assert rows(address, "SELECT * FROM outbox") == []
