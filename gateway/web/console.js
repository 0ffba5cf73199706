// The console: one live connection shown from all sides. Everything on the page comes over it.

import { Trireme, parse, stringify } from "/client.js";

const FEED_ROWS = 200; // the newest that are kept
const STATS_EVERY = 2_000;
const OWN_MESSAGES = 4; // of one look at the statistics: two commands, two replies
const SAMPLES = 60; // of the sparkline

const at = (id) => document.getElementById(id);

/** An element with text and children. Text is never markup. */
function make(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

// ---- the token: from the address, then kept for this tab only

function takeFromAddress() {
  const brought = new URLSearchParams(location.hash.slice(1)).get("token");
  if (brought) history.replaceState(null, "", location.pathname + location.search); // out of sight and of bookmarks
  return brought;
}

function keep(chosen) {
  token = chosen;
  sessionStorage.setItem("token", token);
}

let token = sessionStorage.getItem("token");
let offered = takeFromAddress(); // until it is asked for
if (offered && document.documentElement.dataset.opened === "directly") {
  keep(offered); // the gateway has it from the browser that no other page led here
  offered = null;
}
const client = new Trireme({ token: () => token });
const joined = new Map(); // room → {seq, members}

// ---- indicator

const TEXTS = {
  disconnected: "Disconnected", connecting: "Connecting…", connected: "Connected",
  reconnecting: "Reconnecting…", failed: "Connection failed", degraded: "Degraded",
};
let degraded = false;
let countdown = null;

function showState(detail = "") {
  const state = degraded && client.getState() !== "failed" ? "degraded" : client.getState();
  at("indicator").dataset.state = state;
  at("indicator-text").textContent = TEXTS[state] + detail;
  const open = ["connected", "connecting", "reconnecting"].includes(client.getState());
  at("toggle").hidden = !token;
  at("toggle").textContent = open ? "Disconnect" : "Connect";
}

client.on("state", () => {
  clearInterval(countdown);
  showState();
});
client.on("degraded", (change) => {
  degraded = change.degraded;
  showState(change.reason && `: ${change.reason}`);
});
client.on("reconnecting", ({ attempt, delay, code, reason }) => {
  if (code === 1008) { // only the user can give another token
    client.disconnect();
    return signIn(`The gateway refused the token: ${reason}.`);
  }
  const until = Date.now() + delay;
  const show = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    showState(left > 0 ? ` in ${left} s (try ${attempt})` : ` (try ${attempt})`);
  };
  clearInterval(countdown);
  countdown = setInterval(show, 500);
  show();
});

// ---- this connection

async function showIdentity() {
  const info = await client.info();
  const time = (ms) => new Date(ms).toLocaleTimeString();
  const rows = {
    Organisation: info.org, User: info.user ?? "none", Roles: info.roles?.join(", ") || "none", Connection: info.connection,
    Node: info.node, Since: time(info.connected_at), Address: info.ip, Subprotocol: info.subprotocol,
    "Token ends": info.expires ? new Date(info.expires).toLocaleString() : "never",
  };
  const shown = Object.entries(rows).filter(([, value]) => value);
  at("identity").replaceChildren(...shown.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
  at("who").replaceChildren(make("b", "", info.user ?? "a service"), ` of ${info.org}`);
}

// ---- rooms

function showRooms() {
  const chips = [...joined].sort().map(([room, { seq, members }]) => {
    const leave = make("button", "", "×");
    leave.type = "button";
    leave.ariaLabel = `Leave ${room}`;
    leave.addEventListener("click", () => leaveRoom(room));
    const about = [members && `${members} here`, `#${seq}`].filter(Boolean).join(" · ");
    return make("li", "", make("span", "", room), make("small", "", about), leave);
  });
  at("rooms").replaceChildren(...chips);
  at("room-names").replaceChildren(...[...joined.keys()].map((room) => Object.assign(make("option"), { value: room })));
  sessionStorage.setItem("rooms", JSON.stringify([...joined.keys()]));
}

async function joinRoom(room) {
  try {
    const { seq } = await client.join(room);
    joined.set(room, { seq });
    showRooms();
    showStats();
  } catch (error) {
    note(`${room}: ${error.message}`, "warning");
  }
}

async function leaveRoom(room) {
  joined.delete(room);
  showRooms();
  await client.leave(room).catch((error) => note(`${room}: ${error.message}`, "warning"));
}

at("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = at("join-room");
  joinRoom(field.value.trim());
  at("publish-room").value = field.value.trim();
  field.value = "";
});

// ---- publish

at("publish").addEventListener("submit", async (event) => {
  event.preventDefault();
  const result = at("publish-result");
  const say = (text, bad) => {
    result.textContent = text;
    result.classList.toggle("bad", bad);
  };
  let data;
  try {
    const text = at("publish-data").value.trim();
    data = text ? parse(text) : undefined;
  } catch (error) {
    return say(`Not JSON: ${error.message}`, true);
  }
  try {
    const sent = performance.now();
    const { seq } = await client.publish(at("publish-room").value.trim(), at("publish-event").value.trim(), data);
    say(`Placed as #${seq} in ${(performance.now() - sent).toFixed(1)} ms`, false);
  } catch (error) {
    say(error.message, true);
  }
});

// ---- feed: rows wait for the next frame, so a burst costs one redraw

let waiting = [];
let paused = false;
let received = 0;
let pattern = null;

function enqueue(row) {
  waiting.push(row);
  if (waiting.length > FEED_ROWS) waiting.shift();
  if (waiting.length === 1) requestAnimationFrame(drain);
}

function drain() {
  if (paused) return;
  const rows = waiting.map((row) => row());
  waiting = [];
  rows.forEach(match);
  at("feed").prepend(...rows.reverse());
  while (at("feed").childElementCount > FEED_ROWS) at("feed").lastElementChild.remove();
  at("empty").hidden = at("feed").querySelector("li:not(.system)") !== null;
}

function match(row) {
  row.classList.toggle("unmatched", pattern !== null && row.dataset.event !== undefined && !pattern.test(row.dataset.event));
}

function clock(ms) {
  const time = new Date(ms);
  return `${time.toLocaleTimeString([], { hour12: false })}.${String(time.getMilliseconds()).padStart(3, "0")}`;
}

function eventRow({ event, room, seq, data, sender, ts }) {
  const text = data === undefined ? "" : stringify(data);
  const preview = make("span", "data", text);
  preview.addEventListener("click", () => {
    const open = preview.classList.toggle("open");
    preview.textContent = open ? stringify(data, 2) : text;
  });
  const place = make("span", "place", make("b", "", room ?? "direct"), seq === undefined ? "" : ` #${seq}`, sender ? ` · ${sender}` : "");
  const row = make("li", "new", make("time", "", clock(ts)), make("span", "name", event), preview, place);
  row.dataset.event = event;
  return row;
}

/** A line of the console's own in the feed. */
function note(text, kind = "") {
  const now = Date.now();
  enqueue(() => make("li", `system ${kind}`, make("time", "", clock(now)), make("span", "name", text)));
}

client.on("*", (event) => {
  at("feed-count").textContent = (received += 1).toLocaleString();
  const room = joined.get(event.room);
  if (room && event.seq !== undefined) {
    room.seq = event.seq;
    roomsChanged = true;
  }
  enqueue(() => eventRow(event));
});

at("feed-pattern").addEventListener("input", ({ target }) => {
  const text = target.value.trim();
  const parts = text.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  pattern = text && text !== "all" ? new RegExp(`^${parts.join(".*")}${text.includes("*") ? "$" : ""}`) : null;
  for (const row of at("feed").children) match(row);
});
at("feed-pause").addEventListener("click", ({ target }) => {
  paused = !paused;
  target.ariaPressed = String(paused);
  target.textContent = paused ? "Resume" : "Pause";
  if (!paused) drain();
});
at("feed-clear").addEventListener("click", () => {
  waiting = [];
  at("feed").replaceChildren();
  at("empty").hidden = false;
  at("feed-count").textContent = received = 0;
});

// ---- statistics

let roomsChanged = false;
let before = null;
const rates = [];

const amount = (number) => (number < 100_000 ? number.toLocaleString() : Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(number));
const some = (number, what) => `${amount(number)} ${what}${number === 1 ? "" : "s"}`;

async function showStats() {
  if (!client.isConnected() || document.hidden) return;
  try {
    const [stats, { rtt }] = await Promise.all([client.stats(), client.ping()]);
    const members = Object.values(stats.rooms);
    const total = stats.messages_in + stats.messages_out;
    at("stat-connections").textContent = amount(stats.connections);
    at("stat-users").textContent = some(stats.users, "user");
    at("stat-rooms").textContent = amount(members.length);
    at("stat-members").textContent = some(members.reduce((sum, number) => sum + number, 0), "membership");
    at("stat-messages").textContent = amount(total);
    at("stat-direction").textContent = `${amount(stats.messages_in)} in · ${amount(stats.messages_out)} out`;
    at("stat-rtt").replaceChildren(rtt.toFixed(rtt < 10 ? 1 : 0), make("small", "", "ms"));
    at("stat-node").textContent = `node ${stats.node}`;
    const now = performance.now();
    // Counters start anew with the gateway; two looks in quick succession say nothing of a rate.
    if (before && total >= before.total && now - before.now > STATS_EVERY / 4) {
      showRate((Math.max(0, total - before.total - OWN_MESSAGES) * 1000) / (now - before.now));
    }
    if (!before || now - before.now > STATS_EVERY / 4 || total < before.total) before = { total, now };
    for (const [room, place] of joined) {
      roomsChanged ||= place.members !== stats.rooms[room];
      place.members = stats.rooms[room];
    }
    if (roomsChanged) showRooms();
    roomsChanged = false;
  } catch (error) {
    if (client.isConnected()) note(`statistics: ${error.message}`, "warning");
  }
}

function showRate(rate) {
  rates.push(rate);
  if (rates.length > SAMPLES) rates.shift();
  at("stat-rate").textContent = rate < 10 ? rate.toFixed(1) : amount(Math.round(rate));
  const top = Math.max(...rates, 1);
  const points = rates.map((value, index) => {
    const x = 120 - (rates.length - 1 - index) * (120 / (SAMPLES - 1));
    return `${x.toFixed(1)},${(34 - (value / top) * 30).toFixed(1)}`;
  });
  const [line, area] = [at("spark").querySelector(".line"), at("spark").querySelector(".area")];
  line.setAttribute("d", `M${points.join("L")}`);
  area.setAttribute("d", `M${points.join("L")}L120,36L${points[0].split(",")[0]},36Z`);
}

setInterval(showStats, STATS_EVERY);
document.addEventListener("visibilitychange", showStats);

// ---- what happens to the connection is part of the feed

client.on("connected", async ({ reconnected }) => {
  before = null;
  if (reconnected) note("The connection is back; rooms are resumed");
  else for (const room of JSON.parse(sessionStorage.getItem("rooms") ?? '["lobby"]')) joinRoom(room);
  await showIdentity().catch((error) => note(error.message, "warning"));
  showStats();
});
client.on("disconnected", ({ code, reason, reconnect }) => {
  at("identity").replaceChildren();
  if (code !== 1000) note(`The connection ended: ${reason || `code ${code}`}`, "warning");
  if (!reconnect) joined.clear();
});
client.on("reconnect:failed", ({ attempts }) => note(`No connection after ${attempts} tries; trying on, less often`, "warning"));
client.on("lost", ({ room, from, to, reason }) => {
  note(`${room}: events from #${from}${to === undefined ? "" : ` to #${to}`} are gone (${reason})`, "warning");
});
client.on("error", (error) => {
  joined.delete(error.room);
  showRooms();
  note(error.message, "warning");
});

function connect() {
  showState();
  client.connect().catch(() => {}); // the events above tell why
}

at("toggle").addEventListener("click", () => {
  if (["disconnected", "failed"].includes(client.getState())) connect();
  else client.disconnect();
});

// ---- sign in, theme, example

function signIn(reason) {
  if (reason) at("sign-in-reason").textContent = reason;
  if (!at("sign-in").open) at("sign-in").showModal();
}

at("sign-in").addEventListener("close", () => {
  const entered = at("sign-in-token").value.trim() || token;
  if (!entered) return;
  keep(entered);
  connect();
});

/** Whose a token says it is; nothing of it is verified here. */
function claimed(text) {
  try {
    const bytes = Uint8Array.from(atob(text.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    const { sub, org } = JSON.parse(new TextDecoder().decode(bytes));
    return `${sub ?? "a service"} of ${org}`;
  } catch {
    return "nobody whom it names";
  }
}

function ask() {
  at("ask-user").textContent = claimed(offered);
  at("ask").returnValue = "";
  if (!at("ask").open) at("ask").showModal();
}

at("ask").addEventListener("close", () => {
  if (at("ask").open) return; // asked again before this event came
  if (at("ask").returnValue === "yes") {
    keep(offered);
    client.disconnect();
  }
  offered = null;
  if (token) connect();
  else signIn();
});

addEventListener("hashchange", () => {
  const other = takeFromAddress(); // another page can do this to a window that it has opened
  if (!other || other === token) return;
  offered = other;
  ask();
});

at("theme").addEventListener("click", () => {
  const { dataset } = document.documentElement;
  const dark = dataset.theme ? dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", dataset.theme);
});

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;

const curl = (bearer) => `curl ${location.origin}/api/v1/broadcast \\
  -H "Authorization: Bearer ${bearer}" \\
  -H "Content-Type: application/json" \\
  -d '{"room": "lobby", "event": "message:new", "data": {"text": "hello"}}'`;

at("curl").textContent = curl("$TOKEN");
at("curl-copy").addEventListener("click", async ({ target }) => {
  await navigator.clipboard.writeText(curl(token));
  target.textContent = "Copied";
  setTimeout(() => (target.textContent = "Copy with this token"), 2_000);
});

if (offered && offered !== token) ask();
else if (token) connect();
else signIn();
showState();
