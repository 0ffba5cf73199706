// The rooms that this tab is in: those that the user joined, and for a service all others that somebody is in.

import { client, isService, onIdentity } from "./connection.js";
import { at, debounce, make, name } from "./dom.js";

const FIRST = ["chat:42"]; // the room of the README, the quickstart and `gateway serve --dev`
const FOLLOWED = 200; // rooms joined because somebody else is in them
const OWN = /^executions?(:|$)/; // the page of agents is in the one that has them all
const LISTED = 40;
const NAMED = 4; // users named with a room

const joined = new Map(); // room → {seq, members, users, followed}
const joining = new Set();
const refused = new Set(); // rooms that could not be followed are not asked for again on this connection
let warn = () => {};
let changed = () => {};

const chosen = () => [...joined].filter(([, { followed }]) => !followed).map(([room]) => room);
const redraw = debounce(draw, 200);

function keepChosen() {
  sessionStorage.setItem("rooms", JSON.stringify(chosen()));
}

function draw() {
  const rooms = [...joined].sort(([a, x], [b, y]) => Number(x.followed) - Number(y.followed) || a.localeCompare(b));
  const items = rooms.slice(0, LISTED).map(([room, { seq, members, users, followed }]) => {
    const leave = make("button", "", "×");
    leave.type = "button";
    leave.ariaLabel = `Leave ${room}`;
    leave.addEventListener("click", () => leaveRoom(room));
    const about = [members && `${members} here`, `#${seq}`].filter(Boolean).join(" · ");
    const present = [...(users ?? [])];
    const who = present.slice(0, NAMED).map((user) => name(user, "user"));
    if (present.length > NAMED) who.push(make("span", "", `+${present.length - NAMED}`));
    return make("li", followed ? "followed" : "", name(room, "room"), make("small", "", about), leave, who.length ? make("div", "present", ...who) : null);
  });
  if (rooms.length > LISTED) items.push(make("li", "more", `and ${rooms.length - LISTED} more`));
  at("rooms").replaceChildren(...items);
  at("room-names").replaceChildren(...rooms.slice(0, LISTED).map(([room]) => Object.assign(make("option"), { value: room })));
}

export async function joinRoom(room, followed = false) {
  joining.add(room);
  try {
    const { seq, users } = await client.join(room, { presence: !followed }).catch((error) => {
      if (error.code !== 202 && error.code !== 103) throw error;
      return client.join(room); // who may join need not be allowed to see who is there
    });
    joined.set(room, { seq, users: users && new Set(users), followed });
    draw();
    keepChosen();
    if (!followed) changed();
  } catch (error) {
    if (followed) refused.add(room);
    else warn(`${room}: ${error.message}`);
  } finally {
    joining.delete(room);
  }
}

async function leaveRoom(room) {
  joined.delete(room);
  draw();
  keepChosen();
  await client.leave(room).catch((error) => warn(`${room}: ${error.message}`));
}

/** Takes in how many are in which room; follows the rooms that are new. @param {Record<string, number>} members */
export function roomStats(members) {
  if (typeof members !== "object") return;
  for (const [room, place] of joined) place.members = members[room];
  redraw();
  if (!at("follow").checked || at("follow-label").hidden) return;
  for (const [room, { followed }] of joined) {
    if (followed && (members[room] ?? 0) <= 1) leaveRoom(room); // only this tab is left in it
  }
  const left = Math.max(0, FOLLOWED - (joined.size - chosen().length));
  const others = Object.keys(members).filter((room) => !joined.has(room) && !joining.has(room) && !refused.has(room) && !OWN.test(room));
  for (const room of others.slice(0, left)) joinRoom(room, true);
}

export function mountRooms(onWarning, onChange) {
  [warn, changed] = [onWarning, onChange];
  at("follow").checked = localStorage.getItem("follow") !== "no";
  at("follow").addEventListener("change", () => {
    localStorage.setItem("follow", at("follow").checked ? "yes" : "no");
    if (!at("follow").checked) for (const [room, { followed }] of joined) followed && leaveRoom(room);
    else changed();
  });
  onIdentity(() => { at("follow-label").hidden = !isService(); });
  client.on("connected", ({ reconnected }) => {
    refused.clear();
    if (!reconnected) for (const room of JSON.parse(sessionStorage.getItem("rooms")) ?? FIRST) joinRoom(room);
  });
  client.on("disconnected", ({ reconnect }) => {
    if (reconnect) return;
    joined.clear(); // the next connection joins what was chosen
    draw();
  });
  client.on("error", (error) => {
    if (joined.delete(error.room)) draw();
  });
  client.on("presence", ({ room, event, user }) => {
    const place = joined.get(room);
    place?.users?.[event === "join" ? "add" : "delete"](user);
    if (place) redraw();
  });
  client.on("*", ({ room, seq }) => {
    const place = joined.get(room);
    if (!place || seq === undefined) return;
    place.seq = seq;
    redraw();
  });
}
