"""A Quart-Trio application with a gateway inside: one process, one port, one nursery.

PORT=8000 python examples/embedded_quart.py
"""

import os

import trio
from quart import request
from quart_trio import QuartTrio

from gateway import Caller, Gateway, Settings, open_gateway

app = QuartTrio(__name__)
NOTES: list[str] = []

PAGE = """<!doctype html><title>Notes</title><ul></ul>
<script type="module">
  import { Trireme } from "/client.js";
  const { token } = await (await fetch("/login")).json();
  const client = new Trireme({ token });
  client.on("note", (event) => {
    const item = document.createElement("li");
    item.textContent = event.data.text;
    document.querySelector("ul").append(item);
  });
  await client.connect();
  await client.join("notes");
</script>"""


@app.get("/")
async def page() -> str:
    return PAGE


@app.get("/login")
async def login() -> dict[str, str]:
    gateway: Gateway = app.config["GATEWAY"]
    return {"token": gateway.auth.issue(org="acme", user="alice", rooms={"notes": ["join"]}).token}


@app.post("/notes")
async def add_note() -> tuple[dict[str, int], int]:
    gateway: Gateway = app.config["GATEWAY"]
    text = (await request.get_json())["text"]
    NOTES.append(text)
    place = await gateway.publish("acme", "notes", "note", {"text": text})
    return {"seq": place.seq}, 201


async def main() -> None:
    settings = Settings(port=int(os.environ.get("PORT", "8000")), dev=True, database="none")
    async with open_gateway(settings, app=app) as gateway:
        app.config["GATEWAY"] = gateway

        @gateway.command("notes.count")
        async def count(caller: Caller, data: object) -> int:
            return len(NOTES)

        print(f"listening on http://127.0.0.1:{gateway.port}", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
