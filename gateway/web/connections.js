// Operations: the open connections, and how to end them.

import { toast } from "./alerts.js";
import { client, identity } from "./connection.js";
import { acting, at, bytes, button, confirm, debounce, definitions, duration, failure, make, name, placeholder, sheet, table, timeElement, whole } from "./dom.js";
import { rest } from "./rest.js";

const LIMIT = 50;
const EVERY = 5_000;

let page = [];
let next = null;
let asked = 0;

export function mountConnections() {
  const filter = (id, title) => Object.assign(make("input"), { id, type: "search", placeholder: title, ariaLabel: title, autocomplete: "off" });
  const form = make("form", "row wrap tools", filter("by-user", "User"), filter("by-room", "Room"));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", debounce(loadConnections, 300));
  const list = Object.assign(make("div", "scroll"), { id: "connections", tabIndex: 0, role: "region", ariaLabel: "Connections" });
  list.append(placeholder("loading", "Loading…"));
  const more = acting("Load more", "quiet", () => load(true));
  Object.assign(more, { id: "connections-more", hidden: true });
  setInterval(() => {
    if (list.isConnected && list.checkVisibility() && !document.hidden && client.isConnected() && page.length <= LIMIT) loadConnections();
  }, EVERY);
  return make("section", "card", make("div", "row between wrap", make("h2", "", "Connections"), form), list, make("div", "row end", more));
}

export function loadConnections() {
  return load(false);
}

async function load(more) {
  const mine = ++asked;
  try {
    const query = { limit: LIMIT, user: at("by-user").value.trim(), room: at("by-room").value.trim(), cursor: more ? next : undefined };
    const answer = await rest("GET", "connections", { query });
    if (mine !== asked) return;
    page = more ? [...page, ...answer.connections] : answer.connections;
    next = answer.next ?? null;
    draw(answer.missing);
  } catch (error) {
    if (mine === asked) at("connections").replaceChildren(failure(error, loadConnections));
  }
}

const transport = ({ transport: named, subprotocol }) => named ?? (subprotocol?.startsWith("trireme.") ? "websocket" : subprotocol);
const codec = ({ subprotocol }) => (subprotocol?.startsWith("trireme.") ? subprotocol.split(".").at(-1) : "json");
const queued = ({ queue }) => (queue ? (queue.messages ? `${whole(queue.messages)} · ${bytes(queue.bytes)}` : "empty") : "–");

function draw(missing) {
  at("connections-more").hidden = !next;
  if (!page.length) return at("connections").replaceChildren(placeholder("empty", "No connection matches", ""));
  const rows = page.map((each) => {
    const open = button("", "link", () => openConnection(each));
    open.append(name(each.user ?? "a service", ""));
    const own = each.connection === identity.connection;
    return [own ? make("span", "row wrap", open, make("span", "chip", "this tab")) : open, name(each.roles?.join(", "), ""), timeElement(each.connected_at), name(each.ip, ""), transport(each), codec(each), queued(each),
      whole(each.rooms.length), `${whole(each.messages_in)} / ${whole(each.messages_out)}`, name(each.node, "")];
  });
  const columns = [["User"], ["Roles"], ["Since", "number"], ["Address"], ["Transport"], ["Codec"], ["Queue", "number"], ["Rooms", "number"], ["In / out", "number"], ["Node"]];
  at("connections").replaceChildren(table("Connections", columns, rows));
  if (missing?.length) at("connections").prepend(make("p", "note bad", `No answer from: ${missing.join(", ")}`));
}

async function openConnection(known) {
  const body = make("div", "stack");
  const dialog = sheet("Connection", body);
  const show = (each) => {
    const metadata = each.meta ?? each.metadata;
    const list = definitions(make("dl"), { User: each.user ?? "a service", Organisation: each.org, Roles: each.roles?.join(", "), Since: timeElement(each.connected_at), "Last heard of": timeElement(each.last_activity),
      Address: each.ip, "User agent": each.user_agent, "Client id": each.client_id, Transport: transport(each), Codec: codec(each), Queue: queued(each), "Messages in": whole(each.messages_in), "Messages out": whole(each.messages_out),
      Metadata: metadata && make("code", "", JSON.stringify(metadata)), Filter: each.events?.join(", "), Rooms: each.rooms.map(({ room }) => room).join(", "), Node: each.node,
      "Token ends": each.expires ? `${new Date(each.expires).toLocaleString()} (in ${duration(Math.max(0, (each.expires - Date.now()) / 1000))})` : "never", Connection: each.connection });
    const close = (done) => async () => { if (await done) { dialog.close(); loadConnections(); } };
    const tools = make("div", "row wrap", acting("Disconnect", "danger", () => close(disconnect(each))()), each.user === undefined ? null : acting("Revoke the user's tokens", "danger", () => close(revoke(each))()));
    body.replaceChildren(list, tools);
  };
  show(known);
  try {
    show(await rest("GET", `connections/${encodeURIComponent(known.connection)}`));
  } catch (error) {
    if (dialog.open) body.prepend(make("p", "note bad", error.message));
  }
}

async function disconnect({ connection, user }) {
  const who = user ?? "a service";
  if (!(await confirm(`Disconnect ${who}?`, "The connection ends, and its client does not come back by itself.", "Disconnect"))) return false;
  return done(rest("POST", `connections/${encodeURIComponent(connection)}/disconnect`, { body: {} }), `${who} is disconnected`);
}

async function revoke({ user }) {
  if (!(await confirm(`Revoke all tokens of ${user}?`, "Every connection of this user ends, on all nodes, and tokens issued until now are refused.", "Revoke"))) return false;
  return done(rest("POST", "auth/revoke", { body: { user } }), `The tokens of ${user} are revoked`);
}

async function done(request, text) {
  try {
    await request;
    toast("success", text);
    return true;
  } catch (error) {
    toast("error", "That did not work", error.message);
    return false;
  }
}
