"""``docs/rest.md`` has every operation, each with an example."""

from __future__ import annotations

import re

import httpx
import msgspec
import trio

from tests.docs.markdown import text_of
from tests.support import start_gateway


async def test_every_operation_has_an_example(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, database="sqlite:///:memory:")
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{gateway.port}/api/v1/openapi.json")
    documented = {
        f"{method.upper()} {path}"
        for path, methods in msgspec.json.decode(answer.content)["paths"].items()
        for method in methods
    }
    described = {}
    for section in re.split(r"^### ", text_of("docs/rest.md"), flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0].strip("`")
        described[title] = re.search(r"^```(sh|bash)$", section, re.MULTILINE) is not None
    assert documented - set(described) == set()
    assert all(described.values()), described
