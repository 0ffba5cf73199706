"""D. A chat: FastAPI logs people in and knows who is in which conversation, the gateway carries the messages.

TRIREME=http://127.0.0.1:8000 TOKEN=… uvicorn chat:app
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from gateway.publisher import AsyncPublisher, PublisherError

MEMBER = ["join", "publish", "presence", "history"]
members: dict[str, set[str]] = {"7": {"alice", "bob"}}  # in real life: a table
gateway = AsyncPublisher(os.environ["TRIREME"], token=os.environ["TOKEN"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with gateway:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(PublisherError)
async def failed(request: Request, error: PublisherError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 502)


class Person(BaseModel):
    user: str


class Message(Person):
    text: str


@app.post("/login")
async def login(person: Person) -> dict[str, str]:
    """The page connects with this token: its rooms are what this user may do."""
    rooms = {f"conversation:{id}": MEMBER for id, users in members.items() if person.user in users}
    return {"token": (await gateway.create_token(user=person.user, rooms=rooms, ttl=3600)).token}


@app.post("/conversations/{id}/messages", status_code=201)
async def say(id: str, message: Message) -> dict[str, Any]:
    """For those who write by HTTP; pages publish over their own connection."""
    made, room = str(uuid.uuid4()), f"conversation:{id}"
    placed = await gateway.emit_message_new(room, text=message.text, user=message.user, message_id=made)
    return {"message_id": made, "seq": placed.seq}


@app.post("/conversations/{id}/messages/{message_id}/read")
async def mark_read(id: str, message_id: str, person: Person) -> dict[str, int]:
    status: dict[str, Any] = {"message_id": message_id, "status": "read", "user": person.user}
    return {"seq": (await gateway.emit_message_status(f"conversation:{id}", **status)).seq}


@app.post("/conversations/{id}/members")
async def invite(id: str, person: Person) -> dict[str, int]:
    """Tell the new member, wherever they are connected; with the next token they may join."""
    members.setdefault(id, set()).add(person.user)
    sent = await gateway.send_to_user(person.user, "conversation:invited", {"conversation": id})
    return {"tabs": sent.connections}
