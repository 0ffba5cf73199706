// Operations: how the gateway is, who is connected, what was dropped or refused; for services and admins.

import { lines } from "./charts.js";
import { client, isService, onIdentity } from "./connection.js";
import { mountConnections, loadConnections } from "./connections.js";
import { amount, at, bytes, duration, failure, make, name, placeholder, some, table, timeElement, whole } from "./dom.js";
import { metrics, rest } from "./rest.js";
import { mountTrace, showTrace } from "./trace.js";

const EVERY = 2_000;
const SAMPLES = 150;
const SPAN = EVERY * SAMPLES;
const ROOMS = 50; // shown
/** Error numbers that say that a limit was hit or load was shed; docs/protocol.md tells what each means. */
const REFUSALS = (code) => code >= 300 && code < 500;

let shown = false;
let built = false;
let looking = false;
let last = null; // the counters of the look before
const samples = []; // {time, received, sent, deliveries, rtt, lag, connections}

const sum = (found, metric) => (found.get(metric) ?? []).reduce((total, { value }) => total + value, 0);
const ms = (value) => `${amount(value)} ms`;

async function look() {
  if (!shown || looking || document.hidden || !client.isConnected() || !isService()) return;
  looking = true;
  try {
    const [stats, found, rtt] = await Promise.all([rest("GET", "stats"), metrics().catch(() => null), client.ping().then((pong) => pong.rtt, () => NaN)]);
    sample(stats, found, rtt);
    showCards(stats, found, rtt);
    showNodes(stats.cluster);
    showRefusals(found);
    showRooms(stats.cluster?.rooms ?? stats.rooms);
    drawCharts();
    at("operations-state").replaceChildren();
  } catch (error) {
    at("operations-state").replaceChildren(failure(error, look));
  } finally {
    looking = false;
  }
}

function sample(stats, found, rtt) {
  const time = Date.now();
  const now = { time, received: stats.messages_in, sent: stats.messages_out, node: stats.node };
  const seconds = last ? (time - last.time) / 1000 : 0;
  const rate = (key) => (last && last.node === now.node && now[key] >= last[key] && seconds > 0.5 ? (now[key] - last[key]) / seconds : NaN);
  samples.push({ time, received: rate("received"), sent: rate("sent"), rtt, lag: found ? sum(found, "trireme_loop_lag_seconds") * 1000 : NaN });
  if (samples.length > SAMPLES) samples.shift();
  last = now;
}

function drawCharts() {
  const of = (key) => samples.map((each) => each[key]);
  const times = of("time");
  lines(at("chart-rates"), { title: "Messages per second", times, span: SPAN, format: amount,
    series: [{ title: "received", tone: "accent", values: of("received") }, { title: "sent", tone: "good", values: of("sent") }] });
  lines(at("chart-latency"), { title: "Latency", times, span: SPAN, format: ms,
    series: [{ title: "round trip from here", tone: "accent", values: of("rtt") }, { title: "event loop late", tone: "warn", values: of("lag") }] });
}

function tile(title, value, note, state) {
  const element = make("div", "tile", make("h2", "", title), make("p", "number", value), make("p", "note", note ?? "\u00a0"));
  if (state) element.dataset.state = state;
  return element;
}

function showCards(stats, found, rtt) {
  const here = stats.cluster ?? stats;
  const overloaded = found && sum(found, "trireme_overloaded") > 0;
  const draining = found && sum(found, "trireme_draining") > 0;
  const state = draining ? ["Draining", "its clients leave; nothing new is taken", "warn"] : overloaded ? ["Overloaded", "new connections and ordinary publishes are refused", "bad"]
    : found ? ["Normal", `${whole(sum(found, "trireme_overload_refusals_total"))} refused to shed load`, "good"] : ["Unknown", "/metrics does not answer", "warn"];
  at("operations-cards").replaceChildren(
    tile("State of this node", state[0], state[1], state[2]),
    tile("Connections", whole(here.connections ?? stats.connections), `${some(here.users ?? stats.users, "user")} · ${whole(here.connections_total ?? stats.connections_total)} since the start`),
    tile("Messages", whole((here.messages_in ?? 0) + (here.messages_out ?? 0)), `${whole(here.messages_in ?? 0)} in · ${whole(here.messages_out ?? 0)} out`),
    tile("Traffic", bytes((here.bytes_in ?? 0) + (here.bytes_out ?? 0)), `${bytes(here.bytes_in ?? 0)} in · ${bytes(here.bytes_out ?? 0)} out`),
    tile("Queued to send", found ? whole(sum(found, "trireme_queue_messages")) : "–", found ? `${bytes(sum(found, "trireme_queue_bytes"))} · the longest queue ${whole(sum(found, "trireme_queue_longest"))}` : ""),
    tile("Round trip", Number.isFinite(rtt) ? ms(rtt) : "–", found ? `loop at most ${duration(sum(found, "trireme_loop_lag_max_seconds"))} late in a minute` : ""));
}

function showNodes(cluster) {
  if (!cluster?.nodes?.length) return at("nodes").replaceChildren(placeholder("empty", "One node", cluster?.reason ?? ""));
  const missing = (cluster.missing ?? []).map((node) => [name(node, ""), make("span", "bad", "does not answer"), "", "", ""]);
  const rows = cluster.nodes.map((node) => [name(node.node, ""), whole(node.connections), name(node.address, ""), node.version ?? "", node.started ? timeElement(node.started) : ""]);
  at("nodes").replaceChildren(table("Nodes", [["Node"], ["Connections", "number"], ["Address"], ["Version"], ["Started", "number"]], [...rows, ...missing]));
}

function showRefusals(found) {
  if (!found) return at("refusals").replaceChildren(placeholder("error", "Not known", "/metrics does not answer this page."));
  const rows = [];
  const add = (what, count, about) => count && rows.push([name(what, ""), whole(count), about]);
  for (const { labels, value } of found.get("trireme_dropped_total") ?? []) add(`dropped: ${labels.policy}`, value, "events given up by this overflow policy; their clients were told");
  add("closed as too slow", sum(found, "trireme_slow_consumers_total"), "connections whose queue was full");
  for (const [metric, where] of [["trireme_errors_total", "sockets"], ["trireme_http_errors_total", "HTTP"]]) {
    for (const { labels, value } of found.get(metric) ?? []) {
      if (REFUSALS(Number(labels.code))) add(`error ${labels.code}`, value, Object.assign(make("a", "", `told over ${where}; what it means`), { href: `/docs#error-${labels.code}` }));
    }
  }
  add("refused to shed load", sum(found, "trireme_overload_refusals_total"), "connections and publishes");
  add("suspicious addresses", sum(found, "trireme_suspicions_total"), "patterns reported");
  add("addresses refused for a time", sum(found, "trireme_bans_total"), "");
  if (!rows.length) return at("refusals").replaceChildren(placeholder("empty", "Nothing was dropped or refused", "since this node started"));
  at("refusals").replaceChildren(table("Drops and limits", [["What"], ["Since the start", "number"], [" "]], rows));
}

function showRooms(rooms) {
  const all = typeof rooms === "object" ? Object.entries(rooms).sort(([a, x], [b, y]) => y - x || a.localeCompare(b)) : [];
  at("rooms-count").textContent = typeof rooms === "number" ? whole(rooms) : String(all.length);
  if (!all.length) return at("rooms-table").replaceChildren(placeholder("empty", "No room has a member", ""));
  const rows = all.slice(0, ROOMS).map(([room, members]) => [name(room, ""), whole(members)]);
  at("rooms-table").replaceChildren(table("Rooms", [["Room"], ["Members", "number"]], rows));
}

// ---- the page

function build() {
  built = true;
  const part = (id, className = "", region = "") => Object.assign(make("div", className), { id }, region && { tabIndex: 0, role: "region", ariaLabel: region });
  const count = Object.assign(make("span", "count", "0"), { id: "rooms-count" });
  at("page-operations").replaceChildren(
    part("operations-state"), part("operations-cards", "tiles six"),
    make("div", "two even", make("section", "card", make("h2", "", "Messages per second"), part("chart-rates")), make("section", "card", make("h2", "", "Latency"), part("chart-latency"))),
    mountConnections(),
    make("div", "two even", make("section", "card", make("h2", "", "Nodes"), part("nodes", "scroll", "Nodes")), make("section", "card", make("h2", "", "Rooms ", count), part("rooms-table", "scroll short", "Rooms"))),
    make("div", "two even", make("section", "card", make("h2", "", "Drops and limits of this node"), part("refusals", "scroll short", "Drops and limits")), mountTrace()));
  for (const id of ["nodes", "rooms-table", "refusals"]) at(id).replaceChildren(placeholder("loading", "Loading…"));
}

function begin(trace) {
  if (!shown) return;
  if (!isService()) {
    built = false;
    const text = "This page is for the roles service and admin. Make such a token with: gateway token --org … --role service";
    return at("page-operations").replaceChildren(placeholder("forbidden", "No permission", text));
  }
  if (!built) build();
  look();
  loadConnections();
  if (trace) showTrace(trace);
}

export function mount() {
  setInterval(look, EVERY);
  onIdentity(({ org }) => org && begin(null));
  client.on("connected", () => { last = null; });
}

export function show(parameters) {
  shown = true;
  const trace = parameters.get("trace");
  if (client.isConnected()) begin(trace);
  else if (!built) {
    at("page-operations").replaceChildren(placeholder("loading", "Waiting for the connection…"));
    if (trace) client.on("connected", function once() { client.off("connected", once); begin(trace); });
  }
}

export function hide() {
  shown = false;
}
