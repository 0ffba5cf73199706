// A gateway's end of the socket, played by the test: nothing happens that the test does not do.

import { mock } from "node:test";
import { Trireme } from "../../../gateway/web/client.js";

const STEP = 5_000; // milliseconds

export class FakeSocket {
  constructor(url, protocols) {
    this.url = new URL(url);
    this.protocols = protocols;
    this.sent = [];
    this.closed = false;
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  // -- what the gateway does

  say(message) {
    this.onmessage({ data: JSON.stringify({ v: 1, ...message }) });
  }

  welcome(data = {}) {
    this.onopen({});
    this.say({ t: "connected", data: { connection: "n1-1", org: "acme", user: "alice", ...data } });
  }

  /** Ends the connection as the browser tells it. */
  drop(code = 1006, reason = "") {
    this.onclose({ code, reason });
  }

  /** The last command of this kind; fails when there is none. */
  last(t) {
    const found = this.sent.findLast((message) => message.t === t);
    if (!found) throw new Error(`no ${t} was sent, only ${this.sent.map((message) => message.t)}`);
    return found;
  }

  reply(t, fields = {}) {
    this.say({ t: t === "ping" ? "pong" : "reply", id: this.last(t).id, ...fields });
  }

  event(room, seq, fields = {}) {
    this.say({ t: "event", room, seq, epoch: "e1", event: "note", ts: 1, mid: `${room}-${seq}`, ...fields });
  }
}

/** A client whose sockets, clock and dice are the test's. */
export function start(options = {}) {
  const sockets = [];
  class Socket extends FakeSocket {
    constructor(...args) {
      super(...args);
      sockets.push(this);
    }
  }
  const client = new Trireme("ws://gateway.example/ws", {
    token: "t0",
    WebSocket: Socket,
    fetch: () => Promise.reject(new Error("no REST here")),
    transports: ["websocket"],
    ...options,
  });
  const told = [];
  for (const name of ["state", "connected", "disconnected", "reconnecting", "reconnect:failed", "degraded", "error", "lost"]) {
    client.on(name, (value) => told.push([name, value]));
  }
  return {
    client,
    sockets,
    told,
    named: (name) => told.filter(([told]) => told === name).map(([, value]) => value),
    get socket() {
      return sockets.at(-1);
    },
  };
}

/** Lets everything that is already decided happen. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

export async function connected(options) {
  const play = start(options);
  const welcome = play.client.connect();
  await settle();
  play.socket.welcome(options?.welcome);
  await welcome;
  return play;
}

export async function join(play, room, seq, options) {
  const joined = play.client.join(room, options);
  await settle();
  play.socket.reply("join", { room, epoch: "e1", seq, data: options?.since && { recovered: true, replayed: seq - options.since.seq } });
  return joined;
}

/** Stops the clock; `advance(ms)` moves it, in steps too short to look like sleep, and lets what they start happen. */
export function stopClock() {
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
}

export async function advance(ms) {
  for (let left = ms; left > 0 || left === ms; left -= STEP) {
    mock.timers.tick(Math.min(left, STEP));
    await settle();
  }
}

/** The machine sleeps: all that was due meanwhile comes at once, late. */
export async function sleep(ms) {
  mock.timers.tick(ms);
  await settle();
}

/** Fixes the dice: 0 is the shortest wait, just under 1 the longest. */
export function fixDice(value) {
  mock.method(Math, "random", () => value);
}

export function reset() {
  mock.timers.reset();
  mock.restoreAll();
}
