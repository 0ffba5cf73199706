// How far the client got: in its rooms, in its organisation and in its user. Whatever the transport, an event passes
// here once, in its order, and what is missing is told.

import { TriremeError } from "./errors.js";

const REMEMBERED = 2_000; // message ids kept for dropping duplicates

/** How far the client got in its organisation or its user: `told` by the gateway; `held`: what comes comes again. */
function order() {
  return { position: null, interrupted: false, told: false, held: false };
}

export class Places {
  rooms = new Map(); // name → {events, overflow, key, presence, position, users}
  own = { organisation: order(), user: order() }; // what comes without a room but with a number
  filter = null; // {events, except, narrowed: by a subscribe}, once it was changed
  #recent = new Set(); // message ids
  #emit;

  /** @param {(name: string, value: any, own?: boolean) => void} emit */
  constructor(emit) {
    this.#emit = emit;
  }

  forget() {
    this.rooms.clear();
    this.#recent.clear();
    this.filter = null;
    this.own = { organisation: order(), user: order() };
  }

  /** The connection is gone: what is sent outside of rooms goes by unseen. */
  interrupted() {
    this.own.organisation.interrupted = true;
  }

  /** What knows how far the client got in a room, or outside of them in its organisation or user. */
  #order(room, to) {
    return room === undefined ? this.own[to === "user" ? "user" : "organisation"] : this.rooms.get(room);
  }

  #tellLost(lost, to) {
    this.#emit("lost", to === "user" ? { ...lost, of: to } : lost);
  }

  /** Where a connection begins; what was missed before is held back until the gateway says from where it goes on. */
  greeted(positions = {}) {
    for (const [of, entry] of Object.entries(this.own)) {
      const here = positions[of];
      entry.told = here !== undefined;
      entry.position ??= here ?? null;
      entry.held = entry.told && (here.epoch !== entry.position.epoch || here.seq !== entry.position.seq);
      if (entry.told) entry.interrupted = false;
    }
  }

  /** From where to go on in the organisation and the user: in both, or where something was missed. */
  missed(all) {
    const orders = Object.entries(this.own).filter(([, { told, held }]) => told && (all || held));
    for (const [, entry] of orders) entry.held = true;
    return Object.fromEntries(orders.map(([of, { position }]) => [of, { since: position }]));
  }

  wentOn(wanted, outcomes) {
    for (const [of, entry] of Object.entries(this.own)) {
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

  /** Tells who came or left, unless that is known. */
  present(room, ...changes) {
    const users = this.rooms.get(room)?.users;
    for (const [event, user] of changes) {
      if (!users || users.has(user) === (event === "join")) continue;
      users[event === "join" ? "add" : "delete"](user);
      this.#emit("presence", { room, event, user });
    }
  }

  joined({ room, data: { since, ...options } }, { epoch, seq, data: outcome }) {
    const { position: known, users: before } = this.rooms.get(room) ?? {};
    const now = outcome?.users;
    let position = { epoch, seq };
    if (since && outcome?.replayed > 0) position = outcome.recovered ? since : { epoch, seq: 0 }; // the replay follows
    else if (!since && known?.epoch === epoch) position = known; // joined again: the order goes on
    this.rooms.set(room, { ...options, position, users: now && (before ?? new Set(now)) });
    if (now) {
      const gone = [...(before ?? [])].filter((user) => !now.includes(user)).map((user) => ["leave", user]);
      this.present(room, ...gone, ...now.map((user) => ["join", user]));
    }
    // Of the same epoch the gateway itself says exactly what is lost.
    if (since && outcome?.recovered === false && since.epoch !== epoch) {
      this.#emit("lost", { room, epoch: since.epoch, from: since.seq + 1, to: undefined, reason: "epoch" });
    }
  }

  /** A room that was joined before was entered anew, from `since`. */
  reentered(room, since, { epoch, seq, data }) {
    const entry = this.rooms.get(room);
    if (entry) this.joined({ room, data: { ...entry, position: undefined, since } }, { epoch, seq, data });
  }

  /** The rooms that a resume token brought back, each from `positions`, and the filter. */
  resumed(positions, { rooms = {}, events = ["*"], except = [] }) {
    if (this.filter || events.join() !== "*" || except.length) {
      this.filter = { narrowed: events.join() !== "*", ...this.filter, events, except };
    }
    const from = new Map(Object.entries(positions));
    for (const [room, { epoch, seq, code, ...data }] of Object.entries(rooms)) {
      if (code === undefined) this.reentered(room, from.get(room), { epoch, seq, data });
    }
  }

  left(rooms) {
    for (const room of rooms) {
      this.rooms.delete(room);
      this.#emit("error", new TriremeError(202, `${room}: the new token no longer permits it`, { room }));
    }
  }

  lost({ room, to, epoch, data: { next, ...data } }) {
    const entry = this.#order(room, to);
    if (entry?.held) return;
    if (entry && next) entry.position = next; // the broker lost data: the old order is of no use any more
    this.#tellLost({ room, epoch, ...data }, to);
  }

  /** Passes an event on, once. Without `strangers` one of a room that is not joined is about to be left.
   *  With `hidden` it only counts. Where the gateway does not say that an order began anew, `anew` finds out. */
  event({ v, t, ...event }, strangers, { hidden, anew } = {}) {
    const { room, to, seq, epoch, mid, critical } = event;
    const entry = this.#order(room, to);
    if (entry?.held) return; // it comes again
    if (!entry && !strangers) return;
    if (entry && seq !== undefined) {
      const next = entry.position?.epoch === epoch ? entry.position.seq + 1 : 0;
      if (seq < next) return;
      if (anew && !next && entry.position && !critical) {
        const { epoch: old, seq: last } = entry.position;
        this.#tellLost({ room, epoch: old, from: last + 1, to: undefined, reason: "epoch" }, to);
      }
      if (next && seq > next && entry.interrupted) {
        this.#tellLost({ room, epoch, from: next, to: seq - 1, reason: "disconnected" }, to);
      }
      // What a critical event has overtaken is still to come.
      if (!critical) [entry.position, entry.interrupted] = [{ epoch, seq }, false];
    }
    const key = `${room ?? `\n${to ?? ""}`}\n${mid}`;
    if (hidden || (mid !== undefined && this.#recent.has(key))) return;
    this.#recent.add(key);
    if (this.#recent.size > REMEMBERED) this.#recent.delete(this.#recent.values().next().value);
    this.#emit(event.event, event, false);
  }
}
