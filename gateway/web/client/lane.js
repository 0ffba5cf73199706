// One stream of server-sent events, or one series of polls, over up to 32 rooms. It ends and begins again all the time
// (a proxy cuts it, a poll is answered, a room is added), each time from where the client stands.

import { TriremeError, isTemporary } from "./errors.js";
import { parse } from "./json.js";

export const ROOMS = 32; // of one query, says the gateway
const POLL = 25; // seconds that a poll waits, where no proxy cuts it off sooner
const CUT = 1_000; // a stream that ended sooner, and brought nothing, was cut at once
const CUTS = 4; // so many in a row, and streams are of no use here
const AGAIN = 2; // times that a request which failed is repeated at once
const SILENCE = 2.5; // heartbeats

/** What was asked for in one round, so that the answers can be understood. */
function plan(lane, link) {
  const query = new URLSearchParams();
  const rooms = [...lane.rooms.keys()];
  const since = rooms.map((room) => lane.waiting.get(room)?.data.since ?? link.on.position(room) ?? null);
  const text = ({ epoch, seq }) => `${epoch}:${seq}`;
  const { cursor } = lane; // of a poll to which nothing was added: it says where all goes on
  rooms.forEach((room, n) => {
    query.append("join", room);
    if (since[n] && !cursor) query.append("since", `${text(since[n])}:${room}`);
  });
  for (const [name, value] of Object.entries(lane.options)) if (value) query.set(name, value);
  if (link.filter.narrowed) for (const pattern of link.filter.events) query.append("events", pattern);
  if (cursor) query.set("cursor", cursor);
  const own = lane.main && link.greeted && !cursor ? { ...link.on.missed(), ...lane.own?.data } : {};
  for (const of of ["organisation", "user"]) if (own[of]?.since) query.set(of, text(own[of].since));
  return { query, rooms, since, own, cursor };
}

const same = ({ presence, overflow = "disconnect", key }) => `${!!presence} ${overflow} ${key}`;

export class Lane {
  rooms = new Map(); // name → what tests the room's events
  waiting = new Map(); // name → the join that waits: {id, data}
  own = null; // the join of the organisation and the user that waits: {id, data}
  cursor = null; // of the last poll
  options = {}; // what holds for all of its rooms: presence, overflow, key
  #link;
  #round = null; // ends the request
  #again = null;
  #after = []; // replies to what is done once the next round has begun
  #ended = false;
  #greeted = false;
  #useful = false; // something came that the client did not have
  #patience = POLL;
  #failures = 0;
  #cuts = 0;
  #closing = false;

  constructor(link, main) {
    this.#link = link;
    this.main = main;
    this.#run();
  }

  /** Whether a room with these options may join the others. */
  suits(options) {
    return same(options) === same(this.options);
  }

  get full() { return this.rooms.size >= ROOMS; }

  /** Begins anew, with what has changed until then; `done` is called when it has begun. */
  restart(done) {
    if (done) this.#after.push(done);
    this.cursor = null;
    this.#again ??= setTimeout(() => this.#round?.abort(), 0);
  }

  end() {
    this.#ended = true;
    clearTimeout(this.#again);
    this.#round?.abort();
  }

  async #run() {
    await null; // whoever made it has it in hand
    while (!this.#ended && (await this.#once()));
  }

  /** One request; returns whether to go on. */
  async #once() {
    clearTimeout(this.#again);
    this.#again = null;
    const link = this.#link;
    const round = (this.#round = new AbortController());
    const { connectTimeout } = link.options;
    const begun = Date.now();
    this.#greeted = this.#useful = false;
    this.#alive(connectTimeout);
    let error;
    try {
      const asked = plan(this, link);
      await (link.kind === "sse" ? this.#stream(asked, round.signal) : this.#poll(asked, round.signal));
      if (!this.#greeted) error = new TriremeError("failed", "the answer is not the gateway's");
    } catch (cause) {
      error = cause;
    }
    clearTimeout(round.timer);
    if (this.#ended) return false;
    if (this.#again !== null) return true; // restart() was called
    if (this.#closing) return link.ended(1006, "");
    const lasted = Date.now() - begun;
    if (this.#greeted && !(error instanceof TriremeError)) { // it came to its end, or was cut off
      this.#failures = 0;
      this.#cuts = link.kind === "sse" && lasted < CUT && !this.#useful ? this.#cuts + 1 : 0;
      return this.#cuts < CUTS || link.ended(1006, "streams are cut off at once", { blocked: true });
    }
    if (this.#refuseJoins(error)) return true;
    if (link.greeted && !error.number && ++this.#failures <= AGAIN) {
      if (lasted > CUT) this.#patience = Math.max(1, Math.floor(lasted / 2_000)); // a poll, cut off for its silence
      return true;
    }
    const reason = round.signal.aborted ? `no answer within ${connectTimeout} ms` : error.message;
    return link.ended(error.code === "refused" ? 1008 : 1006, reason, { answered: !!error.number, retryAfter: error.retryAfter });
  }

  /** A query that is refused as a whole is the fault of what was added to it. */
  #refuseJoins({ number, message, retryAfter }) {
    if (!number || isTemporary(number) || !this.waiting.size) return false;
    for (const [room, { id }] of this.waiting) {
      this.rooms.delete(room);
      this.#link.on.message({ t: "error", id, room, code: number, message, data: { retry_after: retryAfter } });
    }
    this.waiting.clear();
    return true;
  }

  /** The request has to show within `ms` that it lives. */
  #alive(ms) {
    const round = this.#round;
    clearTimeout(round.timer);
    round.timer = setTimeout(() => round.abort(), ms);
  }

  async #stream(asked, signal) {
    const response = await this.#link.open("api/v1/stream", asked.query, signal);
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      throw new TriremeError("failed", "the answer is not a stream");
    }
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let [unread, data] = ["", ""];
    for (;;) {
      const { done, value } = await reader.read();
      if (done || signal.aborted) return;
      const lines = (unread + decoder.decode(value, { stream: true })).split("\n");
      unread = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data += line.slice(5);
        else if (line === "" && data) {
          const message = parse(data);
          data = "";
          this.#said(message, asked);
          if (signal.aborted) return;
        }
      }
      if (this.#greeted) this.#alive(SILENCE * 1000 * this.#link.heartbeat);
    }
  }

  async #poll(asked, signal) {
    const wait = asked.cursor ? this.#patience : 0;
    asked.query.set("timeout", wait);
    if (!wait) asked.query.set("tell", "true");
    this.#alive(wait * 1000 + this.#link.options.connectTimeout);
    const response = await this.#link.open("api/v1/poll", asked.query, signal);
    const { messages = [], cursor = null } = parse(await response.text());
    if (signal.aborted) return;
    this.#greeted ||= wait > 0 && cursor !== null;
    this.cursor = cursor; // before the messages, which may lead to more that is asked for
    for (const message of messages) this.#said(message, asked);
  }

  #said(message, asked) {
    const { t, id, room } = message;
    const { on } = this.#link;
    if (t === "connected") this.#begun(message);
    else if ((t === "reply" || t === "error") && id === 0) this.#ownReplied(message, asked);
    else if ((t === "reply" || t === "error") && id) this.#replied(message, asked, id - 1);
    else if (t === "closing") {
      this.#closing = true;
      on.message(message);
    } else {
      this.#useful = true;
      if (room === undefined ? this.main : this.rooms.has(room)) this.#link.event(message, this.rooms.get(room));
    }
  }

  #begun(message) {
    this.#greeted = true;
    if (this.main) this.#link.begun(message);
    const after = this.#after;
    this.#after = [];
    for (const done of after) done(message);
  }

  #ownReplied({ t, data = {} }, asked) {
    const { on } = this.#link;
    const { id } = this.own ?? {};
    const outcomes = t === "error" ? {} : data;
    this.own = null;
    on.wentOn(asked.own, outcomes);
    if (id) on.message({ t: "reply", id, data: outcomes });
  }

  #replied(message, asked, n) {
    const room = asked.rooms[n];
    const join = this.waiting.get(room);
    const { on } = this.#link;
    const { t, code } = message;
    if (!this.rooms.has(room)) return; // left meanwhile
    if (t === "error" && !join && isTemporary(code)) throw new TriremeError("failed", message.message);
    if (t === "error") this.rooms.delete(room);
    this.waiting.delete(room);
    if (join && (t === "error" || join.data.since || !asked.since[n])) on.message({ ...message, id: join.id, room });
    else if (join) { // joined again: the order goes on
      on.reentered(room, asked.since[n], message);
      on.message({ ...message, id: join.id, data: message.data?.users && { users: message.data.users } });
    } else if (t === "error") on.refused(message);
    else on.reentered(room, asked.since[n], message);
  }
}
