// Server-sent events or long-poll, and commands by POST, as a link: it answers every command that a WebSocket
// would, so that the client need not know the difference.

import { json } from "./json.js";
import { BOUND } from "./kinds.js";
import { Lane, ROOMS } from "./lane.js";
import { Filter, matchers } from "./patterns.js";

const LANES = 4; // browsers open six connections to a host over HTTP/1.1, and one is for commands
const BATCH = 50; // commands in one request
const HEARTBEAT = 30; // seconds, until the gateway has said

export class HttpLink {
  greeted = false;
  heartbeat = HEARTBEAT;
  filter = new Filter();
  #welcome = {};
  #lanes;
  #token;
  #rest;
  #outgoing = []; // commands that wait for the request before them, so that their order is kept
  #busy = false;

  /** `on` beside `message` and `end`: `position(room)` and `missed()` tell where the client stands, `reentered`,
   *  `wentOn` and `refused` are told what nobody asked for, `hidden` gets events that a filter holds back. */
  constructor(kind, token, rest, options, on) {
    Object.assign(this, { kind, options, on });
    this.#token = token;
    this.#rest = rest;
    this.#lanes = [new Lane(this, true)];
  }

  open(path, query, signal) {
    return this.#rest.open("GET", path, this.#token, { query, signal });
  }

  close() {
    for (const lane of this.#lanes) lane.end();
  }

  /** A lane cannot go on, so nothing does. */
  ended(code, reason, more) {
    this.close();
    this.on.end(code, reason, { opened: this.greeted, ...more });
    return false;
  }

  begun(message) {
    const first = !this.greeted;
    this.greeted = true;
    this.#welcome = message.data ?? {};
    this.heartbeat = this.#welcome.heartbeat ?? HEARTBEAT;
    if (first) this.on.message(message);
  }

  /** An event, or another message that nobody asked for. */
  event(message, allowed) {
    const { t, event } = message;
    const passes = t !== "event" || (this.filter.allows(event) && (!allowed || allowed(event)));
    if (passes) this.on.message(message);
    else this.on.hidden(message);
  }

  send(command) {
    const { id, message } = command;
    // What belongs to a connection is refused by POST, so it is done here.
    if (BOUND.has(message.t)) return this.#do(id, message);
    if (message.t === "call" || message.t === "ping") return void this.#post([command]); // nothing waits for these
    this.#outgoing.push(command);
    if (!this.#busy) this.#flush();
  }

  async #flush() {
    this.#busy = true;
    await null; // what the page asks for in one go is one request
    while (this.#outgoing.length) await this.#post(this.#outgoing.splice(0, BATCH));
    this.#busy = false;
  }

  async #post(commands) {
    const left = new Set(commands.map(({ id }) => id));
    const text = ({ id, message, encoded }) => (typeof encoded === "string" ? encoded : json.encode({ v: 1, ...message, id }));
    let failure;
    try {
      const body = `[${commands.map(text).join()}]`;
      const signal = AbortSignal.timeout(this.options.commandTimeout);
      const { messages } = await this.#rest.ask("POST", "api/v1/commands", this.#token, { body, signal });
      for (const message of messages) {
        left.delete(message.id);
        this.on.message(message);
      }
      failure = { message: "was not answered" };
    } catch (error) {
      failure = error;
    }
    const { number, code, message, retryAfter } = failure;
    const numbered = number ?? (code === "refused" ? 200 : "disconnected");
    for (const id of left) {
      this.on.message({ t: "error", id, code: numbered, message, data: { retry_after: retryAfter / 1000 } });
    }
  }

  #do(id, { t, room, seq, epoch, data = {} }) {
    const reply = (fields) => this.on.message({ t: "reply", id, room, ...fields });
    const refuse = (code, message) => this.on.message({ t: "error", id, room, code, message });
    if (t === "join" && room === undefined) {
      if (data.resume !== undefined) return refuse(109, "a resume token is for a WebSocket");
      this.#lanes[0].own = { id, data };
      this.#lanes[0].restart();
    } else if (t === "join") {
      if (!room || new TextEncoder().encode(room).length > 200 || /[\0-\x1f\x7f*]/.test(room)) return refuse(105, "not a valid name of a room");
      const lane = this.#laneFor(room, data);
      if (!lane) return refuse(400, `at most ${LANES * ROOMS} rooms without a WebSocket`);
      const patterns = data.events && matchers(data.events);
      lane.rooms.set(room, patterns && ((name) => patterns.some((pattern) => pattern.test(name))));
      lane.waiting.set(room, { id, data });
      lane.restart();
    } else if (t === "leave") {
      const lane = this.#lanes.find(({ rooms }) => rooms.delete(room));
      if (!lane) return refuse(205, "this room was not joined");
      lane.waiting.delete(room);
      if (lane.main || lane.rooms.size) lane.restart();
      else this.#lanes = this.#lanes.filter((each) => each !== lane || each.end());
      reply();
    } else if (t === "subscribe" || t === "unsubscribe") {
      this.filter = this.filter[t](data.events ?? []);
      const { events, except } = this.filter;
      this.#restart(() => reply({ data: { events, except } }));
    } else if (t === "refresh") {
      this.#token = data.token;
      this.#restart((welcome) => reply({ data: { expires: welcome.data?.expires } }));
    } else if (t === "ack") reply({ seq, epoch });
    else {
      const { connection, org, user, node, expires } = this.#welcome;
      const rooms = this.#lanes.flatMap((lane) => [...lane.rooms.keys()]).map((name) => ({ room: name, ...this.on.position(name) }));
      reply({ data: { connection, org, user, node, expires, subprotocol: this.kind, rooms, events: this.filter.events, except: this.filter.except } });
    }
  }

  #restart(done) {
    for (const lane of this.#lanes) lane.restart(lane.main ? done : undefined);
  }

  #laneFor(room, { presence, overflow, key }) {
    const options = { presence, overflow, key };
    const has = this.#lanes.find(({ rooms }) => rooms.has(room));
    if (has?.suits(options)) return has;
    if (has) {
      has.rooms.delete(room);
      has.restart();
    }
    const lane = this.#lanes.find((each) => !each.rooms.size || (each.suits(options) && !each.full));
    if (lane) return Object.assign(lane, { options });
    if (this.#lanes.length >= LANES) return null;
    const added = Object.assign(new Lane(this, false), { options });
    this.#lanes.push(added);
    return added;
  }
}
