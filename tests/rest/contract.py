"""Holds every answer that the tests see against the gateway's own OpenAPI document."""

from __future__ import annotations

import re
from typing import Any

import httpx
import msgspec
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

HERE = "urn:openapi"
UNDOCUMENTED = {404, 405, 408, 500}
"""Statuses of what is no operation, or fails as a whole; 404 only where the operation names it."""


class Contract:
    """What the document promises, and which of its answers were seen."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        resource = Resource.from_contents(document, default_specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource(HERE, resource)
        self._operations = [
            (re.compile(re.sub(r"\\{\w+\\}", "(?s:.*)", re.escape(path)) + r"\Z"), method, operation)
            # Those without parameters first: /executions/summary is no execution.
            for path, methods in sorted(document["paths"].items(), key=lambda item: "{" in item[0])
            for method, operation in methods.items()
        ]

    @classmethod
    def parse(cls, text: bytes) -> Contract:
        return cls(msgspec.json.decode(text))

    def validator(self, schema: dict[str, Any]) -> Draft202012Validator:
        if "$ref" in schema:
            schema = {"$ref": HERE + schema["$ref"]}
        return Draft202012Validator(schema, registry=self._registry)

    def check(self, response: httpx.Response) -> None:
        """Raise AssertionError for an answer that the document does not describe."""
        operation = self._find(response.request)
        if operation is None:
            return
        described = operation["responses"].get(str(response.status_code))
        if described is None:
            assert response.status_code in UNDOCUMENTED, f"{response.status_code} is not documented"
            return
        media_type = response.headers["Content-Type"].partition(";")[0]
        assert media_type in described["content"], media_type
        schema = described["content"][media_type]["schema"]
        if media_type.endswith("json"):
            self.validator(schema).validate(response.json())

    def _find(self, request: httpx.Request) -> dict[str, Any] | None:
        # The room of /rooms/a/history/history is a/history, so the last match would be as good as the first.
        for pattern, method, operation in self._operations:
            if method == request.method.lower() and pattern.match(request.url.path):
                found: dict[str, Any] = operation
                return found
        return None
