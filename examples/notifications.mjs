// A. Notifications for organisations: Node without packages, plain HTTP to the gateway.
//
// TRIREME=http://127.0.0.1:8000 TOKEN=… PORT=3000 node notifications.mjs
//
// gateway.toml:  [executions]
//                vocabularies = ["a"]      # agent:execution:start, …:complete, …:error to the organisation
import { createServer } from "node:http";

const { TRIREME, TOKEN, PORT = "3000" } = process.env;
const headers = { Authorization: `Bearer ${TOKEN}`, "Content-Type": "application/json" };
const tasks = new Map();

async function gateway(method, path, body) {
  const response = await fetch(`${TRIREME}/api/v1${path}`, { method, headers, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.detail), { status: 502 });
  return answer;
}

const emit = (event, data) => gateway("POST", "/events", { event, data });

/** In real life an agent works here. */
async function work(task) {
  if (task.title.includes("impossible")) throw new Error("this cannot be done");
  return { tools: ["search", "editor"], result: { words: task.title.split(" ").length } };
}

/** Waits for a person, who sees the question in their inbox and their badge, over restarts of everything. */
async function isApproved({ id, title, approvers }) {
  const question = { id: `task-${id}`, users: approvers, title, task: id, deadline: 86_400, fallback: "reject" };
  let approval = await gateway("POST", "/approvals", question);
  while (approval.status === "pending") approval = await gateway("GET", `/approvals/${question.id}?wait=5`);
  return approval.decision?.choice === "approve";
}

/** What is reported here is the execution history, with its filters, cards and chart: GET /api/v1/executions. */
async function execute(task) {
  const { id, agent, method } = task;
  const execution = await gateway("POST", "/executions", { agent, method, status: "running" });
  try {
    const done = await work(task);
    await gateway("PATCH", `/executions/${execution.id}`, { status: "completed", ...done });
    await emit("task:executed", { task_id: id, success: true, result: done.result });
  } catch (error) {
    await gateway("PATCH", `/executions/${execution.id}`, { status: "failed", error: error.message });
    await emit("task:executed", { task_id: id, success: false, error: error.message });
  }
}

const routes = {
  /** The page connects with this token; it is good for one organisation, and for this user. */
  "POST /login": ({ user }) => gateway("POST", "/auth/token", { user, ttl: 3600 }),
  "POST /tasks": async (task) => {
    task.id = String(tasks.size + 1);
    tasks.set(task.id, task);
    await emit("task:created", { task_id: task.id, title: task.title, agent_id: task.agent });
    isApproved(task).then((yes) => yes && execute(task)).catch(console.error);
    return { id: task.id };
  },
  "POST /remind": ({ user, text }) =>
    gateway("POST", `/users/${encodeURIComponent(user)}/send`, { event: "reminder", data: { text } }),
  "GET /clients": () => gateway("GET", "/stats"),
};

const server = createServer(async (request, response) => {
  const route = routes[`${request.method} ${request.url}`];
  const chunks = await request.toArray();
  try {
    const answer = await route(chunks.length ? JSON.parse(Buffer.concat(chunks).toString()) : undefined);
    response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(answer));
  } catch (error) {
    response.writeHead(route ? (error.status ?? 400) : 404).end(error.message);
  }
});
server.listen(Number(PORT), "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
