"""E. An agent core on Trio: agents take tasks and tell what happens to them, in four rooms.

TRIREME=http://127.0.0.1:8000 TOKEN=… python agent_core.py
"""

import os
import time
from typing import Any

import trio

from gateway.client import Client, connect
from protocol.events import HealthChanged, TaskCancelled, TaskCreated

AGENTS = ("planner", "builder")
SOURCE = "agent-core"


async def work_on(task: TaskCreated) -> str:
    """In real life this takes a while."""
    await trio.lowlevel.checkpoint()
    if not task.title:
        raise ValueError("a task without a title")
    return task.title.upper()


async def run_agent(client: Client, name: str, tasks: trio.MemoryReceiveChannel[TaskCreated]) -> None:
    await client.emit_agent_created(agent_id=name, status="idle", source=SOURCE)
    async for task in tasks:
        said: dict[str, Any] = {"task_id": task.task_id, "source": name}
        await client.emit_task_assigned(agent_id=name, **said)
        await client.emit_agent_status_changed(agent_id=name, status="busy", previous="idle", source=SOURCE)
        await client.emit_task_started(agent_id=name, **said)
        await client.emit_task_status_changed(status="running", previous="assigned", **said)
        began = time.monotonic()
        try:
            result = await work_on(task)
        except ValueError as error:
            await client.emit_task_failed(error=str(error), agent_id=name, **said)
        else:
            took = round((time.monotonic() - began) * 1000)
            await client.emit_task_completed(result=result, duration_ms=took, agent_id=name, **said)
        await client.emit_agent_status_changed(agent_id=name, status="idle", previous="busy", source=SOURCE)


async def elect(client: Client) -> None:
    await client.emit_election_triggered(election_id="e1", reason="start", source=SOURCE)
    for name in AGENTS:
        await client.emit_consensus_proposed(proposal_id=f"e1-{name}", agent_id=name, value=name)
    await client.emit_consensus_decided(proposal_id=f"e1-{min(AGENTS)}", accepted=True, value=min(AGENTS))
    await client.emit_leader_elected(leader_id=min(AGENTS), election_id="e1", term=1, source=SOURCE)


async def main() -> None:
    address = os.environ["TRIREME"].replace("http", "ws", 1)
    async with connect(address, token=os.environ["TOKEN"]) as client, trio.open_nursery() as nursery:
        await client.join("tasks", events=["task_created", "task_cancelled"])
        give, take = trio.open_memory_channel[TaskCreated](100)
        for name in AGENTS:
            nursery.start_soon(run_agent, client, name, take)
        await elect(client)
        await client.emit(HealthChanged(component=SOURCE, status="healthy", source=SOURCE))
        await client.emit_metrics_updated(metrics={"agents": len(AGENTS)}, component=SOURCE)
        async for event in client:
            match event.typed():
                case TaskCreated() as task:
                    await give.send(task)
                case TaskCancelled(task_id=task_id):
                    await client.emit_alert_triggered(severity="info", message=f"{task_id} was cancelled")


if __name__ == "__main__":
    trio.run(main)
