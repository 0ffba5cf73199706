"""The OpenAPI document: valid, complete, and true (``contract.py`` holds every answer against it)."""

from __future__ import annotations

import re
from typing import Any

from jsonschema import Draft202012Validator

from tests.rest.api import Api
from tests.rest.contract import Contract
from tests.rest.test_bad_input import WITH_BODY

METHODS = {"get", "post", "put", "patch", "delete"}


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, each)
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    ]


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return found + [each for inner in value.values() for each in references(inner)]
    return [each for inner in value for each in references(inner)] if isinstance(value, list) else []


async def test_the_document_is_openapi_3_1(openapi: dict[str, Any]) -> None:
    assert openapi["openapi"].startswith("3.1.")
    assert openapi["info"]["title"]
    assert openapi["info"]["version"]
    ids = []
    for path, method, operation in operations(openapi):
        assert path.startswith("/")
        assert method in METHODS
        ids.append(operation["operationId"])
        assert operation["summary"]
        assert operation["tags"]
        assert operation["responses"]
        declared = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert declared == re.findall(r"\{(\w+)\}", path)
        for parameter in operation["parameters"]:
            assert parameter["in"] in {"path", "query"}
            assert parameter.get("required", False) is (parameter["in"] == "path")
            Draft202012Validator.check_schema(parameter["schema"])
        for status, response in operation["responses"].items():
            assert re.fullmatch(r"[1-5]\d\d", status)
            assert response["description"]
    assert len(ids) == len(set(ids))


async def test_every_reference_leads_to_a_valid_schema(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    for reference in references(openapi):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    used = {reference.rpartition("/")[2] for reference in references(openapi)}
    assert used == set(schemas)


async def test_every_schema_has_an_example_that_it_accepts(openapi: dict[str, Any]) -> None:
    for name, schema in openapi["components"]["schemas"].items():
        whole = {"components": openapi["components"], "$ref": f"#/components/schemas/{name}"}
        for example in schema["examples"]:
            Draft202012Validator(whole).validate(example)
        assert schema["examples"]


async def test_security_and_errors_are_documented(openapi: dict[str, Any]) -> None:
    assert openapi["components"]["securitySchemes"]["bearer"] == {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
    }
    assert openapi["security"] == [{"bearer": []}]
    for path, _, operation in operations(openapi):
        errors = {status for status in operation["responses"] if int(status) >= 400}
        if path.startswith("/api/"):
            assert "security" not in operation
            assert {"401", "403"} <= errors
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= errors
        for status in errors:
            [(media_type, content)] = operation["responses"][status]["content"].items()
            assert media_type == "application/problem+json"
            name = content["schema"]["$ref"].rpartition("/")[2]
            documented = openapi["components"]["schemas"][name]
            assert {"type", "title", "status", "detail", "code"} <= set(documented["required"]), name


async def test_bodies_are_documented(openapi: dict[str, Any]) -> None:
    documented = {
        re.sub(r"\{(.)\w*\}", r"\1", path.removeprefix("/api/v1"))
        for path, _, operation in operations(openapi)
        if "requestBody" in operation
    }
    # The faults of commands are answered one by one, and a change is a PATCH.
    assert documented == {*WITH_BODY, "/commands", "/executions/i"}


async def test_the_schema_of_a_body_is_the_one_that_is_applied(api: Api) -> None:
    contract: Contract = api.contract
    body = contract.document["paths"]["/api/v1/broadcast"]["post"]["requestBody"]
    assert body["required"] is True
    validator = contract.validator(body["content"]["application/json"]["schema"])
    for candidate in (
        {"event": "e"},
        {"event": "e", "data": [1]},
        {"event": "e", "room": None},
        {},
        [],
        {"event": 1},
    ):
        response = await api.post("/broadcast", candidate)
        assert validator.is_valid(candidate) is (response.status_code == 200), candidate


async def test_the_document_is_served_with_a_tag(api: Api) -> None:
    first = await api.client.get("/api/v1/openapi.json")
    assert first.headers["Content-Type"].startswith("application/json")
    again = await api.client.get("/api/v1/openapi.json", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
