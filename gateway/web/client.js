/**
 * The browser client of Trireme: one ES module, no dependencies, no build step.
 *
 *     import { Trireme } from "/client.js";
 *     const t = new Trireme({ token });
 *     t.on("message:new", (e) => console.log(e.sender, e.data.text));
 *     await t.connect();
 *     await t.join("chat:42");
 *     await t.publish("chat:42", "message:new", { text: "hi" });
 *
 * It speaks `trireme.v1.json`, comes back by itself after a lost connection, has its rooms and its filter back with
 * one command (the gateway's resume token) where it left them, and drops what it has already seen. What the gateway could not keep is announced by the event `lost`;
 * `t.join(lost.room, { since: { epoch: lost.epoch, seq: lost.from - 1 } })` asks for it again.
 * Durations are milliseconds here (the gateway's own messages use seconds).
 *
 * @typedef {{epoch: string, seq: number}} Position  a place in a room's order
 *
 * @typedef {{event: string, room?: string, data?: any, seq?: number, epoch?: string, ts: number, mid: string,
 *   sender?: string, critical?: boolean}} RoomEvent  what handlers get; without `room` it came to the organisation,
 *   user or connection; `seq` has no holes in its room, and only critical events overtake others; `ts` is in
 *   milliseconds since 1970 UTC, `mid` is the message's id
 *
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} [token]  a function is asked before every connection
 *   attempt, and again before an open connection's token expires
 * @property {"query" | "ticket" | "message"} [auth]  how the token travels: in the address; exchanged for a ticket
 *   of one use, so that it stays out of addresses and logs; or as first message (the gateway's `auth.in_band`)
 * @property {{base?: number, factor?: number, maximum?: number, tries?: number}} [backoff]  the n-th retry waits a
 *   random time up to `min(maximum, base * factor ** (n - 1))`; after `tries` failed ones comes `reconnect:failed`
 * @property {number} [keepAlive]       a ping goes out this often
 * @property {number} [pongTimeout]     no sign of life this long after a ping: the connection is given up
 * @property {number} [slowPong]        no pong this long after a ping: degraded
 * @property {number} [connectTimeout]  one connection attempt, from asking for the token to the welcome
 * @property {number} [commandTimeout]  every command settles within this time, waiting in the queue included
 * @property {number} [queue]           commands that may wait while there is no connection; 0: none
 * @property {number} [pending]         commands that may wait for their reply
 * @property {any} [WebSocket]          a WebSocket class, where there is no global one
 * @property {typeof fetch} [fetch]     for tickets, and for the reason of a refused connection
 */

const DEFAULTS = {
  auth: "query", keepAlive: 25_000, pongTimeout: 10_000, slowPong: 2_000,
  connectTimeout: 10_000, commandTimeout: 15_000, queue: 100, pending: 1_000,
  WebSocket: globalThis.WebSocket, fetch: globalThis.fetch?.bind(globalThis),
};
const BACKOFF = { base: 500, factor: 2, maximum: 30_000, tries: 10 };
const STABLE = 5_000; // a connection that ended sooner does not take the wait before the next one back to `base`
const DEGRADED_AFTER = 3; // failed retries after which delivery is called degraded
const MAX_RETRY_AFTER = 300_000; // the longest wait that a gateway may ask for
const REMEMBERED = 2_000; // message ids kept for dropping duplicates
const OWN_EVENTS = "state connected disconnected reconnecting reconnect:failed error lost presence degraded".split(" ");

/** Why something failed. `code` is the gateway's error number, or a word when the client itself gave up:
 *  `not_connected`, `disconnected`, `timeout`, `queue_full`, `refused`, `failed`, `invalid`. */
export class TriremeError extends Error {
  /** @param {number | string} code @param {string} message @param {object} [more]  room, retryAfter (ms), cause */
  constructor(code, message, { room, retryAfter, cause } = {}) {
    super(message, { cause });
    Object.assign(this, { name: "TriremeError", code, room, retryAfter });
  }
}

/** Whether a connection closed with `code` is to be opened again. @param {number} code */
export function shouldReconnect(code) {
  return [1001, 1006, 1011, 1012, 1013, 1014].includes(code) || (code >= 4000 && code <= 4499);
}

/** The test for a pattern (`*` is any run of characters, `all` is `*`), or null for a plain name. */
function compile(pattern) {
  if (pattern === "all") return /^/;
  const parts = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return parts.length > 1 ? new RegExp(`^${parts.join(".*")}$`, "s") : null;
}

function joinMessage(room, options, since) {
  const { events, overflow, key, presence } = options;
  return { t: "join", room, data: { since: since ?? undefined, events, overflow, key, presence } };
}

export class Trireme {
  #address;
  #options;
  /** @type {"disconnected" | "connecting" | "connected" | "reconnecting" | "failed"} */
  #state = "disconnected";
  #degraded = "";
  #handlers = []; // {name, match, handler}; replaced, never changed, so that handlers may add and remove some
  #opening = null; // what callers of connect() wait for: {promise, resolve, reject}

  #generation = 0; // counts attempts and ends: what belongs to an earlier one is ignored
  #socket = null;
  #timers = new Map(); // name → timer; all end with the connection or attempt
  #welcome = null; // data of the last `connected`
  #resume = null; // resume token of the last connection that had all its rooms
  #closing = null; // the gateway's `closing`, when it announced the end
  #ready = false; // filter and rooms are as they were: commands may go out
  #since = 0; // when the connection was established
  #heard = 0; // messages that came in
  #attempt = 0; // retries since the last connection
  #flaps = 0; // connections in a row that did not last

  #nextId = 1;
  #pending = new Map(); // id → command, waiting for its reply
  #queue = new Set(); // commands waiting for a connection
  #rooms = new Map(); // name → {events, overflow, key, position}
  #organisation = { position: null, interrupted: false }; // what comes without a room but with a number
  #filter = null; // {events, except, narrowed: by a subscribe}, once it was changed
  #recent = new Set(); // message ids

  /** @param {string | URL | Options} [url]  default: `/ws` of the page's origin; outside a page it must be given
   *  @param {Options} [options] */
  constructor(url, options) {
    if (url && typeof url === "object" && !(url instanceof URL)) [url, options] = [undefined, url];
    this.#address = new URL(/** @type {string | URL} */ (url) ?? "/ws", globalThis.location?.href);
    this.#address.protocol = this.#address.protocol.replace("http", "ws");
    this.#options = { ...DEFAULTS, ...options, backoff: { ...BACKOFF, ...options?.backoff } };
    if (!this.#options.WebSocket) throw new TypeError("no WebSocket here: pass one as options.WebSocket");
  }

  // ---- connection and events

  /** Connects, and keeps connected until `disconnect()`. While it waits for the next retry, tries at once.
   *  @returns {Promise<object>} the gateway's welcome: connection, org, user, node, heartbeat, limits, expires
   *  @throws {TriremeError} when the gateway refuses for good or all tries failed */
  connect() {
    if (this.isConnected()) return Promise.resolve(this.#welcome);
    const opening = (this.#opening ??= {});
    opening.promise ??= new Promise((resolve, reject) => Object.assign(opening, { resolve, reject }));
    if (this.#idle()) {
      this.#attempt = 0;
      this.#setState("connecting");
      this.#open();
    } else if (this.#timers.has("retry")) this.#open();
    return opening.promise;
  }

  /** Closes for good: no reconnect, rooms and filter forgotten, waiting commands rejected. */
  disconnect() {
    this.#rooms.clear();
    this.#recent.clear();
    this.#filter = this.#welcome = this.#resume = this.#organisation.position = null;
    if (this.#idle()) this.#setState("disconnected");
    else this.#ended(1000, "disconnect() was called");
  }

  isConnected() { return this.#state === "connected"; }
  getState() { return this.#state; }
  /** Calls `handler` for every event named `name`, or matching it (`task:*`, `*`). Names of the client's own:
   *
   *  - `state` {state, previous}; `connected` the welcome and `reconnected`; `disconnected` {code, reason, reconnect}
   *  - `reconnecting` {attempt, delay, code, reason}; `reconnect:failed` {attempts, code, reason}
   *  - `degraded` {degraded, reason}: live delivery is slow, or long interrupted
   *  - `error` a TriremeError that no command's promise carries
   *  - `presence` {room, event: "join" or "leave", user}: who comes and goes, where `join` asked for it; after an
   *    interruption one for everybody who did meanwhile
   *  - `lost` {room, epoch, from, to, reason}: events that this client did not get; `to` is absent when unknown
   *
   *  A room's event that bears one of those names reaches handlers of patterns only.
   *  @param {string} name @param {(event: any) => void} handler
   *  @returns {() => void} takes the handler away again */
  on(name, handler) {
    if (typeof handler !== "function") throw new TypeError("the handler must be a function");
    this.#handlers = [...this.#handlers, { name, match: compile(name), handler }];
    return () => this.off(name, handler);
  }

  /** Takes one handler away, or without `handler` all of that name. */
  off(name, handler) {
    this.#handlers = this.#handlers.filter((entry) => entry.name !== name || (handler && entry.handler !== handler));
  }

  #emit(name, value, own = true) {
    for (const { name: wanted, match, handler } of this.#handlers) {
      if (own || !match ? wanted !== name || own !== OWN_EVENTS.includes(name) : !match.test(name)) continue;
      try {
        handler(value);
      } catch (error) {
        queueMicrotask(() => { throw error; }); // reported like any uncaught error, without stopping the others
      }
    }
  }

  #setState(state) {
    const previous = this.#state;
    this.#state = state;
    if (state !== previous) this.#emit("state", { state, previous });
  }

  #setDegraded(reason) {
    const changed = reason !== this.#degraded;
    this.#degraded = reason;
    if (changed) this.#emit("degraded", { degraded: reason !== "", reason });
  }

  #idle() { return this.#state === "disconnected" || this.#state === "failed"; }

  // ---- commands: all reject with the gateway's error or the client's own reason, a TriremeError

  /** Any command of the protocol, such as `{t: "ack", room, seq}`; `v` and `id` are added.
   *  @param {object} message @returns {Promise<any>} the gateway's reply */
  async send(message) {
    if (this.#ready) return this.#command(message);
    if (this.#idle()) throw new TriremeError("not_connected", `${message.t}: not connected`);
    const limit = this.isConnected() ? this.#options.pending : this.#options.queue;
    if (this.#queue.size >= limit) throw new TriremeError("queue_full", `${message.t}: not connected, queue is full`);
    return this.#command(message, this.#options.commandTimeout, true);
  }

  /** Joins a room; its events come from now on, after a reconnect too. With `since`, those after it come first.
   *  `overflow` is for times when this client is too slow: `disconnect`, `drop_oldest`, `replay`, or `conflate`,
   *  which keeps the newest event for each value of the field `key` of `data`. With `presence` the reply tells the
   *  `users` in the room, and the event `presence` who comes and goes.
   *  @param {string} room
   *  @param {{events?: string[], since?: Position, overflow?: string, key?: string, presence?: boolean}} [options]
   *  @returns {Promise<{room: string, epoch: string, seq: number, recovered?: boolean, replayed?: number,
   *    users?: string[]}>} */
  async join(room, options = {}) {
    const { epoch, seq, data } = await this.send(joinMessage(room, options, options.since));
    return { room, epoch, seq, ...data };
  }

  /** Leaves a room. @param {string} room */
  async leave(room) {
    // A room of a lost connection is simply not rejoined, for which the others have to be rejoined one by one.
    if (!this.#rooms.delete(room) || this.isConnected()) await this.send({ t: "leave", room });
    else this.#resume = null;
  }

  /** Narrows this connection's filter to these patterns; later calls add to it.
   *  @param {string | string[]} events @returns {Promise<{events: string[], except: string[]}>} */
  async subscribe(events) { return (await this.send({ t: "subscribe", data: { events: [events].flat() } })).data; }
  /** Takes patterns away from this connection's filter. @param {string | string[]} events */
  async unsubscribe(events) { return (await this.send({ t: "unsubscribe", data: { events: [events].flat() } })).data; }
  /** Publishes to a room (null: the whole organisation, for services). Repeated with the same `mid`, it is seen
   *  once only: the way to repeat one that was cut off by a lost connection. Services may mark it as critical.
   *  @param {string | null} room @param {string} event @param {any} [data]
   *  @param {{mid?: string, critical?: boolean}} [options]
   *  @returns {Promise<{room: string, seq: number, epoch: string, mid: string}>} its place in the room's order */
  async publish(room, event, data, { mid, critical } = {}) {
    const reply = await this.send({ t: "publish", room: room ?? undefined, event, data, mid, critical });
    return { room, seq: reply.seq, epoch: reply.epoch, mid: reply.mid };
  }

  /** Sends to all connections of a user. @returns {Promise<{mid: string, connections: number}>} */
  async sendToUser(user, event, data) {
    const reply = await this.send({ t: "send", event, data: { user, data } });
    return { mid: reply.mid, ...reply.data };
  }

  /** Calls a handler of the backend. @returns {Promise<any>} its result */
  async call(name, data) { return (await this.send({ t: "call", event: name, data })).data; }
  /** Tells the others of a room that this user types. @param {string} room @param {"start" | "stop"} [state] */
  async typing(room, state = "start") { await this.send({ t: "typing", room, data: { state } }); }
  /** @returns {Promise<{ts: number, data: any, rtt: number}>} the gateway's time, `data` echoed, round trip in ms */
  async ping(data) {
    const sent = performance.now();
    const pong = await this.send({ t: "ping", data });
    return { ts: pong.ts, data: pong.data, rtt: performance.now() - sent };
  }

  /** What the gateway knows of this connection. */
  async info() { return (await this.send({ t: "info" })).data; }
  /** Statistics of the own organisation. */
  async stats() { return (await this.send({ t: "stats" })).data; }
  /** A page of a room's history, oldest first: the newest `limit` events, or those after `since`.
   *  @param {string} room @param {{since?: Position, limit?: number}} [options]
   *  @returns {Promise<{epoch: string, seq: number, events: RoomEvent[], more: boolean, complete: boolean}>} */
  async history(room, { since, limit } = {}) {
    const { epoch, seq, data } = await this.send({ t: "history", room, data: { since, limit } });
    return { epoch, seq, ...data };
  }

  /** Who is in a room. @returns {Promise<{members: {user: string, connections: number}[], connections: number}>} */
  async presence(room) { return (await this.send({ t: "presence", room })).data; }
  /** Gives the open connection a new token. @returns {Promise<number | undefined>} its expiry, ms since 1970 */
  async refresh(token) {
    const { data } = await this.send({ t: "refresh", data: { token: token ?? (await this.#token()) } });
    this.#renewBefore(data?.expires);
    return data?.expires;
  }

  #command(message, timeout = this.#options.commandTimeout, queued = false) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      const command = { id, message, text: JSON.stringify({ v: 1, ...message, id }), resolve, reject };
      command.timer = setTimeout(() => {
        const why = this.#queue.has(command) ? "no connection" : "no reply";
        this.#finish(command, new TriremeError("timeout", `${message.t}: ${why} within ${timeout} ms`));
      }, timeout);
      if (queued) this.#queue.add(command);
      else this.#transmit(command);
    });
  }

  #transmit(command) {
    const { id, message, text } = command;
    const limit = this.#welcome.limits?.message_bytes; // the gateway closes the connection of who exceeds it
    const refuse = (code, why) => this.#finish(command, new TriremeError(code, `${message.t}: ${why}`));
    const full = this.#pending.size >= this.#options.pending && message.t !== "ping";
    if (full) return refuse("queue_full", "too many commands await their reply");
    if (text.length * 3 > limit && new TextEncoder().encode(text).length > limit) {
      return refuse(404, `larger than the ${limit} bytes that the gateway takes`);
    }
    this.#pending.set(id, command);
    this.#socket.send(text);
  }

  #finish(command, error, reply) {
    clearTimeout(command.timer);
    this.#pending.delete(command.id);
    this.#queue.delete(command);
    if (error) command.reject(error);
    else command.resolve(reply);
  }

  // ---- what the gateway says

  #receive(text) {
    this.#heard += 1;
    let message;
    try {
      message = JSON.parse(text);
    } catch (cause) {
      return this.#emit("error", new TriremeError("invalid", "the gateway sent something that is not JSON", { cause }));
    }
    const { t, room, data } = message;
    const command = this.#pending.get(message.id);
    if (t === "event") this.#event(message);
    else if (t === "connected") this.#connected(data ?? {});
    else if (t === "closing") [this.#closing, this.#ready] = [message, false]; // commands wait for the next connection
    else if (t === "lost") this.#lost(message);
    else if (t === "presence") this.#present(room, [message.event, data.user]);
    else if (t === "error") {
      const retryAfter = data?.retry_after * 1000 || undefined;
      const error = new TriremeError(message.code, message.message, { room, retryAfter });
      if (command) this.#finish(command, error);
      else this.#emit("error", error);
    } else if (command && (t === "reply" || t === "pong")) {
      // At once, not where the promise is awaited: the next message may belong to the room.
      const { t: kind } = command.message;
      if (kind === "join" && room === undefined) this.#resumed(command.message.data?.positions ?? {}, data ?? {});
      else if (kind === "join") this.#joined(command.message, message);
      else if (kind === "leave") this.#rooms.delete(command.message.room);
      else if (kind === "subscribe") this.#filter = { ...data, narrowed: true };
      else if (kind === "unsubscribe") this.#filter = { narrowed: false, ...this.#filter, ...data };
      else if (kind === "refresh") this.#left(data?.left ?? []);
      this.#finish(command, null, message);
    }
  }

  #lost({ room, epoch, data: { next, ...data } }) {
    const entry = room === undefined ? this.#organisation : this.#rooms.get(room);
    if (entry && next) entry.position = next; // the broker lost data: the old order is of no use any more
    this.#emit("lost", { room, epoch, ...data });
  }

  /** Tells who came or left, unless that is known; `users` are all who are there now. */
  #present(room, ...changes) {
    const users = this.#rooms.get(room)?.users;
    for (const [event, user] of changes) {
      if (!users || users.has(user) === (event === "join")) continue;
      users[event === "join" ? "add" : "delete"](user);
      this.#emit("presence", { room, event, user });
    }
  }

  #joined({ room, data: { since, ...options } }, { epoch, seq, data: outcome }) {
    const { position: known, users: before } = this.#rooms.get(room) ?? {};
    const now = outcome?.users;
    let position = { epoch, seq };
    if (since && outcome?.replayed > 0) position = outcome.recovered ? since : { epoch, seq: 0 }; // the replay follows
    else if (!since && known?.epoch === epoch) position = known; // joined again: the order goes on
    this.#rooms.set(room, { ...options, position, users: now && (before ?? new Set(now)) });
    if (now) {
      const gone = [...(before ?? [])].filter((user) => !now.includes(user)).map((user) => ["leave", user]);
      this.#present(room, ...gone, ...now.map((user) => ["join", user]));
    }
    // Of the same epoch the gateway itself says exactly what is lost.
    if (since && outcome?.recovered === false && since.epoch !== epoch) {
      this.#emit("lost", { room, epoch: since.epoch, from: since.seq + 1, to: undefined, reason: "epoch" });
    }
  }

  /** The rooms that a resume token brought back, each from `positions`, and the filter. */
  #resumed(positions, { rooms = {}, events = ["*"], except = [] }) {
    if (this.#filter || events.join() !== "*" || except.length) {
      this.#filter = { narrowed: events.join() !== "*", ...this.#filter, events, except };
    }
    for (const [room, { epoch, seq, code, ...data }] of Object.entries(rooms)) {
      const entry = this.#rooms.get(room);
      if (entry && code === undefined) {
        this.#joined({ room, data: { ...entry, position: undefined, since: positions[room] } }, { epoch, seq, data });
      }
    }
  }

  #left(rooms) {
    for (const room of rooms) {
      this.#rooms.delete(room);
      this.#emit("error", new TriremeError(202, `${room}: the new token no longer permits it`, { room }));
    }
  }

  #event({ v, t, ...event }) {
    const { room, seq, epoch, mid, critical } = event;
    const entry = room === undefined ? this.#organisation : this.#rooms.get(room);
    if (!entry && !this.#ready) return; // brought back unasked, and about to be left
    if (entry && seq !== undefined) {
      const next = entry.position?.epoch === epoch ? entry.position.seq + 1 : 0;
      if (seq < next) return;
      if (next && seq > next && entry.interrupted) {
        this.#emit("lost", { room, epoch, from: next, to: seq - 1, reason: "disconnected" });
      }
      // What a critical event has overtaken is still to come.
      if (!critical) [entry.position, entry.interrupted] = [{ epoch, seq }, false];
    }
    const key = `${room ?? ""}\n${mid}`;
    if (mid !== undefined && this.#recent.has(key)) return;
    this.#recent.add(key);
    if (this.#recent.size > REMEMBERED) this.#recent.delete(this.#recent.values().next().value);
    this.#emit(event.event, event, false);
  }

  #connected(welcome) {
    if (this.isConnected()) return;
    this.#clearTimers();
    this.#timers.set("beat", setInterval(() => this.#beat(), this.#options.keepAlive));
    const reconnected = this.#welcome !== null;
    this.#welcome = welcome;
    this.#since = Date.now();
    this.#attempt = 0;
    this.#restore(this.#generation); // its first command goes out before any of a handler
    this.#renewBefore(welcome.expires);
    this.#opening?.resolve(welcome);
    this.#opening = null;
    this.#setState("connected");
    this.#setDegraded("");
    this.#emit("connected", { ...welcome, reconnected });
  }

  /** One command brings all back, where the gateway still knows the token. Otherwise: filter first, so that no
   *  room's replay passes what it holds back; then every room from where it was left; then the commands that waited. */
  async #restore(generation) {
    const known = new Set(this.#rooms.keys());
    const resumed = this.#resume && (this.#rooms.size || this.#filter) ? await this.#resumeAll() : null;
    if (generation !== this.#generation) return;
    if (!resumed) {
      const { events, except, narrowed } = this.#filter ?? {};
      const held = events?.length === 0 ? ["*"] : except;
      if (narrowed) await this.#insist({ t: "subscribe", data: { events } }, generation);
      if (held?.length) await this.#insist({ t: "unsubscribe", data: { events: held } }, generation);
    }
    const entered = resumed?.rooms ?? {};
    const missing = [...this.#rooms].filter(([room]) => !entered[room] || entered[room].code !== undefined);
    if (missing.length) {
      await Promise.all(missing.map(async ([room, entry]) => {
        const joined = await this.#insist(joinMessage(room, entry, entry.position), generation);
        if (!joined && generation === this.#generation) this.#rooms.delete(room);
      }));
    }
    for (const [room, { code }] of Object.entries(entered)) { // joined by a command that was cut off
      if (code === undefined && !known.has(room)) await this.#insist({ t: "leave", room }, generation);
    }
    if (generation !== this.#generation || this.#closing) return;
    this.#resume = this.#welcome.resume;
    this.#ready = true;
    for (const command of this.#queue) {
      this.#queue.delete(command);
      this.#transmit(command);
    }
  }

  /** Shows the token of the lost connection; null when that brought nothing back. */
  async #resumeAll() {
    const positions = Object.fromEntries([...this.#rooms].map(([room, { position }]) => [room, position]));
    try {
      return (await this.#command({ t: "join", data: { resume: this.#resume, positions } })).data ?? {};
    } catch {
      return null; // unknown, too old or too much at once: room by room, which tells its errors
    }
  }

  /** A command that brings the connection back to what it was: repeated while the gateway says "not now". */
  async #insist(message, generation) {
    for (let earlier = 0; generation === this.#generation; earlier++) {
      try {
        return await this.#command(message);
      } catch (error) {
        const later = error.code === "timeout" || (error.code >= 300 && error.code <= 399);
        if (generation !== this.#generation) return undefined;
        if (!later) return void this.#emit("error", error);
        const wait = Math.max(error.retryAfter ?? 0, this.#delay(earlier));
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
    return undefined;
  }

  // ---- the life of one socket

  async #token() {
    const { token } = this.#options;
    return typeof token === "function" ? token() : token;
  }

  async #open() {
    const generation = ++this.#generation;
    const { auth, connectTimeout, WebSocket } = this.#options;
    const end = (code, reason) => generation === this.#generation && this.#ended(code, reason);
    this.#closing = null;
    this.#clearTimers();
    this.#timers.set("connect", setTimeout(() => end(1006, `no answer within ${connectTimeout} ms`), connectTimeout));
    const address = new URL(this.#address);
    let token;
    try {
      token = await this.#token();
      if (token && auth === "query") address.searchParams.set("token", token);
      if (token && auth === "ticket") {
        address.searchParams.set("ticket", (await this.#rest("POST", "api/v1/auth/ticket", token)).ticket);
      }
    } catch (error) {
      return end(error.code === "refused" ? 1008 : 1006, error.message);
    }
    if (generation !== this.#generation) return;
    const socket = (this.#socket = new WebSocket(address.href, ["trireme.v1.json"]));
    let opened = false;
    socket.onopen = () => {
      opened = true;
      if (token && auth === "message") socket.send(JSON.stringify({ v: 1, t: "auth", data: { token } }));
    };
    socket.onmessage = ({ data }) => generation === this.#generation && this.#receive(data);
    socket.onerror = () => {}; // the close that follows says as much
    socket.onclose = async ({ code, reason }) => {
      if (opened || !token || generation !== this.#generation) return end(code, reason);
      // A page cannot see why an upgrade was refused: ask REST whether it is the token.
      const refusal = await this.#rest("GET", "api/v1/stats", token).then(() => null, (error) => error);
      return refusal?.code === "refused" ? end(1008, refusal.message) : end(code, reason);
    };
  }

  async #rest(method, path, token) {
    const address = new URL(path, this.#address); // beside `/ws`, also behind a prefix
    address.protocol = address.protocol.replace("ws", "http");
    const signal = AbortSignal.timeout(this.#options.connectTimeout);
    const headers = { Authorization: `Bearer ${token}` };
    const response = await this.#options.fetch(address, { method, headers, signal });
    const body = await response.json();
    if (response.ok) return body;
    throw new TriremeError(response.status === 401 ? "refused" : "failed", body.detail ?? `status ${response.status}`);
  }

  async #beat() {
    const generation = this.#generation;
    const { pongTimeout, slowPong } = this.#options;
    const heard = this.#heard;
    const slow = setTimeout(() => this.#setDegraded("the connection is slow"), slowPong);
    try {
      await this.#command({ t: "ping" }, pongTimeout);
      if (generation === this.#generation) this.#setDegraded("");
    } catch {
      const silent = generation === this.#generation && this.#heard === heard;
      if (silent) this.#ended(4000, `no pong within ${pongTimeout} ms`);
    } finally {
      clearTimeout(slow);
    }
  }

  /** Renews the token a little before it expires, where there is a function to ask for another. */
  #renewBefore(expires) {
    clearTimeout(this.#timers.get("renew"));
    if (!expires || typeof this.#options.token !== "function") return;
    const left = expires - Date.now();
    const wait = Math.min(Math.max(left - Math.min(60_000, left / 5), 1_000), 2 ** 31 - 1);
    this.#timers.set("renew", setTimeout(() => this.refresh().catch((error) => this.#emit("error", error)), wait));
  }

  #clearTimers() {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #delay(earlier) {
    const { base, factor, maximum } = this.#options.backoff;
    return Math.random() * Math.min(maximum, base * factor ** earlier);
  }

  /** The one end of every connection and attempt: cleans up, then comes back or gives up. */
  #ended(code, reason) {
    const generation = ++this.#generation;
    const closing = this.#closing;
    const previous = this.#state;
    const connected = this.isConnected();
    if (closing && (code === 1005 || code === 1006)) ({ code, message: reason } = closing); // cut after announcing it
    reason ||= closing?.message ?? "";
    const { tries } = this.#options.backoff;
    const failed = shouldReconnect(code) && this.#attempt >= tries;
    const retry = shouldReconnect(code) && !failed;
    const state = (this.#state = failed ? "failed" : retry ? "reconnecting" : "disconnected");
    if (connected) this.#flaps = Date.now() - this.#since < STABLE ? this.#flaps + 1 : 0;

    this.#clearTimers();
    this.#socket?.close();
    this.#socket = null;
    this.#organisation.interrupted = true; // what is sent outside of rooms goes by unseen
    this.#ready = false;
    const asked = Math.min((closing?.data?.retry_after ?? 0) * 1000, MAX_RETRY_AFTER);
    const delay = Math.round(asked + this.#delay(this.#attempt + Math.max(0, this.#flaps - 1)));
    if (retry) this.#timers.set("retry", setTimeout(() => this.#open(), delay));
    const attempt = retry ? ++this.#attempt : this.#attempt;

    const why = `${code}${reason && `, ${reason}`}`;
    const kind = failed ? "failed" : code === 1008 ? "refused" : "disconnected";
    const error = new TriremeError(kind, `the connection ended (${why})`);
    for (const command of this.#pending.values()) this.#finish(command, error);
    if (!retry) {
      for (const command of this.#queue) this.#finish(command, error);
      this.#opening?.reject(error);
      this.#opening = null;
    }
    // A handler may call connect() or disconnect(): what would be told after that is out of date.
    const tell = (action) => generation === this.#generation && action();
    if (connected || !(retry || failed)) this.#emit("disconnected", { code, reason, reconnect: retry });
    if (state !== previous) tell(() => this.#emit("state", { state, previous }));
    if (retry) tell(() => this.#emit("reconnecting", { attempt, delay, code, reason }));
    if (failed) tell(() => this.#emit("reconnect:failed", { attempts: tries, code, reason }));
    tell(() => this.#setDegraded(failed || (retry && attempt > DEGRADED_AFTER) ? "there is no connection" : ""));
  }
}
