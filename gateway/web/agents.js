// Agents: what runs now, and the history of what ran, with its figures.

import { toast } from "./alerts.js";
import { bars } from "./charts.js";
import { client, follow } from "./connection.js";
import { acting, at, button, debounce, definitions, duration, failure, make, name, placeholder, sheet, some, statusChip, table, timeElement, whole } from "./dom.js";
import { rest } from "./rest.js";

const ROOM = "executions";
const LIMIT = 50;
const STAYS = 8_000; // what ended is shown among what runs
const RUNNING = 60; // shown
const DAY = 86_400_000;
const SERIES = [{ title: "completed", tone: "good" }, { title: "failed", tone: "bad" }, { title: "other", tone: "soft" }];
const STATUSES = ["queued", "running", "completed", "failed", "cancelled"];
const FILTERS = ["from", "to", "agent", "team", "status", "method"];

const active = new Map(); // id → row
let filters = {};
let cursor = null;
let shown = false;
let built = false;
let asked = 0; // counts loads, so that a late answer does not replace a newer one
let joinError = null;
let figures = null; // the summary that is shown

const isActive = ({ status }) => status === "queued" || status === "running";
/** Seconds that an execution took, or has taken so far. */
const took = (row) => row.duration ?? (row.started_at ? ((row.finished_at ?? (isActive(row) ? Date.now() : row.updated_at)) - row.started_at) / 1000 : undefined);
const brief = (value) => (value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value));
const toolNames = (tools) => (tools ?? []).map((tool) => (typeof tool === "string" ? tool : tool?.name ?? JSON.stringify(tool)));

// ---- live

function take(row, announce = false) {
  const known = active.get(row.id);
  if (known && known.version >= row.version) return;
  if (announce && shown && known?.status !== row.status) announceChange(row, known);
  if (isActive(row)) active.set(row.id, row);
  else if (known) {
    active.set(row.id, row);
    setTimeout(() => {
      if (active.get(row.id) === row && active.delete(row.id)) drawRunning();
    }, STAYS);
  }
  drawRunning();
  if (!isActive(row)) reloadSoon();
}

function announceChange(row, known) {
  const open = () => openTimeline(row.id);
  if (row.status === "running" && known?.status !== "running") toast("info", `${row.agent} started`, row.method, open);
  else if (row.status === "completed") toast("success", `${row.agent} completed`, row.method, open);
  else if (row.status === "failed") toast("error", `${row.agent} failed`, brief(row.error), open);
  else if (row.status === "cancelled") toast("warning", `${row.agent} was cancelled`, row.method, open);
}

async function loadActive() {
  try {
    const answers = await Promise.all(["running", "queued"].map((status) => rest("GET", "executions", { query: { status, limit: RUNNING } })));
    const there = new Set();
    for (const row of answers.flatMap(({ executions }) => executions)) {
      there.add(row.id);
      take(row);
    }
    for (const [id, row] of active) if (isActive(row) && !there.has(id)) active.delete(id);
    drawRunning();
  } catch (error) {
    if (built && !active.size) at("running").replaceChildren(failure(error, loadActive));
  }
}

const drawRunning = debounce(() => {
  if (!built || !shown) return;
  const rows = [...active.values()].sort((a, b) => a.created_at - b.created_at);
  at("running-count").textContent = String(rows.filter(isActive).length);
  if (!rows.length) {
    const text = "Executions that a service starts with POST /api/v1/executions appear here.";
    return at("running").replaceChildren(joinError ? failure({ status: 403, message: joinError.message }) : placeholder("empty", "No agent runs now", text));
  }
  at("running").replaceChildren(...rows.slice(0, RUNNING).map(runningCard));
}, 100);

function runningCard(row) {
  const open = button("", "run", () => openTimeline(row.id));
  const progress = make("progress");
  progress.max = 100;
  if (row.progress !== undefined || row.status !== "running") progress.value = row.status === "completed" ? 100 : row.progress ?? 0;
  progress.ariaLabel = `Progress of ${row.agent}`;
  open.append(make("span", "row between", name(row.agent, "agent"), statusChip(row.status)),
    make("span", "row between note", name([row.team, row.method].filter(Boolean).join(" · "), ""), make("span", "", duration(took(row)))),
    progress,
    make("span", "row between note", name(brief(row.status === "failed" ? row.error : row.step) || (row.status === "queued" ? "waits for its turn" : ""), ""), make("span", "", row.progress === undefined ? "" : `${Math.round(row.progress)} %`)));
  return open;
}

// ---- history

/** What is asked for: whole days of the reader's clock, by default the last 30. */
function query() {
  const { from, to, ...rest } = filters;
  const end = to ? new Date(`${to}T00:00`).getTime() : new Date().setHours(0, 0, 0, 0);
  const start = from ? new Date(`${from}T00:00`).getTime() : end - 29 * DAY;
  return { ...rest, from: start, to: to ? end + DAY - 1 : undefined };
}

async function load() {
  const mine = ++asked;
  const wanted = query();
  try {
    const [summary, page] = await Promise.all([rest("GET", "executions/summary", { query: wanted }), rest("GET", "executions", { query: { ...wanted, limit: LIMIT } })]);
    if (mine !== asked) return;
    showSummary(summary);
    cursor = page.next ?? null;
    showRows(page.executions);
  } catch (error) {
    if (mine !== asked) return;
    at("history").replaceChildren(failure(error, load));
    at("history-more").hidden = at("history-figures").hidden = true;
  }
}

const reloadSoon = debounce(() => shown && client.isConnected() && load(), 1_500);

function showSummary(summary) {
  const { total, by_status: by = {}, success_rate: rate, duration: times } = (figures = summary);
  at("history-figures").hidden = false;
  const tile = (title, value, note) => make("div", "tile", make("h3", "", title), make("p", "number", value), make("p", "note", note));
  at("history-cards").replaceChildren(
    tile("Success rate", rate === null || rate === undefined ? "–" : `${(rate * 100).toFixed(rate === 1 ? 0 : 1)} %`, `${whole(by.completed ?? 0)} completed · ${whole(by.failed ?? 0)} failed`),
    tile("Average duration", duration(times?.average), times?.p95 === undefined || times?.p95 === null ? "\u00a0" : `median ${duration(times.p50)} · 95 % within ${duration(times.p95)}`),
    tile("Executions", whole(total), [["running", "run"], ["queued", "wait"], ["cancelled", "cancelled"]].filter(([status]) => by[status]).map(([status, word]) => `${whole(by[status])} ${word}`).join(" · ") || "\u00a0"));
  drawDays();
}

function drawDays() {
  const days = (figures?.series ?? []).slice(-31).map(({ day, total: all, completed, failed }) => {
    const date = new Date(`${day}T12:00Z`);
    const short = date.toLocaleDateString("en", { day: "numeric", month: "short" });
    return { label: day, short, values: [completed, failed, Math.max(0, all - completed - failed)] };
  });
  bars(at("history-chart"), { title: "Executions by day", bars: days, series: SERIES, format: whole });
}

function showRows(rows, append = false) {
  const cells = rows.map((row) => [
    button("", "link", () => openTimeline(row.id)), statusChip(row.status), name(row.method, ""), name(row.team, ""),
    timeElement(row.started_at ?? row.created_at), duration(took(row)), name(toolNames(row.tools).join(", "), ""), name(brief(row.error ?? row.result), row.error ? "bad" : ""),
  ]);
  cells.forEach(([open], index) => open.append(name(rows[index].agent, "")));
  const columns = [["Agent"], ["Status"], ["Method"], ["Team"], ["Started", "number"], ["Duration", "number"], ["Tools", "clip"], ["Result", "clip"]];
  const made = table("Execution history", columns, cells);
  const old = append && at("history").querySelector("tbody");
  if (old) old.append(...made.querySelector("tbody").children);
  else if (rows.length) at("history").replaceChildren(made);
  else {
    const narrowed = Object.keys(filters).length > 0;
    at("history").replaceChildren(placeholder("empty", narrowed ? "Nothing matches these filters" : "Nothing ran in the last 30 days", "",
      narrowed ? button("Clear the filters", "quiet", () => { location.hash = "#/agents"; }) : null));
  }
  at("history-more").hidden = !cursor;
}

async function loadMore() {
  try {
    const page = await rest("GET", "executions", { query: { ...query(), limit: LIMIT, cursor } });
    cursor = page.next ?? null;
    showRows(page.executions, true);
  } catch (error) {
    toast("error", "The next page could not be loaded", error.message);
  }
}

// ---- one execution

export async function openTimeline(id) {
  const body = make("div", "stack", placeholder("loading", "Loading…"));
  const dialog = sheet("Execution", body);
  const load = async () => {
    try {
      const row = await rest("GET", `executions/${encodeURIComponent(id)}`);
      const code = (value) => (value === undefined || value === null ? undefined : make("code", "", typeof value === "string" ? value : JSON.stringify(value)));
      const list = definitions(make("dl"), { Status: statusChip(row.status), Agent: row.agent, Team: row.team, Method: row.method, Started: row.started_at && timeElement(row.started_at),
        Duration: duration(took(row)), Step: row.step, Progress: row.progress === undefined ? "" : `${Math.round(row.progress)} %`, Tools: toolNames(row.tools).join(", "),
        Input: code(row.input), Result: code(row.result), Error: code(row.error), Execution: row.id });
      const steps = (row.updates ?? []).map((update) => {
        const text = [update.step, update.progress === undefined || update.progress === null ? "" : `${Math.round(update.progress)} %`, brief(update.error)].filter(Boolean).join(" · ");
        return make("li", "", timeElement(update.at), make("div", "", update.status ? statusChip(update.status, false) : null, " ", name(text, "")));
      });
      body.replaceChildren(list, make("h3", "", `Timeline (${some(steps.length, "update")})`), make("ol", "timeline", ...steps));
    } catch (error) {
      body.replaceChildren(failure(error, load));
    }
  };
  const stop = client.on("execution:updated", ({ data }) => data?.id === id && load());
  dialog.addEventListener("close", stop);
  await load();
}

// ---- the page

function build() {
  built = true;
  const input = (key, type, title, more = {}) => make("label", "", title, Object.assign(make("input"), { name: key, type, autocomplete: "off", ...more }));
  const status = make("select", "", Object.assign(make("option", "", "any"), { value: "" }), ...STATUSES.map((each) => make("option", "", each)));
  status.name = "status";
  const form = make("form", "filters", input("from", "date", "From"), input("to", "date", "To"), input("agent", "search", "Agent", { placeholder: "any", maxLength: 200 }), input("team", "search", "Team", { placeholder: "any", maxLength: 200 }),
    make("label", "", "Status", status), input("method", "search", "Method", { placeholder: "any", maxLength: 200 }), button("Clear", "quiet", () => { location.hash = "#/agents"; }));
  form.id = "filters";
  const apply = () => {
    const chosen = FILTERS.map((key) => [key, form.elements[key].value.trim()]).filter(([, value]) => value);
    const text = chosen.length ? `?${new URLSearchParams(chosen)}` : "";
    if (location.hash !== `#/agents${text}`) location.hash = `#/agents${text}`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  const part = (id, className = "") => Object.assign(make("div", className), { id });
  const count = make("span", "count", "0");
  count.id = "running-count";
  const scroll = part("history", "scroll");
  Object.assign(scroll, { tabIndex: 0, role: "region", ariaLabel: "Execution history" });
  const more = acting("Load more", "quiet", loadMore);
  Object.assign(more, { id: "history-more", hidden: true });
  at("page-agents").append(
    make("section", "card", make("h2", "", "Running now ", count), part("running", "runs")),
    make("section", "card", make("div", "row between wrap", make("h2", "", "History"), make("span", "note", "the last 30 days unless dates are chosen; days of the chart are UTC")), form,
      Object.assign(make("div", "stack", part("history-cards", "tiles three"), part("history-chart")), { id: "history-figures" }), scroll, make("div", "row end", more)));
  at("running").replaceChildren(placeholder("loading", "Loading…"));
  at("history").replaceChildren(placeholder("loading", "Loading…"));
  new ResizeObserver(debounce(() => shown && figures && drawDays(), 200)).observe(at("history-chart"));
  setInterval(() => shown && active.size && drawRunning(), 1_000); // durations go on
}

export function mount() {
  follow(ROOM, (error) => {
    joinError = error ?? null;
    active.clear();
    if (shown) { loadActive(); load(); }
  });
  client.on("execution:updated", ({ room, data }) => room === ROOM && data && take(data, true));
  client.on("lost", ({ room }) => room === ROOM && shown && loadActive());
}

export function show(parameters) {
  if (!built) build();
  const first = !shown;
  shown = true;
  filters = Object.fromEntries(FILTERS.map((key) => [key, parameters.get(key)]).filter(([, value]) => value));
  for (const key of FILTERS) at("filters").elements[key].value = filters[key] ?? "";
  if (!client.isConnected() && client.getState() !== "reconnecting") return;
  if (first) loadActive();
  load();
}

export function hide() {
  shown = false;
}
