"""B. Platform integration: FastAPI sends messages, reports jobs as they advance, and notifies.

TRIREME=http://127.0.0.1:8000 TOKEN=… uvicorn platform_backend:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import BackgroundTasks, FastAPI, HTTPException
from pydantic import BaseModel

STEPS = ("load", "compute", "store")
CHANNELS = {"channel:news": ["join", "history"], "channel:team": ["join", "publish", "presence", "history"]}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    address, auth = f"{os.environ['TRIREME']}/api/v1", {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with httpx.AsyncClient(base_url=address, headers=auth) as app.state.gateway:
        yield


app = FastAPI(lifespan=lifespan)


async def gateway(method: str, path: str, **body: Any) -> Any:
    response = await app.state.gateway.request(method, path, json=body)
    if response.is_error:
        raise HTTPException(502, response.json()["detail"])
    return response.json()


class Message(BaseModel):
    text: str
    users: list[str] = []


@app.post("/login/{user}")
async def login(user: str) -> Any:
    return await gateway("POST", "/auth/token", user=user, rooms=CHANNELS, ttl=3600)


@app.post("/messages")
async def send(message: Message) -> Any:
    """To several users: in all of their tabs, and kept for those who are away."""
    data = {"text": message.text}
    return await gateway("POST", "/users/send", users=message.users, event="message", data=data)


@app.post("/announcements")
async def announce(message: Message) -> Any:
    """To everybody but these users; a `critical` event goes before others, also under load."""
    event = {"event": "announcement", "data": {"text": message.text}, "critical": True}
    return await gateway("POST", "/broadcast", exclude=message.users, **event)


@app.post("/channels/{channel}")
async def publish(channel: str, message: Message) -> Any:
    event = {"event": "post", "data": {"text": message.text}}
    return await gateway("POST", "/broadcast", room=f"channel:{channel}", **event)


async def run(id: str, user: str, agent: str) -> None:
    """Progress and steps go to the rooms `executions` and `execution:{id}`, the result into the inbox."""
    for number, step in enumerate(STEPS):  # in real life each takes a while
        await gateway("PATCH", f"/executions/{id}", progress=100 * number // len(STEPS), step=step)
    await gateway("PATCH", f"/executions/{id}", status="completed", result={"steps": len(STEPS)})
    link = {"type": "open", "label": "Show", "payload": {"execution": id}}
    said = {"user": user, "type": "success", "action": link, "mid": f"job-{id}"}  # once, however often tried
    await gateway("POST", "/notifications", title="Your job", message=f"{agent} is done", **said)


@app.post("/jobs/{agent}", status_code=202)
async def start(agent: str, user: str, team: str, background: BackgroundTasks) -> dict[str, str]:
    row = await gateway("POST", "/executions", agent=agent, team=team, status="running")
    background.add_task(run, row["id"], user, agent)
    return {"id": row["id"]}
