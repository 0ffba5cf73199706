"""D. A chat: FastAPI logs people in and knows who is in which conversation, the gateway carries the messages.

TRIREME=http://127.0.0.1:8000 TOKEN=… uvicorn chat:app
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

MEMBER = ["join", "publish", "presence", "history"]
members: dict[str, set[str]] = {"7": {"alice", "bob"}}  # in real life: a table


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    address, token = f"{os.environ['TRIREME']}/api/v1", os.environ["TOKEN"]
    async with httpx.AsyncClient(
        base_url=address, headers={"Authorization": f"Bearer {token}"}
    ) as app.state.gateway:
        yield


app = FastAPI(lifespan=lifespan)


async def gateway(method: str, path: str, **options: Any) -> Any:
    response = await app.state.gateway.request(method, path, **options)
    if response.is_error:
        raise HTTPException(502, response.json()["detail"])
    return response.json()


class Person(BaseModel):
    user: str


class Message(Person):
    text: str


@app.post("/login")
async def login(person: Person) -> dict[str, str]:
    """The page connects with this token: its rooms are what this user may do."""
    rooms = {f"conversation:{id}": MEMBER for id, users in members.items() if person.user in users}
    made = await gateway("POST", "/auth/token", json={"user": person.user, "rooms": rooms, "ttl": 3600})
    return {"token": made["token"]}


@app.post("/conversations/{id}/messages", status_code=201)
async def say(id: str, message: Message) -> dict[str, Any]:
    """For those who write by HTTP; pages publish over their own connection. The `mid` drops repetitions."""
    message_id = str(uuid.uuid4())
    data = {"text": message.text, "user": message.user, "message_id": message_id}
    event = {"event": "message:new", "room": f"conversation:{id}", "data": data, "mid": message_id}
    return {"message_id": message_id, "seq": (await gateway("POST", "/events", json=event))["seq"]}


@app.post("/conversations/{id}/messages/{message_id}/read")
async def mark_read(id: str, message_id: str, person: Person) -> dict[str, int]:
    data = {"message_id": message_id, "status": "read", "user": person.user}
    event = {"event": "message:status", "room": f"conversation:{id}", "data": data}
    return {"seq": (await gateway("POST", "/events", json=event))["seq"]}


@app.post("/conversations/{id}/members")
async def invite(id: str, person: Person) -> dict[str, int]:
    """Tell the new member, wherever they are connected; with the next token they may join."""
    members.setdefault(id, set()).add(person.user)
    event = {"event": "conversation:invited", "data": {"conversation": id}}
    return {"tabs": (await gateway("POST", f"/users/{person.user}/send", json=event))["connections"]}
