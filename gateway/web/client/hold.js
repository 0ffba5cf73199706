// What the hooks for React and Vue share: rooms that several components hold, and the state of the connection.

const held = new WeakMap(); // client → room → {count, options, tell: Set, outcome}

/** Keeps `client` in `room` until the returned function is called, together with others that hold it; the first one's
 *  options count. `tell` gets `{joined, error}`, at once and whenever that changes. */
export function holdRoom(client, room, options, tell) {
  if (!held.has(client)) held.set(client, new Map());
  const rooms = held.get(client);
  if (!rooms.has(room)) rooms.set(room, begin(client, room, options));
  const hold = rooms.get(room);
  hold.count += 1;
  hold.tellers.add(tell);
  tell(hold.outcome);
  return () => {
    hold.tellers.delete(tell);
    hold.count -= 1;
    // React's strict mode, and a page that is exchanged for another, hold it again at once.
    setTimeout(() => hold.count === 0 && rooms.get(room) === hold && (rooms.delete(room), hold.end()), 0);
  };
}

function begin(client, room, options) {
  const hold = { count: 0, tellers: new Set(), outcome: { joined: null, error: null } };
  const say = (joined, error) => {
    hold.outcome = { joined, error };
    for (const tell of hold.tellers) tell(hold.outcome);
  };
  let wanted = true;
  const join = () => client.join(room, options).then((joined) => wanted && say(joined, null), (error) => wanted && say(null, error));
  if (client.isConnected()) join();
  const off = client.on("connected", () => hold.outcome.joined || join()); // afterwards the client rejoins by itself
  const offState = client.on("state", ({ state }) => state === "disconnected" && say(null, null)); // it has forgotten
  hold.end = () => {
    wanted = false;
    off();
    offState();
    if (client.isConnected()) client.leave(room).catch(() => {});
  };
  return hold;
}

/** What a page shows of the connection. Equal as long as nothing has changed. */
export function watchConnection(client, changed) {
  const names = ["state", "connected", "degraded"];
  for (const name of names) client.on(name, changed);
  return () => names.forEach((name) => client.off(name, changed));
}

export const connectionOf = (client) => ({ state: client.getState(), transport: client.transport, degraded: client.degraded });

export const same = (one, other) => one.state === other.state && one.transport === other.transport && one.degraded === other.degraded;
