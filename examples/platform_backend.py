"""B. Platform integration: FastAPI sends messages, reports jobs as they advance, and notifies.

TRIREME=http://127.0.0.1:8000 TOKEN=… uvicorn platform_backend:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from gateway.publisher import AsyncPublisher, PublisherError

STEPS = ("load", "compute", "store")
CHANNELS = {"channel:news": ["join", "history"], "channel:team": ["join", "publish", "history"]}
gateway = AsyncPublisher(os.environ["TRIREME"], token=os.environ["TOKEN"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with gateway:  # what does not get through at once is tried again, and counts once
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(PublisherError)
async def failed(request: Request, error: PublisherError) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 502)


class Message(BaseModel):
    text: str
    users: list[str] = []


@app.post("/login/{user}")
async def login(user: str) -> dict[str, str]:
    return {"token": (await gateway.create_token(user=user, rooms=CHANNELS, ttl=3600)).token}


@app.post("/messages")
async def send(message: Message) -> dict[str, Any]:
    """To several users: in all of their tabs, and kept for those who are away."""
    return await gateway.send_to_users(message.users, "message", {"text": message.text})


@app.post("/announcements")
async def announce(message: Message) -> dict[str, int]:
    """To everybody but these users; a `critical` event goes before others, also under load."""
    said, users = {"text": message.text}, message.users
    return {"seq": (await gateway.broadcast("announcement", said, exclude=users, critical=True)).seq}


@app.post("/channels/{channel}")
async def publish(channel: str, message: Message) -> dict[str, int]:
    return {"seq": (await gateway.publish(f"channel:{channel}", "post", {"text": message.text})).seq}


async def run(id: str, user: str, agent: str) -> None:
    """Progress and steps go to the rooms `executions` and `execution:{id}`, the result into the inbox."""
    for number, step in enumerate(STEPS):  # in real life each takes a while
        await gateway.update_execution(id, progress=100 * number // len(STEPS), step=step)
    await gateway.update_execution(id, status="completed", result={"steps": len(STEPS)})
    link = {"type": "open", "label": "Show", "payload": {"execution": id}}
    said: Any = {"type": "success", "action": link, "mid": f"job-{id}"}  # once, also if this runs again
    await gateway.notify("Your job", f"{agent} is done", user=user, **said)


@app.post("/jobs/{agent}", status_code=202)
async def start(agent: str, user: str, team: str, background: BackgroundTasks) -> dict[str, str]:
    row = await gateway.create_execution(agent, team=team, status="running")
    background.add_task(run, row["id"], user, agent)
    return {"id": row["id"]}
