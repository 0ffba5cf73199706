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
 * It speaks `trireme.v1.json`, comes back by itself after a lost connection for as long as the page is open, has its
 * rooms and its filter back with one command (the gateway's resume token) where it left them, and drops what it has
 * already seen. What the gateway could not keep is announced by the event `lost`;
 * `t.join(lost.room, { since: { epoch: lost.epoch, seq: lost.from - 1 } })` asks for it again.
 * Durations are milliseconds here (the gateway's own messages use seconds). Integers beyond ±(2^53 - 1) in `data` are
 * BigInts, in both directions; `parse` and `stringify` do the same for other JSON.
 *
 * @typedef {{epoch: string, seq: number}} Position  a place in a room's order
 *
 * @typedef {{event: string, room?: string, data?: any, seq?: number, epoch?: string, ts: number, mid: string,
 *   sender?: string, critical?: boolean, to?: "user" | "connection"}} RoomEvent  what handlers get; without `room` it
 *   came to the organisation, or where `to` says; `seq` has no holes in its room, and only critical events overtake others; `ts` is in
 *   milliseconds since 1970 UTC, `mid` is the message's id
 *
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} [token]  a function is asked before every connection
 *   attempt, and again before an open connection's token expires; with one, a refused token is not the end
 * @property {"query" | "ticket" | "message"} [auth]  how the token travels: in the address; exchanged for a ticket
 *   of one use, so that it stays out of addresses and logs; or as first message (the gateway's `auth.in_band`)
 * @property {{base?: number, factor?: number, maximum?: number, tries?: number, giveUp?: boolean}} [backoff]  the n-th
 *   retry waits a random time up to `min(maximum, base * factor ** (n - 1))`, and at most a second while the waits
 *   since the connection was lost are less than two; after `tries` failed ones comes `reconnect:failed`, and
 *   the client goes on with random waits up to `maximum`, or ends, with `giveUp`
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
const BACKOFF = { base: 500, factor: 2, maximum: 30_000, tries: 10, giveUp: false };
const STABLE = 5_000; // a connection that ended sooner does not begin the count of retries and their waits anew
const QUICK = 1_000; // no wait is longer while the waits together are shorter than QUICK_FOR: a gateway that
const QUICK_FOR = 2_000; // restarts within 2 s is found again within 3 s
const AT_ONCE = 32; // rooms being rejoined at the same time, far below the gateway's limit of pending commands
const LOOK = 5_000; // a look at the clock this often tells of sleep
const SLEPT = 10_000; // so much later than it was due
const CHECK = 5_000; // a pong has this long when there is reason to doubt the connection
const NUDGE = 1_000; // between two attempts, whatever wakes the client
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

/** Whether a connection that the other side closed with `code` is to be opened again. The gateway itself never closes
 *  with 1000 or without a code (1005): that is a proxy, which has no say in it. @param {number} code */
export function shouldReconnect(code) {
  return [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014].includes(code) || (code >= 4000 && code <= 4499);
}

/** `JSON.parse`, but integers that a number cannot hold become BigInts. @param {string} text @returns {any} */
export function parse(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  // Each becomes a text that begins with a mark, and then a BigInt. JSON has one way only to write that character.
  let mark = "\\u0001";
  while (text.includes(mark)) mark += mark;
  const token = /"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
  let [marked, done] = ["", 0];
  for (let found = token.exec(text); found; found = token.exec(text)) {
    if (found[0] === '"') token.lastIndex = stringEnd(text, found.index + 1);
    else if (/^-?\d{16,}$/.test(found[0]) && !Number.isSafeInteger(Number(found[0]))) {
      marked += `${text.slice(done, found.index)}"${mark}${found[0]}"`;
      done = token.lastIndex;
    }
  }
  const begin = JSON.parse(`"${mark}"`);
  const revive = (_, value) => (typeof value === "string" && value.startsWith(begin) ? BigInt(value.slice(begin.length)) : value);
  return done ? JSON.parse(marked + text.slice(done), revive) : JSON.parse(text);
}

/** Behind the quote that ends the string whose content begins at `index`. */
function stringEnd(text, index) {
  for (let end = text.indexOf('"', index); end >= 0; end = text.indexOf('"', end + 1)) {
    let before = end;
    while (text[before - 1] === "\\") before -= 1;
    if ((end - before) % 2 === 0) return end + 1;
  }
  return text.length;
}

/** `JSON.stringify`, but BigInts are written as integers. @param {any} value @param {number} [space] */
export function stringify(value, space) {
  let big = false;
  const plain = JSON.stringify(value, (_, item) => (typeof item === "bigint" ? ((big = true), 0) : item), space);
  if (!big) return plain;
  let mark = "int:";
  while (plain.includes(mark)) mark += mark;
  const marked = JSON.stringify(value, (_, item) => (typeof item === "bigint" ? mark + item : item), space);
  return marked.replace(new RegExp(`"${mark}(-?\\d+)"`, "g"), "$1");
}

/** What goes out is hardly ever more than plain JSON, which this is quicker for. */
function encode(message) {
  try {
    return JSON.stringify(message);
  } catch {
    return stringify(message);
  }
}

/** The test for a pattern (`*` is any run of characters, `all` is `*`), or null for a plain name. */
function compile(pattern) {
  if (pattern === "all") return /^/;
  const parts = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return parts.length > 1 ? new RegExp(`^${parts.join(".*")}$`, "s") : null;
}

/** Why a WebSocket did not open, of which a page is not told: what REST says to the same token. */
function whyNot(refusal) {
  if (!refusal) return "the gateway answers, but not to a WebSocket; a limit, this page's origin or a proxy may be why";
  if (refusal instanceof TriremeError) return refusal.message;
  return "nothing answers there, or nothing that lets in pages of this origin";
}

/** How far the client got in its organisation or its user: `told` by the gateway; `held`: what comes comes again. */
function order() {
  return { position: null, interrupted: false, told: false, held: false };
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
  #attempt = 0; // retries since the last connection that lasted
  #step = 0; // how often their wait has grown
  #waited = 0; // how long all of them were
  #tried = 0; // when the last attempt began
  #notBefore = 0; // the gateway asked to wait until then
  #offset = 0; // how far the gateway's clock is ahead of the page's
  #watching = null; // ends the listening to what happens around the page

  #nextId = 1;
  #pending = new Map(); // id → command, waiting for its reply
  #queue = new Set(); // commands waiting for a connection
  #rooms = new Map(); // name → {events, overflow, key, position}
  #own = { organisation: order(), user: order() }; // what comes without a room but with a number
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
   *  When the first attempt fails, the event `error` says why, and the console where nobody listens; the promise
   *  goes on waiting.
   *  @returns {Promise<object>} the gateway's welcome: connection, org, user, node, heartbeat, limits, expires
   *  @throws {TriremeError} when the gateway refuses for good, or with `giveUp` all tries failed */
  connect() {
    if (this.isConnected()) return Promise.resolve(this.#welcome);
    const opening = (this.#opening ??= {});
    opening.promise ??= new Promise((resolve, reject) => Object.assign(opening, { resolve, reject }));
    if (this.#idle()) {
      this.#afresh();
      this.#watch();
      this.#setState("connecting");
      this.#open();
    } else if (this.#timers.has("retry")) this.#open();
    return opening.promise;
  }

  /** Closes for good: no reconnect, rooms and filter forgotten, waiting commands rejected. */
  disconnect() {
    this.#rooms.clear();
    this.#recent.clear();
    this.#filter = this.#welcome = this.#resume = null;
    this.#own = { organisation: order(), user: order() };
    if (this.#idle()) this.#setState("disconnected");
    else this.#ended(1000, "disconnect() was called", true);
  }

  isConnected() { return this.#state === "connected"; }
  getState() { return this.#state; }
  /** Calls `handler` for every event named `name`, or matching it (`task:*`, `*`). Names of the client's own:
   *
   *  - `state` {state, previous}; `connected` the welcome and `reconnected`; `disconnected` {code, reason, reconnect}
   *  - `reconnecting` {attempt, delay, code, reason}; `reconnect:failed` {attempts, code, reason}, after which it
   *    goes on (but for `giveUp`)
   *  - `degraded` {degraded, reason}: live delivery is slow, or long interrupted
   *  - `error` a TriremeError that no command's promise carries: the first attempt or a renewal of the token failed,
   *    or a room was lost
   *  - `presence` {room, event: "join" or "leave", user}: who comes and goes, where `join` asked for it; after an
   *    interruption one for everybody who did meanwhile
   *  - `lost` {room, epoch, from, to, reason}: events that this client did not get; `to` is absent when unknown;
   *    without a room they were the organisation's, or with `of: "user"` the user's
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

  #report(error) {
    if (this.#handlers.some(({ name }) => name === "error")) this.#emit("error", error);
    else globalThis.console?.warn(`Trireme: ${error.message}; trying again`);
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
      const command = { id, message, text: encode({ v: 1, ...message, id }), resolve, reject };
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
      message = parse(text);
    } catch (cause) {
      return this.#emit("error", new TriremeError("invalid", "the gateway sent something that is not JSON", { cause }));
    }
    const { t, room, data } = message;
    const command = this.#pending.get(message.id);
    if ((t === "connected" || t === "pong") && message.ts) this.#offset = message.ts - Date.now();
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
      if (kind === "join" && room === undefined) {
        const wanted = command.message.data ?? {};
        if (wanted.resume !== undefined) this.#resumed(wanted.positions ?? {}, data ?? {});
        this.#wentOn(wanted, data ?? {});
      }
      else if (kind === "join") this.#joined(command.message, message);
      else if (kind === "leave") this.#rooms.delete(command.message.room);
      else if (kind === "subscribe") this.#filter = { ...data, narrowed: true };
      else if (kind === "unsubscribe") this.#filter = { narrowed: false, ...this.#filter, ...data };
      else if (kind === "refresh") this.#left(data?.left ?? []);
      this.#finish(command, null, message);
    }
  }

  #lost({ room, to, epoch, data: { next, ...data } }) {
    const entry = this.#order(room, to);
    if (entry?.held) return;
    if (entry && next) entry.position = next; // the broker lost data: the old order is of no use any more
    this.#tellLost({ room, epoch, ...data }, to);
  }

  #tellLost(lost, to) {
    this.#emit("lost", to === "user" ? { ...lost, of: to } : lost);
  }

  /** What knows how far the client got in a room, or outside of them in its organisation or user. */
  #order(room, to) {
    return room === undefined ? this.#own[to === "user" ? "user" : "organisation"] : this.#rooms.get(room);
  }

  /** Where a connection begins; what was missed before is held back until the gateway says from where it goes on. */
  #greeted(positions = {}) {
    for (const [of, entry] of Object.entries(this.#own)) {
      const here = positions[of];
      entry.told = here !== undefined;
      entry.position ??= here ?? null;
      entry.held = entry.told && (here.epoch !== entry.position.epoch || here.seq !== entry.position.seq);
      if (entry.told) entry.interrupted = false;
    }
  }

  /** From where to go on in the organisation and the user: in both, or where something was missed. */
  #missed(all) {
    const orders = Object.entries(this.#own).filter(([, { told, held }]) => told && (all || held));
    for (const [, entry] of orders) entry.held = true;
    return Object.fromEntries(orders.map(([of, { position }]) => [of, { since: position }]));
  }

  #wentOn(wanted, outcomes) {
    for (const [of, entry] of Object.entries(this.#own)) {
      const since = wanted[of]?.since;
      if (!since || !entry.held) continue;
      const { epoch, seq, recovered, replayed } = outcomes[of] ?? {};
      entry.held = false;
      if (epoch !== undefined) {
        entry.position = { epoch, seq };
        if (replayed > 0) entry.position = since.epoch === epoch ? since : { epoch, seq: 0 }; // the replay follows
      }
      // Of the same epoch the gateway itself says exactly what is lost.
      if (epoch === undefined || (recovered === false && since.epoch !== epoch)) {
        this.#tellLost({ room: undefined, epoch: since.epoch, from: since.seq + 1, to: undefined, reason: "epoch" }, of);
      }
    }
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
    const from = new Map(Object.entries(positions));
    for (const [room, { epoch, seq, code, ...data }] of Object.entries(rooms)) {
      const entry = this.#rooms.get(room);
      if (entry && code === undefined) {
        this.#joined({ room, data: { ...entry, position: undefined, since: from.get(room) } }, { epoch, seq, data });
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
    const { room, to, seq, epoch, mid, critical } = event;
    const entry = this.#order(room, to);
    if (entry?.held) return; // it comes again
    if (!entry && !this.#ready) return; // brought back unasked, and about to be left
    if (entry && seq !== undefined) {
      const next = entry.position?.epoch === epoch ? entry.position.seq + 1 : 0;
      if (seq < next) return;
      if (next && seq > next && entry.interrupted) {
        this.#tellLost({ room, epoch, from: next, to: seq - 1, reason: "disconnected" }, to);
      }
      // What a critical event has overtaken is still to come.
      if (!critical) [entry.position, entry.interrupted] = [{ epoch, seq }, false];
    }
    const key = `${room ?? `\n${to ?? ""}`}\n${mid}`;
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
    this.#greeted(welcome.positions);
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
      const missed = this.#missed(false);
      if (Object.keys(missed).length) {
        const wentOn = await this.#insist({ t: "join", data: missed }, generation);
        if (!wentOn && generation === this.#generation) this.#wentOn(missed, {});
      }
    }
    const outcomes = Object.entries(resumed?.rooms ?? {});
    const entered = new Set(outcomes.filter(([, { code }]) => code === undefined).map(([room]) => room));
    const missing = [...this.#rooms].filter(([room]) => !entered.has(room)).values();
    const rejoinSome = async () => {
      for (const [room, entry] of missing) {
        const joined = await this.#insist(joinMessage(room, entry, entry.position), generation);
        if (!joined && generation === this.#generation) this.#rooms.delete(room);
      }
    };
    const atOnce = Math.min(AT_ONCE, this.#rooms.size, this.#options.pending);
    if (atOnce) await Promise.all(Array.from({ length: atOnce }, rejoinSome));
    for (const room of entered) { // joined by a command that was cut off
      if (!known.has(room)) await this.#insist({ t: "leave", room }, generation);
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
      return (await this.#command({ t: "join", data: { resume: this.#resume, positions, ...this.#missed(true) } })).data ?? {};
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
        // 200 to 203 but 202: the token has just ended, so the connection ends too, and the room is not to blame.
        const later = ["timeout", 200, 201, 203, 403].includes(error.code) || (error.code >= 300 && error.code <= 399);
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
    const { token, connectTimeout } = this.#options;
    if (typeof token !== "function") return token;
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${connectTimeout} ms`)), connectTimeout);
    });
    try {
      return await Promise.race([token(), late]);
    } catch (cause) {
      throw new TriremeError("failed", `no token: ${cause?.message ?? cause}`, { cause });
    } finally {
      clearTimeout(timer);
    }
  }

  async #open() {
    const generation = ++this.#generation;
    const { auth, connectTimeout, WebSocket } = this.#options;
    const end = (code, reason, final) => generation === this.#generation && this.#ended(code, reason, final);
    const address = new URL(this.#address);
    const where = `${address.protocol}//${address.host}${address.pathname}`; // what follows may be a secret
    let asked = "the token function";
    const late = () => end(1006, `no answer from ${asked} within ${connectTimeout} ms`);
    this.#tried = Date.now();
    this.#closing = null;
    this.#clearTimers();
    this.#timers.set("connect", setTimeout(late, connectTimeout));
    let token;
    try {
      token = await this.#token();
      asked = where;
      if (token && auth === "query") address.searchParams.set("token", token);
      if (token && auth === "ticket") {
        address.searchParams.set("ticket", (await this.#rest("POST", "api/v1/auth/ticket", token)).ticket);
      }
    } catch (error) {
      return end(error.code === "refused" ? 1008 : 1006, `cannot connect to ${where}: ${error.message}`);
    }
    if (generation !== this.#generation) return;
    let socket;
    try {
      socket = this.#socket = new WebSocket(address.href, ["trireme.v1.json"]);
    } catch (error) {
      return end(1006, `cannot connect to ${where}: ${error.name}`, true); // such as ws: from a page of https:
    }
    let opened = false;
    socket.onopen = () => {
      opened = true;
      if (token && auth === "message") socket.send(JSON.stringify({ v: 1, t: "auth", data: { token } }));
    };
    socket.onmessage = ({ data }) => generation === this.#generation && this.#receive(data);
    socket.onerror = () => {}; // the close that follows says as much
    socket.onclose = async ({ code, reason }) => {
      if (opened || generation !== this.#generation) return end(code, reason);
      if (!token) return end(code, `cannot connect to ${where}${reason && `: ${reason}`}`);
      const refusal = await this.#rest("GET", "api/v1/stats", token).then(() => null, (error) => error);
      if (generation === this.#generation) this.#closing = { data: { retry_after: refusal?.retryAfter / 1000 || 0 } };
      end(refusal?.code === "refused" ? 1008 : code, `cannot connect to ${where}: ${whyNot(refusal)}`);
    };
  }

  async #rest(method, path, token) {
    const address = new URL(path, this.#address); // beside `/ws`, also behind a prefix
    address.protocol = address.protocol.replace("ws", "http");
    const signal = AbortSignal.timeout(this.#options.connectTimeout);
    const headers = { Authorization: `Bearer ${token}` };
    const response = await this.#options.fetch(address, { method, headers, signal });
    if (response.ok) return response.json();
    const { detail = `status ${response.status}` } = await response.json().catch(() => ({}));
    const retryAfter = Number(response.headers.get("Retry-After")) * 1000 || undefined;
    throw new TriremeError(response.status === 401 ? "refused" : "failed", detail, { retryAfter });
  }

  async #beat(pongTimeout = this.#options.pongTimeout) {
    const generation = this.#generation;
    const { slowPong } = this.#options;
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

  /** Renews the token a little before it expires by the gateway's clock, where there is a function to ask for one. */
  #renewBefore(expires) {
    clearTimeout(this.#timers.get("renew"));
    if (!expires || typeof this.#options.token !== "function") return;
    const left = expires - Date.now() - this.#offset;
    this.#renewIn(left - Math.min(60_000, left / 5), 0);
  }

  #renewIn(wait, failures) {
    const generation = this.#generation;
    const renew = () => this.refresh().catch((error) => {
      if (generation !== this.#generation) return; // the next connection has a new one anyway
      this.#emit("error", error);
      this.#renewIn(this.#delay(failures), failures + 1);
    });
    this.#timers.set("renew", setTimeout(renew, Math.min(Math.max(wait, 1_000), 2 ** 31 - 1)));
  }

  /** What happens around the page tells sooner than a timer that the network is back, or the connection gone. */
  #watch() {
    this.#watching?.abort();
    const { signal } = (this.#watching = new AbortController());
    const { document } = globalThis;
    const nudge = () => document?.visibilityState !== "hidden" && this.#nudge();
    for (const name of ["online", "pageshow"]) globalThis.addEventListener?.(name, () => this.#nudge(), { signal });
    for (const name of ["visibilitychange", "resume"]) document?.addEventListener(name, nudge, { signal });
    let looked = Date.now();
    const look = setInterval(() => {
      if (Date.now() - looked > LOOK + SLEPT) this.#nudge();
      looked = Date.now();
    }, LOOK);
    signal.addEventListener("abort", () => clearInterval(look));
  }

  /** Tries at once, but when the gateway asked to wait; an open connection has to show that it lives. */
  #nudge() {
    if (this.isConnected()) return void this.#beat(Math.min(CHECK, this.#options.pongTimeout));
    if (!this.#timers.has("retry")) return;
    clearTimeout(this.#timers.get("retry"));
    const wait = Math.max(this.#notBefore, this.#tried + NUDGE) - Date.now();
    this.#timers.set("retry", setTimeout(() => this.#open(), Math.min(Math.max(wait, 0), MAX_RETRY_AFTER)));
  }

  #clearTimers() {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #afresh() {
    this.#attempt = this.#step = this.#waited = 0;
  }

  #delay(earlier) {
    const { base, factor, maximum } = this.#options.backoff;
    return Math.random() * Math.min(maximum, base * factor ** earlier);
  }

  /** How long the next retry waits. */
  #wait() {
    const { base, factor, maximum, tries } = this.#options.backoff;
    const quick = Math.max(QUICK, base);
    let limit = this.#attempt >= tries ? maximum : Math.min(maximum, base * factor ** this.#step);
    if (limit > quick && this.#waited < QUICK_FOR) limit = quick;
    else this.#step += 1;
    const wait = Math.random() * limit;
    this.#waited += wait;
    return wait;
  }

  /** Whether the end with `code` is followed by another attempt. */
  #comesBack(code) {
    if (code === 1008) return typeof this.#options.token === "function"; // which may give a better one
    return this.#closing?.data?.reconnect !== false && shouldReconnect(code);
  }

  /** The one end of every connection and attempt: cleans up, then comes back, unless it is `final`. */
  #ended(code, reason, final = false) {
    const generation = ++this.#generation;
    const closing = this.#closing;
    const previous = this.#state;
    const connected = this.isConnected();
    const first = this.#welcome === null && this.#attempt === 0;
    if (closing?.code && [1000, 1005, 1006].includes(code) && !final) ({ code, message: reason } = closing); // cut after announcing it
    reason ||= closing?.message ?? "";
    if (connected && Math.abs(Date.now() - this.#since) >= STABLE) this.#afresh();
    const { tries, giveUp } = this.#options.backoff;
    const again = !final && this.#comesBack(code);
    const failed = again && giveUp && this.#attempt >= tries;
    const exhausted = failed || (again && this.#attempt === tries);
    const retry = again && !failed;
    const state = (this.#state = failed ? "failed" : retry ? "reconnecting" : "disconnected");

    this.#clearTimers();
    this.#socket?.close();
    this.#socket = null;
    this.#own.organisation.interrupted = true; // what is sent outside of rooms goes by unseen
    this.#ready = false;
    if (!retry) this.#watching?.abort();
    const asked = Math.min((closing?.data?.retry_after ?? 0) * 1000, MAX_RETRY_AFTER);
    this.#notBefore = Date.now() + asked;
    const delay = Math.round(asked + this.#wait());
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
    if (exhausted) tell(() => this.#emit("reconnect:failed", { attempts: tries, code, reason }));
    if (first && retry) tell(() => this.#report(new TriremeError("failed", reason || `closed with code ${code}`)));
    tell(() => this.#setDegraded(failed || (retry && attempt > DEGRADED_AFTER) ? "there is no connection" : ""));
  }
}
