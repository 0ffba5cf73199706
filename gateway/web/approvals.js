// Approvals: what a service asks this user to decide, with a countdown; whoever decides first has decided.

import { openTimeline } from "./agents.js";
import { announce } from "./alerts.js";
import { client, identity } from "./connection.js";
import { acting, at, button, definitions, duration, failure, make, name, placeholder, timeElement } from "./dom.js";
import { rest } from "./rest.js";

const LIMIT = 100;
const DECIDED = 20; // kept in view

const all = new Map(); // id → approval
let pending = 0;
let problem = null;
let tell = () => {};

export const waiting = () => pending;

function take(approval) {
  all.set(approval.id, { ...all.get(approval.id), ...approval });
  draw();
}

/** What an event says of an approval; it names it in its own field. */
const told = (data) => ({ ...data, id: data.id ?? data.permission });

export async function loadApprovals() {
  if (!identity.user) {
    problem = { status: 404, message: "This token is of a service, not of a user." };
    return draw();
  }
  try {
    const [open, recent] = await Promise.all([rest("GET", "approvals", { query: { status: "pending", limit: LIMIT } }), rest("GET", "approvals", { query: { limit: DECIDED } })]);
    problem = null;
    all.clear();
    for (const approval of [...recent.approvals, ...open.approvals]) all.set(approval.id, approval);
  } catch (error) {
    problem = error;
  }
  draw();
}

async function decide(id, choice, comment) {
  try {
    const answer = await rest("POST", `approvals/${encodeURIComponent(id)}/decide`, { body: { choice, comment: comment || undefined } });
    take({ id, ...(answer.approval ?? answer) });
  } catch (error) {
    if (error.status !== 409) return announce("error", "Not decided", error.message);
    announce("warning", "Decided before", error.message);
    await loadApprovals();
  }
}

function card({ id, title, message, data, choices = ["approve", "reject"], deadline_at: deadline, execution, task, sender, created_at: created, fallback }) {
  const comment = Object.assign(make("input", "comment"), { placeholder: "Comment, if you like", maxLength: 1000, ariaLabel: `Comment on ${title}`, autocomplete: "off" });
  const left = make("span", "countdown");
  left.dataset.deadline = deadline ?? "";
  left.dataset.fallback = fallback ?? "";
  const tools = choices.map((choice) => acting(choice[0].toUpperCase() + choice.slice(1), choice === "approve" ? "primary" : choice === "reject" ? "danger" : "", () => decide(id, choice, comment.value.trim())));
  const about = definitions(make("dl"), { "Asked by": sender, Task: task, Execution: execution && link(execution) });
  const element = make("li", "ask", make("div", "row between", make("h3", "", name(title, "")), left), message ? make("p", "", make("bdi", "", message)) : null, about,
    data === undefined ? null : Object.assign(make("pre", "", JSON.stringify(data, null, 2)), { tabIndex: 0 }), comment, make("div", "row between wrap", make("span", "note", "asked ", timeElement(created)), make("div", "row", ...tools)));
  element.dataset.id = id;
  return element;
}

function link(execution) {
  const element = button("", "link", () => openTimeline(execution));
  element.append(name(execution, ""));
  return element;
}

function decided({ title, status, decision }) {
  const by = decision?.user ?? (decision ? "its deadline" : "");
  const chip = make("span", "chip", decision?.choice ?? status);
  chip.dataset.status = { approve: "completed", reject: "failed" }[decision?.choice] ?? "cancelled";
  return make("li", "done", make("div", "row between", name(title, ""), chip), make("p", "note", by ? "by " : "", by ? name(by, "") : "", decision?.at ? " · " : "", decision?.at ? timeElement(decision.at) : "",
    decision?.comment ? make("span", "", " · ", name(`“${decision.comment}”`, "")) : ""));
}

function draw() {
  const open = [...all.values()].filter(({ status }) => status === "pending").sort((a, b) => (a.deadline_at ?? Infinity) - (b.deadline_at ?? Infinity));
  pending = open.length;
  tell();
  const list = at("approvals");
  if (!list) return;
  at("approvals-count").textContent = String(pending);
  // What somebody is writing stays: cards of what is still open are kept.
  const kept = new Map([...list.querySelectorAll("li.ask")].map((element) => [element.dataset.id, element]));
  if (problem) list.replaceChildren(make("li", "", problem.status === 404 ? placeholder("empty", "No approvals here", problem.message) : failure(problem, loadApprovals)));
  else if (!open.length) list.replaceChildren(make("li", "", placeholder("empty", "Nothing waits for your decision", "What a service asks with POST /api/v1/approvals appears here.")));
  else {
    const wanted = open.map((approval) => kept.get(approval.id) ?? card(approval));
    const same = list.childElementCount === wanted.length && wanted.every((element, index) => list.children[index] === element);
    if (!same) list.replaceChildren(...wanted);
  }
  const done = [...all.values()].filter(({ status }) => status !== "pending").sort((a, b) => (b.decision?.at ?? b.deadline_at ?? 0) - (a.decision?.at ?? a.deadline_at ?? 0));
  at("decided").replaceChildren(...done.slice(0, DECIDED).map(decided));
  at("decided-title").hidden = done.length === 0;
  count();
}

function count() {
  for (const element of document.querySelectorAll(".countdown")) {
    const { deadline, fallback } = element.dataset;
    if (!deadline) continue;
    const left = (Number(deadline) - Date.now()) / 1000;
    element.classList.toggle("late", left < 60);
    element.textContent = left > 0 ? `${fallback ? `${fallback} in` : "expires in"} ${duration(Math.max(1, Math.round(left)))}` : "time is up";
  }
}

/** Begins; `changed` is called when the number of those that wait may have changed. */
export function mountApprovals(changed, open) {
  tell = changed;
  client.on("permission:pending", ({ to, data }) => {
    const approval = told(data ?? {});
    if (!approval.id || !to) return; // somebody's own event of that name in a room
    if (!all.has(approval.id)) announce("warning", "Your decision is needed", approval.title ?? approval.action, open);
    take({ status: "pending", ...approval });
  });
  client.on("permission:decided", ({ to, data }) => {
    const approval = told(data ?? {});
    if (!approval.id || !all.has(approval.id)) return;
    const by = approval.decision?.user;
    if (to && by && by !== identity.user) announce("info", `${by} decided: ${approval.decision.choice}`, approval.title, open);
    take({ ...approval, status: approval.status ?? "decided" });
  });
  setInterval(count, 1_000);
}
