// The client: its commands, and how it connects, lasts and comes back.

import { Commands } from "./commands.js";
import { Emitter } from "./emitter.js";
import { TriremeError, isTemporary, shouldReconnect } from "./errors.js";
import { HttpLink } from "./http.js";
import { BOUND, COMMANDS } from "./kinds.js";
import { Ladder } from "./ladder.js";
import { defaults } from "./options.js";
import { Places } from "./places.js";
import { Rest } from "./rest.js";
import { Retries } from "./retries.js";
import { watch } from "./surroundings.js";
import { openWebSocket } from "./websocket.js";

const STABLE = 5_000; // a connection that ended sooner does not begin the count of retries and their waits anew
const AT_ONCE = 32; // rooms being rejoined at the same time, far below the gateway's limit of pending commands
const CHECK = 5_000; // a pong has this long when there is reason to doubt the connection
const NUDGE = 1_000; // between two attempts, whatever wakes the client
const DEGRADED_AFTER = 3; // failed retries after which delivery is called degraded
const MAX_RETRY_AFTER = 300_000; // the longest wait that a gateway may ask for
const NAMES = { sse: "server-sent events", poll: "long-poll" };

/** Why a WebSocket did not open, of which a page is not told: what REST says to the same token. */
function whyNot(refusal) {
  if (!refusal) return "the gateway answers, but not to a WebSocket; a limit, this page's origin or a proxy may be why";
  if (refusal instanceof TriremeError) return refusal.message;
  return "nothing answers there, or nothing that lets in pages of this origin";
}

function joinMessage(room, options, since) {
  const { events, overflow, key, presence } = options;
  return { t: "join", room, data: { since: since ?? undefined, events, overflow, key, presence } };
}

export class Trireme {
  #address;
  #options;
  #rest;
  /** @type {"disconnected" | "connecting" | "connected" | "reconnecting" | "failed"} */
  #state = "disconnected";
  #degraded = "";
  #emitter = new Emitter();
  #opening = null; // what callers of connect() wait for: {promise, resolve, reject}

  #generation = 0; // counts attempts and ends: what belongs to an earlier one is ignored
  #link = null;
  #timers = new Map(); // name → timer; all end with the connection or attempt
  #welcome = null; // data of the last `connected`
  #resume = null; // resume token of the last connection that had all its rooms
  #closing = null; // the gateway's `closing`, when it announced the end
  #ready = false; // filter and rooms are as they were: commands may go out
  #since = 0; // when the connection was established
  #heard = 0; // messages that came in
  #retries;
  #ladder;
  #tried = 0; // when the last attempt began
  #notBefore = 0; // the gateway asked to wait until then
  #offset = 0; // how far the gateway's clock is ahead of the page's
  #watching = null; // ends the listening to what happens around the page

  #commands;
  #places = new Places((name, value, own) => this.#emit(name, value, own));

  /** @param {string | URL | import("./options.js").Options} [url]  default: `/ws` of the page's origin; outside a page
   *    it must be given
   *  @param {import("./options.js").Options} [options] */
  constructor(url, options) {
    if (url && typeof url === "object" && !(url instanceof URL)) [url, options] = [undefined, url];
    this.#address = new URL(/** @type {string | URL} */ (url) ?? "/ws", globalThis.location?.href);
    this.#address.protocol = this.#address.protocol.replace("http", "ws");
    this.#options = { ...defaults(), ...options };
    this.#retries = new Retries(this.#options.backoff);
    this.#ladder = new Ladder(this.#address, this.#options);
    this.#rest = new Rest(this.#address, this.#options);
    this.#commands = new Commands(this.#options.codec);
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
      this.#retries.afresh();
      this.#watching?.();
      this.#watching = watch(() => this.#nudge());
      this.#setState("connecting");
      this.#open();
    } else if (this.#timers.has("retry")) this.#open();
    return opening.promise;
  }

  /** Connects anew, at once: what a button does after `reconnect:failed`, or `connect()` from any state. An open
   *  connection is replaced; nothing is lost over it. */
  reconnect() {
    if (!this.#idle() && !this.#timers.has("retry")) this.#ended(1000, "reconnect() was called");
    this.#retries.afresh();
    this.#ladder.top();
    return this.connect();
  }

  /** Closes for good: no reconnect, rooms and filter forgotten, waiting commands rejected. */
  disconnect() {
    this.#places.forget();
    this.#welcome = this.#resume = null;
    if (this.#idle()) this.#setState("disconnected");
    else this.#ended(1000, "disconnect() was called", true);
  }

  isConnected() { return this.#state === "connected"; }
  getState() { return this.#state; }
  /** What the open connection goes over: `websocket`, `sse` or `poll`; null without one. */
  get transport() { return this.isConnected() ? this.#link.kind : null; }
  /** Why delivery is degraded; an empty text when it is not. */
  get degraded() { return this.#degraded; }

  /** Calls `handler` for every event named `name`, or matching it (`task:*`, `*`); docs/client-js.md lists the
   *  client's own. A room's event that bears one of their names reaches handlers of patterns only.
   *  @param {string} name @param {(event: any) => void} handler
   *  @returns {() => void} takes the handler away again */
  on(name, handler) { return this.#emitter.on(name, handler); }
  /** Takes one handler away, or without `handler` all of that name. */
  off(name, handler) { this.#emitter.off(name, handler); }

  #emit(name, value, own) { this.#emitter.emit(name, value, own); }

  #report(error) {
    if (this.#emitter.has("error")) this.#emit("error", error);
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
    if (changed) this.#emit("degraded", { degraded: reason !== "", reason, transport: this.transport });
  }

  /** Live delivery is as good as this transport makes it. */
  #undegraded() {
    const name = NAMES[this.#link.kind];
    this.#setDegraded(this.#ladder.best || !name ? "" : `no WebSocket gets through: using ${name}`);
  }

  #idle() { return this.#state === "disconnected" || this.#state === "failed"; }

  // ---- commands: all reject with the gateway's error or the client's own reason, a TriremeError

  /** `send(type, data)`: a command of the protocol by its name, its fields in `data` (`send("subscribe", {events})`),
   *  or any other name: a call of the backend; returns the reply's data. `send(message)`: any command as it stands
   *  in the protocol, such as `{t: "ack", room, seq}`; returns the whole reply.
   *  @param {string | object} message @param {any} [data] @returns {Promise<any>} */
  async send(message, data) {
    if (typeof message === "string") return this.#sendByName(message, data);
    if (this.#ready) return this.#command(message);
    if (this.#idle()) throw new TriremeError("not_connected", `${message.t}: not connected`);
    const limit = this.isConnected() ? this.#options.pending : this.#options.queue;
    const { queue } = this.#commands;
    if (queue.size >= limit) throw new TriremeError("queue_full", `${message.t}: not connected, queue is full`);
    return this.#command(message, this.#options.commandTimeout, true);
  }

  async #sendByName(type, data) {
    if (!COMMANDS.has(type)) return this.call(type, data);
    const { room, event, mid, critical, seq, epoch, ...rest } = data ?? {};
    const inner = "data" in rest ? rest.data : Object.keys(rest).length ? rest : undefined;
    return (await this.send({ t: type, room, event, mid, critical, seq, epoch, data: inner })).data;
  }

  /** Joins a room; its events come from now on, after a reconnect too. With `since`, those after it come first.
   *  `overflow` is for times when this client is too slow: `disconnect`, `drop_oldest`, `replay`, or `conflate`,
   *  which keeps the newest event for each value of the field `key` of `data`. With `presence` the reply tells the
   *  `users` in the room, and the event `presence` who comes and goes. */
  async join(room, options = {}) {
    const { epoch, seq, data } = await this.send(joinMessage(room, options, options.since));
    return { room, epoch, seq, ...data };
  }

  /** Leaves a room. @param {string} room */
  async leave(room) {
    // A room of a lost connection is simply not rejoined, for which the others have to be rejoined one by one.
    if (!this.#places.rooms.delete(room) || this.isConnected()) await this.send({ t: "leave", room });
    else this.#resume = null;
  }

  /** Narrows this connection's filter to these patterns; later calls add to it. @param {string | string[]} events */
  async subscribe(events) { return (await this.send({ t: "subscribe", data: { events: [events].flat() } })).data; }
  /** Takes patterns away from this connection's filter. @param {string | string[]} events */
  async unsubscribe(events) { return (await this.send({ t: "unsubscribe", data: { events: [events].flat() } })).data; }
  /** Publishes to a room (null: the whole organisation, for services); returns the place in the room's order.
   *  Repeated with the same `mid`, it is seen once only: the way to repeat one that was cut off by a lost connection.
   *  Services may mark it as critical. */
  async publish(room, event, data, { mid, critical } = {}) {
    const reply = await this.send({ t: "publish", room: room ?? undefined, event, data, mid, critical });
    return { room, seq: reply.seq, epoch: reply.epoch, mid: reply.mid };
  }

  /** Sends to all connections of a user. */
  async sendToUser(user, event, data) {
    const reply = await this.send({ t: "send", event, data: { user, data } });
    return { mid: reply.mid, ...reply.data };
  }

  /** Calls a handler of the backend; returns its result. */
  async call(name, data) { return (await this.send({ t: "call", event: name, data })).data; }
  /** Tells the others of a room that this user types. @param {string} room @param {"start" | "stop"} [state] */
  async typing(room, state = "start") { await this.send({ t: "typing", room, data: { state } }); }
  /** The gateway's time, `data` echoed, and the round trip in ms. */
  async ping(data) {
    const sent = performance.now();
    const pong = await this.send({ t: "ping", data });
    return { ts: pong.ts, data: pong.data, rtt: performance.now() - sent };
  }

  /** What the gateway knows of this connection. */
  async info() { return (await this.send({ t: "info" })).data; }
  /** Statistics of the own organisation. */
  async stats() { return (await this.send({ t: "stats" })).data; }
  /** A page of a room's history, oldest first: the newest `limit` events, or those after `since`. */
  async history(room, { since, limit } = {}) {
    const { epoch, seq, data } = await this.send({ t: "history", room, data: { since, limit } });
    return { epoch, seq, ...data };
  }

  /** Who is in a room. */
  async presence(room) { return (await this.send({ t: "presence", room })).data; }
  /** Gives the open connection a new token; returns its expiry, ms since 1970. */
  async refresh(token) {
    const { data } = await this.send({ t: "refresh", data: { token: token ?? (await this.#token()) } });
    this.#renewBefore(data?.expires);
    return data?.expires;
  }

  #command(message, timeout = this.#options.commandTimeout, queued = false) {
    const { queue } = this.#commands;
    return this.#commands.make(message, timeout, (command) => (queued ? queue.add(command) : this.#transmit(command)));
  }

  #transmit(command) {
    const { id, message, encoded } = command;
    const limit = this.#welcome.limits?.message_bytes; // the gateway closes the connection of who exceeds it
    const { pending } = this.#commands;
    const refuse = (code, why) => this.#commands.finish(command, new TriremeError(code, `${message.t}: ${why}`));
    const full = pending.size >= this.#options.pending && message.t !== "ping";
    if (full) return refuse("queue_full", "too many commands await their reply");
    if (encoded.length * 3 > limit && (encoded.byteLength ?? new TextEncoder().encode(encoded).length) > limit) {
      return refuse(404, `larger than the ${limit} bytes that the gateway takes`);
    }
    pending.set(id, command);
    this.#link.send(command);
  }

  // ---- what the gateway says

  #receive(message) {
    this.#heard += 1;
    const { t, room, data } = message;
    const command = this.#commands.pending.get(message.id);
    if ((t === "connected" || t === "pong") && message.ts) this.#offset = message.ts - Date.now();
    if (t === "event") this.#places.event(message, this.#ready, { anew: this.#link.kind === "poll" });
    else if (t === "connected") this.#connected(data ?? {});
    else if (t === "closing") [this.#closing, this.#ready] = [message, false]; // commands wait for the next connection
    else if (t === "lost") this.#places.lost(message);
    else if (t === "presence") this.#places.present(room, [message.event, data.user]);
    else if (t === "error") {
      const retryAfter = data?.retry_after * 1000 || undefined;
      const error = new TriremeError(message.code, message.message, { room, retryAfter });
      if (command) this.#commands.finish(command, error);
      else this.#emit("error", error);
    } else if (command && (t === "reply" || t === "pong")) this.#replied(command, message);
  }

  /** At once, not where the promise is awaited: the next message may belong to the room. */
  #replied(command, message) {
    const { room, data = {} } = message;
    const { t: kind, room: asked, data: wanted = {} } = command.message;
    const places = this.#places;
    if (kind === "join" && room === undefined) {
      if (wanted.resume !== undefined) places.resumed(wanted.positions ?? {}, data);
      places.wentOn(wanted, data);
    } else if (kind === "join") places.joined(command.message, message);
    else if (kind === "leave") places.rooms.delete(asked);
    else if (kind === "subscribe") places.filter = { ...data, narrowed: true };
    else if (kind === "unsubscribe") places.filter = { narrowed: false, ...places.filter, ...data };
    else if (kind === "refresh") places.left(data.left ?? []);
    this.#commands.finish(command, null, message);
  }

  #connected(welcome) {
    if (!this.isConnected()) this.#begin(welcome);
  }

  #begin(welcome) {
    const { kind } = this.#link;
    this.#clearTimers();
    this.#timers.set("beat", setInterval(() => this.#beat(), this.#options.keepAlive));
    const reconnected = this.#welcome !== null;
    this.#welcome = welcome;
    this.#since = Date.now();
    this.#ladder.works(kind);
    this.#climbIn(this.#ladder.next());
    this.#places.greeted(welcome.positions);
    this.#restore(this.#generation); // its first command goes out before any of a handler
    this.#renewBefore(welcome.expires);
    this.#opening?.resolve(welcome);
    this.#opening = null;
    this.#setState("connected");
    this.#undegraded();
    this.#emit("connected", { ...welcome, reconnected, transport: kind });
  }

  /** One command brings all back, where the gateway still knows the token. Otherwise: filter first, so that no
   *  room's replay passes what it holds back; then every room from where it was left; then the commands that waited. */
  async #restore(generation) {
    const places = this.#places;
    const { rooms } = places;
    const known = new Set(rooms.keys());
    const resumable = this.#resume && this.#link.kind === "websocket" && (rooms.size || places.filter);
    const resumed = resumable ? await this.#resumeAll() : null;
    if (generation !== this.#generation) return;
    if (!resumed) {
      const { events, except, narrowed } = places.filter ?? {};
      const held = events?.length === 0 ? ["*"] : except;
      if (narrowed) await this.#insist({ t: "subscribe", data: { events } }, generation);
      if (held?.length) await this.#insist({ t: "unsubscribe", data: { events: held } }, generation);
      const missed = places.missed(false);
      if (Object.keys(missed).length) {
        const wentOn = await this.#insist({ t: "join", data: missed }, generation);
        if (!wentOn && generation === this.#generation) places.wentOn(missed, {});
      }
    }
    const outcomes = Object.entries(resumed?.rooms ?? {});
    const entered = new Set(outcomes.filter(([, { code }]) => code === undefined).map(([room]) => room));
    const missing = [...rooms].filter(([room]) => !entered.has(room)).values();
    const rejoinSome = async () => {
      for (const [room, entry] of missing) {
        const joined = await this.#insist(joinMessage(room, entry, entry.position), generation);
        if (!joined && generation === this.#generation) rooms.delete(room);
      }
    };
    const atOnce = Math.min(AT_ONCE, rooms.size, this.#options.pending);
    if (atOnce) await Promise.all(Array.from({ length: atOnce }, rejoinSome));
    for (const room of entered) { // joined by a command that was cut off
      if (!known.has(room)) await this.#insist({ t: "leave", room }, generation);
    }
    if (generation !== this.#generation || this.#closing) return;
    this.#resume = this.#link.kind === "websocket" ? this.#welcome.resume : null;
    this.#ready = true;
    const { queue } = this.#commands;
    for (const command of queue) {
      queue.delete(command);
      this.#transmit(command);
    }
  }

  /** Shows the token of the lost connection; null when that brought nothing back. */
  async #resumeAll() {
    const positions = Object.fromEntries([...this.#places.rooms].map(([room, { position }]) => [room, position]));
    const data = { resume: this.#resume, positions, ...this.#places.missed(true) };
    try {
      return (await this.#command({ t: "join", data })).data ?? {};
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
        if (generation !== this.#generation) return undefined;
        if (!isTemporary(error.code)) return void this.#emit("error", error);
        const wait = Math.max(error.retryAfter ?? 0, this.#retries.delay(earlier));
        await new Promise((resolve) => setTimeout(resolve, wait));
      }
    }
    return undefined;
  }

  // ---- the life of one connection

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

  /** Where the attempts go, without the query: that may hold a secret. */
  #where() {
    const { protocol, host, pathname } = this.#address;
    return `${protocol}//${host}${pathname}`;
  }

  /** Begins a connection of this kind. What it says goes to `life.first` until it is the client's own. */
  async #dial(kind, token, life) {
    const mine = () => life.generation === this.#generation;
    const places = this.#places;
    const on = {
      message: (message) => {
        if (mine()) life.first ? life.first(message) : this.#receive(message);
        else if (this.#commands.pending.has(message.id)) this.#receive(message); // of a link that was replaced
      },
      garbled: (cause) => mine() && this.#emit("error", new TriremeError("invalid", "the gateway sent something that cannot be read", { cause })),
      hidden: (message) => mine() && message.t === "event" && places.event(message, true, { hidden: true }),
      end: (code, reason, more) => mine() && life.end(code, reason, more),
      position: (room) => places.rooms.get(room)?.position,
      missed: () => places.missed(true),
      reentered: (room, since, message) => mine() && places.reentered(room, since, message),
      wentOn: (wanted, outcomes) => mine() && places.wentOn(wanted, outcomes),
      refused: ({ room, code, message }) => {
        if (mine() && places.rooms.delete(room)) this.#emit("error", new TriremeError(code, message, { room }));
      },
    };
    if (kind !== "websocket") return new HttpLink(kind, token, this.#rest, this.#options, on);
    const { auth } = this.#options;
    const address = new URL(this.#address);
    if (token && auth === "query") address.searchParams.set("token", token);
    if (token && auth === "ticket") {
      address.searchParams.set("ticket", (await this.#rest.ask("POST", "api/v1/auth/ticket", token)).ticket);
    }
    return mine() ? openWebSocket(address, auth === "message" ? token : null, this.#options, on) : null;
  }

  async #open() {
    const generation = ++this.#generation;
    const { connectTimeout } = this.#options;
    const where = this.#where();
    const { kind } = this.#ladder;
    const current = () => generation === this.#generation;
    const end = (code, reason, final) => current() && this.#ended(code, reason, final);
    let asked = "the token function";
    let token;
    const late = () => this.#failed(generation, kind, token, 1006, `no answer from ${asked} within ${connectTimeout} ms`);
    this.#tried = Date.now();
    this.#closing = null;
    this.#clearTimers();
    this.#timers.set("connect", setTimeout(late, connectTimeout));
    try {
      token = await this.#token();
    } catch (error) {
      return end(1006, `cannot connect to ${where}: ${error.message}`);
    }
    if (!current()) return;
    asked = where;
    const life = {
      generation,
      end: (code, reason, more = {}) => {
        if (this.isConnected()) this.#cutOff(code, reason, more);
        else if (kind === "websocket" && more.opened && (code !== 1006 || this.#closing)) end(code, reason);
        else this.#failed(generation, kind, token, code, reason, more);
      },
    };
    let link;
    try {
      link = await this.#dial(kind, token, life);
    } catch (error) {
      if (!(error instanceof TriremeError) && error instanceof DOMException && error.name !== "TimeoutError") {
        return end(1006, `cannot connect to ${where}: ${error.name}`, true); // such as ws: from a page of https:
      }
      return end(error.code === "refused" ? 1008 : 1006, `cannot connect to ${where}: ${error.message}`);
    }
    if (current()) this.#link = link;
    else link?.close();
  }

  /** A connection that stood has ended. */
  #cutOff(code, reason, { blocked, retryAfter }) {
    const lasted = Math.abs(Date.now() - this.#since);
    if (retryAfter) this.#closing ??= { data: { retry_after: retryAfter / 1000 } };
    if (blocked) this.#ladder.down();
    else if (!this.#closing) this.#ladder.cutOff(code === 1006 && lasted < STABLE);
    this.#ended(code, reason);
  }

  /** An attempt came to nothing. Where the gateway answers all the same, it is the transport that does not get
   *  through, and the next one is tried. */
  async #failed(generation, kind, token, code, reason, { opened, answered, retryAfter } = {}) {
    const current = () => generation === this.#generation;
    if (!current()) return;
    const where = `cannot connect to ${this.#where()}`;
    this.#clearTimers();
    this.#link?.close();
    const told = reason && (kind === "websocket" && (opened || reason.startsWith("no answer")) ? reason : `${where}: ${reason}`);
    if (code === 1008 || answered || !token) {
      if (retryAfter) this.#closing = { data: { retry_after: retryAfter / 1000 } };
      return this.#ended(code, told || where);
    }
    const refusal = await this.#rest.ask("GET", "api/v1/stats", token).then(() => null, (error) => error);
    if (!current()) return;
    if (refusal === null && this.#ladder.down()) return this.#open();
    this.#closing = { data: { retry_after: refusal?.retryAfter / 1000 || 0 } };
    this.#ended(refusal?.code === "refused" ? 1008 : code, told || `${where}: ${whyNot(refusal)}`);
  }

  #climbIn(wait) {
    clearTimeout(this.#timers.get("climb"));
    if (wait) this.#timers.set("climb", setTimeout(() => this.#climb(), wait));
  }

  /** Tries what is better than the connection that stands, which goes on meanwhile. */
  async #climb() {
    const generation = this.#generation;
    for (const kind of this.#ladder.better) {
      const found = await this.#try(kind, generation);
      if (generation !== this.#generation) return;
      found?.close();
    }
    this.#climbIn(this.#ladder.next());
  }

  /** One attempt beside the connection that stands; what is greeted takes its place at once. */
  async #try(kind, generation) {
    const life = { generation };
    const token = await this.#token().catch(() => null);
    if (!token || generation !== this.#generation) return null;
    let link = null;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, this.#options.connectTimeout);
      life.end = () => resolve(clearTimeout(timer));
      life.first = (message) => {
        if (message.t !== "connected") return;
        life.first = null;
        life.end = (code, reason, more) => this.#cutOff(code, reason, more);
        clearTimeout(timer);
        this.#replace(link, life, message);
        resolve();
      };
      this.#dial(kind, token, life).then((dialled) => { link = dialled; }, () => resolve(clearTimeout(timer)));
    });
    if (life.first) life.end = () => {}; // it did not take the place
    return link;
  }

  #replace(link, life, message) {
    const previous = this.#link;
    life.generation = ++this.#generation;
    this.#link = link;
    this.#ready = false;
    previous.close(); // its requests under way are still answered
    this.#commands.requeue(BOUND);
    this.#closing = this.#resume = null;
    this.#heard += 1;
    this.#begin(message.data ?? {});
  }

  async #beat(pongTimeout = this.#options.pongTimeout) {
    const generation = this.#generation;
    const { slowPong } = this.#options;
    const heard = this.#heard;
    const slow = setTimeout(() => this.#setDegraded("the connection is slow"), slowPong);
    try {
      await this.#command({ t: "ping" }, pongTimeout);
      if (generation === this.#generation) this.#undegraded();
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
      this.#renewIn(this.#retries.delay(failures), failures + 1);
    });
    this.#timers.set("renew", setTimeout(renew, Math.min(Math.max(wait, 1_000), 2 ** 31 - 1)));
  }

  /** Tries at once, but when the gateway asked to wait; an open connection has to show that it lives. */
  #nudge() {
    if (this.isConnected()) {
      if (this.#timers.has("climb")) this.#climbIn(NUDGE);
      return void this.#beat(Math.min(CHECK, this.#options.pongTimeout));
    }
    if (!this.#timers.has("retry")) return;
    clearTimeout(this.#timers.get("retry"));
    const wait = Math.max(this.#notBefore, this.#tried + NUDGE) - Date.now();
    this.#timers.set("retry", setTimeout(() => this.#open(), Math.min(Math.max(wait, 0), MAX_RETRY_AFTER)));
  }

  #clearTimers() {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
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
    const retries = this.#retries;
    const first = this.#welcome === null && retries.attempt === 0;
    if (closing?.code && [1000, 1005, 1006].includes(code) && !final) ({ code, message: reason } = closing); // cut after announcing it
    reason ||= closing?.message ?? "";
    if (connected && Math.abs(Date.now() - this.#since) >= STABLE) retries.afresh();
    const { tries, giveUp, attempt: before } = retries;
    const again = !final && this.#comesBack(code);
    const failed = again && giveUp && before >= tries;
    const exhausted = failed || (again && before === tries);
    const retry = again && !failed;
    const state = (this.#state = failed ? "failed" : retry ? "reconnecting" : "disconnected");

    this.#clearTimers();
    this.#link?.close();
    this.#link = null;
    this.#places.interrupted();
    this.#ready = false;
    if (!retry) this.#watching?.();
    const asked = Math.min((closing?.data?.retry_after ?? 0) * 1000, MAX_RETRY_AFTER);
    this.#notBefore = Date.now() + asked;
    const delay = Math.round(asked + retries.next());
    if (retry) this.#timers.set("retry", setTimeout(() => this.#open(), delay));
    const attempt = retry ? ++retries.attempt : retries.attempt;

    const why = `${code}${reason && `, ${reason}`}`;
    const kind = failed ? "failed" : code === 1008 ? "refused" : "disconnected";
    const error = new TriremeError(kind, `the connection ended (${why})`);
    const { pending, queue } = this.#commands;
    for (const command of pending.values()) this.#commands.finish(command, error);
    if (!retry) {
      for (const command of queue) this.#commands.finish(command, error);
      this.#opening?.reject(error);
      this.#opening = null;
    }
    // A handler may call connect() or disconnect(): what would be told after that is out of date.
    const tell = (name, value) => generation === this.#generation && this.#emit(name, value);
    if (connected || !(retry || failed)) this.#emit("disconnected", { code, reason, reconnect: retry });
    if (state !== previous) tell("state", { state, previous });
    if (code === 1008) tell("login:refused", { code, reason, reconnect: retry });
    if (retry) tell("reconnecting", { attempt, delay, code, reason });
    if (exhausted) tell("reconnect:failed", { attempts: tries, code, reason });
    if (generation !== this.#generation) return;
    if (first && retry) this.#report(new TriremeError("failed", reason || `closed with code ${code}`));
    if (generation !== this.#generation) return;
    this.#setDegraded(failed || (retry && attempt > DEGRADED_AFTER) ? "there is no connection" : "");
  }
}
