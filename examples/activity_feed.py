"""C. An activity feed: councilors report what they do, operators pause them from the page.

TRIREME=http://127.0.0.1:8000 TOKEN=… CALLS_SECRET=whsec_… uvicorn activity_feed:app

gateway.toml:  [calls."*_councilor"]
               url = "http://127.0.0.1:8001/calls"
               secret = "whsec_…"
               private = true
"""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import BackgroundTasks, FastAPI, HTTPException, Request
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.publisher import AsyncPublisher

NAMES = {"cicero": "Marcus Tullius Cicero", "cato": "Marcus Porcius Cato"}
OPERATORS = {"alice"}
running = {name: asyncio.Event() for name in NAMES}
gateway = AsyncPublisher(os.environ["TRIREME"], token=os.environ["TOKEN"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    for event in running.values():
        event.set()
    async with gateway:
        yield


app = FastAPI(lifespan=lifespan)


async def work(councilor: str, task: str, execution: str) -> None:
    said: dict[str, Any] = {"councilor_id": councilor, "display_name": NAMES[councilor], "task_name": task}
    began = time.monotonic()
    await gateway.emit_councilor_started(**said, execution_id=execution, severity="info")
    await running[councilor].wait()  # here the work is done, unless somebody has paused it
    said |= {"execution_id": execution, "duration_ms": round((time.monotonic() - began) * 1000)}
    if "impossible" in task:
        await gateway.emit_councilor_error(**said, severity="error", error="this cannot be done")
    else:
        await gateway.emit_councilor_completed(**said, severity="success", result="done")


@app.post("/councilors/{councilor}/tasks/{task}", status_code=202)
async def start(councilor: str, task: str, background: BackgroundTasks) -> dict[str, str]:
    execution = str(uuid.uuid4())
    background.add_task(work, councilor, task, execution)
    return {"execution_id": execution}


@app.post("/calls")
async def answer_call(request: Request) -> dict[str, Any]:
    """What the page asks with `client.call("pause_councilor", {councilor_id})`, forwarded by the gateway."""
    try:
        call = Webhook(os.environ["CALLS_SECRET"]).verify(await request.body(), dict(request.headers))
    except WebhookVerificationError:
        raise HTTPException(401, "not signed by the gateway") from None
    if call["caller"]["user"] not in OPERATORS:
        raise HTTPException(403, "only operators pause councilors")
    councilor, paused = call["data"]["councilor_id"], call["call"] == "pause_councilor"
    (running[councilor].clear if paused else running[councilor].set)()
    await gateway.emit_system_alert(severity="warning", message=f"{call['call']}: {NAMES[councilor]}")
    return {"councilor_id": councilor, "paused": paused}
