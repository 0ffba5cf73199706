"""The AsyncAPI document: valid by AsyncAPI's own schema, complete, and true of what is on the wire."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import dataclass
from typing import Any

import pytest
from jsonschema import Draft7Validator

from gateway import TypedEvent
from gateway.app import Gateway
from gateway.rest.asyncapi import asyncapi_document
from protocol.events import CATALOGUE
from protocol.json import JSON
from protocol.kinds import TABLE
from protocol.registry import EventTypes
from tests.e2e.prerequisites import FOLDER, install_packages
from tests.protocol.test_events import SMALLEST
from tests.rest.api import Api
from tests.support import connected

Document = dict[str, Any]


@functools.cache
def schema() -> Draft7Validator:
    """AsyncAPI's schema of its documents, from its npm package."""
    install_packages()
    path = FOLDER / "node_modules/@asyncapi/specs/schemas/3.0.0.json"
    return Draft7Validator(json.loads(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def document() -> Document:
    """That of a gateway without own types."""
    made: Document = json.loads(asyncapi_document(list(EventTypes())))
    return made


def payload(document: Document, message: str) -> Draft7Validator:
    found = document["components"]["messages"][message]["payload"]
    return Draft7Validator({**found, "components": document["components"]})


def test_it_is_valid(document: Document) -> None:
    assert document["asyncapi"] == "3.0.0"
    schema().validate(document)
    broken = copy.deepcopy(document)
    broken["operations"]["join"]["action"] = "publish"
    assert not schema().is_valid(broken), "and the schema is really looked at"


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        found = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return found + [each for inner in value.values() for each in references(inner)]
    return [each for inner in value for each in references(inner)] if isinstance(value, list) else []


def test_every_reference_leads_somewhere(document: Document) -> None:
    used = set(references(document))
    for reference in used:
        place: Any = document
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]
    for part in ("messages", "schemas", "securitySchemes"):
        assert {f"#/components/{part}/{name}" for name in document["components"][part]} <= used


def test_every_kind_and_every_event_is_there(document: Document) -> None:
    messages = document["components"]["messages"]
    assert {each["name"] for key, each in messages.items() if not key.startswith("event.")} == {
        kind.name for kind in TABLE
    }
    events = {each["name"]: key for key, each in messages.items() if key.startswith("event.")}
    assert set(events) == set(CATALOGUE)
    for name, typed in CATALOGUE.items():
        channel = "rooms" if typed.needs_room else f"room.{typed.room}" if typed.room else "organisation"
        assert events[name] in document["channels"][channel]["messages"], name
        for verb in ("publish", "deliver"):
            assert {"$ref": f"#/channels/{channel}/messages/{events[name]}"} in document["operations"][
                f"{verb}.{channel}"
            ]["messages"]


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_schemas_are_those_that_are_applied(document: Document, name: str) -> None:
    messages = document["components"]["messages"]
    (key,) = (key for key, each in messages.items() if each["name"] == name and key.startswith("event."))
    data = {**SMALLEST[CATALOGUE[name]], "ts": 5, "source": "s"}
    validator = payload(document, key)
    said = {"v": 1, "t": "event", "event": name, "data": data}
    validator.validate(said)
    for field in SMALLEST[CATALOGUE[name]]:
        without = {each: value for each, value in data.items() if each != field}
        assert not validator.is_valid({**said, "data": without}), field
        assert not validator.is_valid({**said, "data": {**data, field: [[]]}}), field
    assert not validator.is_valid({**said, "event": "other"})


async def test_it_is_true_of_the_wire(gateway: Gateway, document: Document) -> None:
    async with connected(gateway) as alice:
        payload(document, "connected").validate(json.loads(JSON.encode(alice.greeting)))
        for key, fields in {
            "join": {"room": "tasks", "data": {"presence": True}},
            "publish": {"room": "tasks", "event": "task_started", "data": {"task_id": "t1"}},
            "stats": {},
            "leave": {"room": "tasks"},
        }.items():
            payload(document, key).validate({"v": 1, "t": key, "id": 1, **fields})
            payload(document, "reply").validate(json.loads(JSON.encode(await alice.ask(key, **fields))))
        refused = await alice.ask("leave", room="")
        payload(document, "error").validate(json.loads(JSON.encode(refused)))
        started = [each for each in await alice.settled() if each.t == "event"]
        assert started
        for event in started:
            payload(document, "event.task_started").validate(json.loads(JSON.encode(event)))


class InvoicePaid(TypedEvent, frozen=True, kw_only=True):
    """Somebody paid."""

    event = "rechnung bezahlt: ü/7"
    room = "billing/all"
    invoice: str


@dataclass
class Robot:
    x: int


async def test_own_types_are_in_it(gateway: Gateway, api: Api) -> None:
    async def get() -> Document:
        response = await api.client.get("/api/v1/asyncapi.json")
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("application/json")
        again = await api.client.get(
            "/api/v1/asyncapi.json", headers={"If-None-Match": response.headers["ETag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
        found: Document = response.json()
        schema().validate(found)
        return found

    before = await get()
    assert before["info"]["version"]
    gateway.events.register(InvoicePaid)
    gateway.events.register(Robot)
    after = await get()
    assert set(after["channels"]) - set(before["channels"]) == {"room.billing.all"}
    assert after["channels"]["room.billing.all"]["x-room"] == "billing/all"
    assert after["components"]["schemas"]["InvoicePaid"]["description"] == "Somebody paid."
    (key,) = after["channels"]["room.billing.all"]["messages"]
    said = {"v": 1, "t": "event", "event": InvoicePaid.event, "data": {"invoice": "i7"}}
    payload(after, key).validate(said)
    payload(after, "event.robot").validate({"v": 1, "t": "event", "event": "robot", "data": {"x": 1}})


def test_names_that_look_alike_stay_apart() -> None:
    class One(TypedEvent, frozen=True, kw_only=True):
        event = "a:b"

    class Two(TypedEvent, frozen=True, kw_only=True):
        event = "a/b"

    types = EventTypes()
    types.register(One)
    types.register(Two)
    made: Document = json.loads(asyncapi_document(list(types)))
    names = {key: each["name"] for key, each in made["components"]["messages"].items() if "event.a.b" in key}
    assert sorted(names.values()) == ["a/b", "a:b"] and len(names) == 2
