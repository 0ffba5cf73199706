// The one live connection of this tab, its token, and what its token may.

import { Trireme } from "/client.js";
import { claims, keep, token } from "./token.js";

// ---- the token: from the address, then kept for this tab only

function takeFromAddress() {
  const brought = new URLSearchParams(location.hash.slice(1)).get("token");
  if (brought) history.replaceState(null, "", location.pathname + location.search); // out of sight and of bookmarks
  return brought;
}

let offered = takeFromAddress(); // until it is asked for
if (offered && document.documentElement.dataset.opened === "directly") {
  keep(offered); // the gateway has it from the browser that no other page led here
  offered = null;
}
if (offered === token()) offered = null;

/** The token that another page brought and nobody has agreed to yet, once. */
export function takeOffered() {
  const taken = offered;
  offered = null;
  return taken;
}

/** Calls `action` when another page puts a token into the address of this window, which whoever opened it can do. */
export function onOffer(action) {
  addEventListener("hashchange", () => {
    const other = takeFromAddress();
    if (!other || other === token()) return;
    offered = other;
    action();
  });
}

// ---- the connection

export const client = new Trireme({ token: () => token() });

/** What the gateway says of this connection; empty while there is none. */
export let identity = {};
const watchers = new Set();

/** Calls `watcher` with the identity whenever it changes. */
export function onIdentity(watcher) {
  watchers.add(watcher);
  if (identity.org) watcher(identity);
}

export const isService = () => ["service", "admin"].some((role) => identity.roles?.includes(role));

function tell(next) {
  identity = next;
  for (const watcher of watchers) watcher(identity);
}

client.on("connected", async ({ reconnected }) => {
  const { roles, ...known } = await client.info().catch(() => ({}));
  if (known.org) tell({ ...known, roles: roles ?? claims(token()).roles ?? [], reconnected }); // streams know no roles
});
client.on("disconnected", ({ reconnect }) => {
  if (!reconnect) tell({});
});

export function connect() {
  client.connect().catch(() => {}); // its events tell why
}

/** Joins a room for one of the pages, now and after each new connection, and tells when it starts or fails.
 *  @param {string} room @param {(error?: Error) => void} told */
export function follow(room, told) {
  client.on("connected", async ({ reconnected }) => {
    if (reconnected) return told(); // the client itself is back in its rooms
    try {
      await client.join(room);
      told();
    } catch (error) {
      told(error);
    }
  });
}
