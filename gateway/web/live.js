// Live: what happens in the rooms, the organisation and to the user; join, publish, presence, typing.

import { parse, stringify } from "/client.js";
import { client, identity, isService, onIdentity } from "./connection.js";
import { amount, at, bytes, button, clock, copy, definitions, make, name, sheet, some } from "./dom.js";
import { Feed } from "./feed.js";
import { joinRoom, mountRooms, roomStats } from "./rooms.js";
import { token } from "./token.js";

const STATS_EVERY = 2_000;
const OWN_MESSAGES = 4; // of one look at the statistics: two commands, two replies
const SAMPLES = 60; // of the sparkline
const TYPING_EVERY = 2_000;

const feed = new Feed(openEvent);
let shown = false;

// ---- this connection

async function showIdentity({ org, user, roles, connection, node, connected_at: since, ip, subprotocol, expires }) {
  definitions(at("identity"), org ? {
    Organisation: org, User: user ?? "none", Roles: roles.join(", ") || "none", Connection: connection, Node: node,
    Since: clock(since), Address: ip, Subprotocol: subprotocol, Transport: client.transport,
    "Token ends": expires ? new Date(expires).toLocaleString() : "never",
  } : {});
}

// ---- publish

async function publish(event) {
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
    const room = at("publish-room").value.trim();
    const { seq } = await client.publish(room || null, at("publish-event").value.trim(), data);
    say(`Placed as #${seq} in ${(performance.now() - sent).toFixed(1)} ms`, false);
  } catch (error) {
    say(error.message, true);
  }
}

let typed = 0;
function tellTyping() {
  const room = at("publish-room").value.trim();
  if (!room || !client.isConnected() || Date.now() - typed < TYPING_EVERY) return;
  typed = Date.now();
  client.typing(room).catch(() => {}); // who may not publish there is told so when they do
}

const typists = new Map(); // "room\nuser" → {who, room}
function showTyping({ event, room, data }) {
  const who = data?.user ?? "a service";
  const key = `${room}\n${who}`;
  if (event === "typing:start") typists.set(key, { who, room });
  else typists.delete(key);
  const texts = [...typists.values()].slice(-3).map((each) => make("span", "", name(each.who), " types in ", name(each.room), ". "));
  at("typing").replaceChildren(...texts);
}

// ---- one event in full

function openEvent(item) {
  const { event, room, to, seq, epoch, ts, mid, sender, text } = item;
  const list = definitions(make("dl"), {
    Room: room ?? (to === "user" ? "you" : to === "connection" ? "this connection" : "the organisation"), Number: seq, Epoch: epoch,
    From: sender, At: new Date(ts).toLocaleString("en", { hour12: false }), Message: mid, Size: text && bytes(new TextEncoder().encode(text).length),
  });
  const data = make("pre", "", text ? stringify(parse(text), 2) : "no data");
  data.tabIndex = 0;
  const tools = make("div", "row", button("Copy data", "quiet", ({ currentTarget }) => copy(text, currentTarget)));
  const dialog = sheet(name(event), list, data, tools);
  if (isService() && mid) tools.append(button("Trace its delivery", "quiet", () => {
    dialog.close();
    location.hash = `#/operations?${new URLSearchParams({ trace: mid })}`;
  }));
}

// ---- statistics

let before = null;
const rates = [];

async function showStats() {
  if (!client.isConnected() || document.hidden || !shown) return;
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
    at("stat-node").replaceChildren("node ", name(stats.node, ""));
    const now = performance.now();
    // Counters start anew with the gateway; two looks in quick succession say nothing of a rate.
    if (before && total >= before.total && now - before.now > STATS_EVERY / 4) {
      showRate((Math.max(0, total - before.total - OWN_MESSAGES) * 1000) / (now - before.now));
    }
    if (!before || now - before.now > STATS_EVERY / 4 || total < before.total) before = { total, now };
    roomStats(stats.cluster?.rooms ?? stats.rooms);
  } catch (error) {
    if (client.isConnected()) feed.note(`statistics: ${error.message}`, "warning");
  }
}

function showRate(rate) {
  rates.push(rate);
  if (rates.length > SAMPLES) rates.shift();
  at("stat-rate").textContent = amount(rate);
  const top = Math.max(...rates, 1);
  const points = rates.map((value, index) => {
    const x = 120 - (rates.length - 1 - index) * (120 / (SAMPLES - 1));
    return `${x.toFixed(1)},${(34 - (value / top) * 30).toFixed(1)}`;
  });
  const [line, area] = [at("spark").querySelector(".line"), at("spark").querySelector(".area")];
  line.setAttribute("d", `M${points.join("L")}`);
  area.setAttribute("d", `M${points.join("L")}L120,36L${points[0].split(",")[0]},36Z`);
}

// ---- begin

const curl = (bearer) => `curl ${location.origin}/api/v1/broadcast \\
  -H "Authorization: Bearer ${bearer}" \\
  -H "Content-Type: application/json" \\
  -d '{"room": "chat:42", "event": "message:new", "data": {"text": "hello"}}'`;

function listen() {
  client.on("*", (event) => {
    if (event.event === "typing:start" || event.event === "typing:stop") showTyping(event);
    else feed.add(event);
  });
  client.on("connected", ({ reconnected }) => {
    before = null;
    if (reconnected) feed.note("The connection is back; rooms are resumed");
    showStats();
  });
  client.on("disconnected", ({ code, reason }) => {
    typists.clear();
    at("typing").replaceChildren();
    if (code !== 1000) feed.note(`The connection ended: ${reason || `code ${code}`}`, "warning");
  });
  client.on("reconnect:failed", ({ attempts }) => feed.note(`No connection after ${attempts} tries; trying on, less often`, "warning"));
  client.on("lost", ({ room, of, from, to, reason }) => {
    const where = room ?? (of === "user" ? "you" : "organisation");
    feed.note(`${where}: events from #${from}${to === undefined ? "" : ` to #${to}`} are gone (${reason})`, "warning");
  });
  client.on("error", (error) => feed.note(error.message, "warning"));
}

export function mount() {
  listen();
  mountRooms((text) => feed.note(text, "warning"), showStats);
  onIdentity(showIdentity);
  at("publish").addEventListener("submit", publish);
  at("publish-data").addEventListener("input", tellTyping);
  at("join").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = at("join-room");
    joinRoom(field.value.trim());
    at("publish-room").value = field.value.trim();
    field.value = "";
  });
  const filter = () => feed.filter(at("feed-pattern").value.trim(), at("feed-scope").value);
  at("feed-pattern").addEventListener("input", filter);
  at("feed-scope").addEventListener("change", filter);
  at("feed-pause").addEventListener("click", ({ target }) => {
    if (feed.paused) feed.resume();
    else feed.pause();
    target.ariaPressed = String(feed.paused);
  });
  at("feed-clear").addEventListener("click", () => feed.clear());
  at("curl").textContent = curl("$TOKEN");
  at("curl-copy").addEventListener("click", ({ currentTarget }) => copy(curl(token()), currentTarget));
  setInterval(showStats, STATS_EVERY);
  document.addEventListener("visibilitychange", showStats);
}

export function show() {
  shown = true;
  if (identity.org) showStats();
}

export function hide() {
  shown = false;
}
