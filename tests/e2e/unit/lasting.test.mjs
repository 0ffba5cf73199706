// What a page outlives: refusals, expired tokens, wrong clocks, sleep, many rooms, and rooms of any name.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { parse, stringify } from "../../../gateway/web/client.js";
import { advance, connected, fixDice, join, reset, settle, sleep, start, stopClock } from "./fake.mjs";

beforeEach(() => {
  stopClock();
  fixDice(1 - 1e-12);
});
afterEach(reset);

const problem = (status, detail, headers) => async () => new Response(JSON.stringify({ detail }), { status, headers });
const refreshes = (play) => play.socket.sent.filter(({ t }) => t === "refresh").length;

// ---- what is wrong is said at once

test("the first attempt that fails says where and why, later ones do not repeat it", async () => {
  const cases = [
    [() => Promise.reject(new TypeError("fetch failed")), /^cannot connect to ws:\/\/gateway.example\/ws: nothing answers there/],
    [problem(503, "the gateway is full"), /: the gateway is full$/],
    [async () => new Response("<h1>Bad Gateway</h1>", { status: 502 }), /: status 502$/],
    [async () => new Response("{}"), /the gateway answers, but not to a WebSocket/],
  ];
  for (const [fetch, message] of cases) {
    const play = start({ fetch, token: "secret" });
    play.client.connect().catch(() => {});
    await settle();
    for (let round = 0; round < 2; round++) {
      play.socket.drop();
      await settle();
      assert.equal(play.named("error").length, 1);
      await advance(1_000);
    }
    const [{ code, message: said }] = play.named("error");
    assert.equal(code, "failed");
    assert.match(said, message);
    assert.doesNotMatch(said, /secret/);
    assert.equal(play.named("reconnecting")[0].reason, said);
    play.client.disconnect();
  }
});

test("where nobody listens to errors, the console tells", async () => {
  const warn = mock.method(console, "warn", () => {});
  const play = start();
  play.client.off("error");
  play.client.connect().catch(() => {});
  await settle();
  play.socket.drop();
  await settle();
  assert.match(warn.mock.calls[0].arguments[0], /cannot connect to ws:\/\/gateway.example\/ws/);
  play.client.disconnect();
});

test("a socket that cannot even be made is the end", async () => {
  class Forbidden {
    constructor() {
      throw new DOMException("An insecure WebSocket connection may not be initiated", "SecurityError");
    }
  }
  const play = start({ WebSocket: Forbidden });
  await assert.rejects(play.client.connect(), /cannot connect to ws:\/\/gateway.example\/ws: SecurityError/);
  assert.equal(play.client.getState(), "disconnected");
});

test("a refused token is not the end for who can ask for another", async () => {
  let asked = 0;
  const play = start({ token: () => `t${++asked}`, fetch: problem(401, "the token has expired") });
  const welcome = play.client.connect();
  await settle();
  play.socket.drop();
  await settle();
  assert.match(play.named("error")[0].message, /the token has expired/);
  await advance(500);
  assert.equal(play.socket.url.searchParams.get("token"), "t2");
  play.socket.welcome();
  await welcome;
});

test("an expired token ends a connection for good only without a way to another", async () => {
  for (const [token, state] of [["t", "disconnected"], [() => "t", "reconnecting"]]) {
    const play = await connected({ token });
    play.socket.say({ t: "closing", code: 1008, message: "the token has expired", data: { reconnect: false } });
    play.socket.drop(1008, "the token has expired");
    assert.equal(play.client.getState(), state);
    play.client.disconnect();
  }
});

test("a wait that a refused upgrade asks for is kept", async () => {
  const play = start({ fetch: problem(429, "too many", { "Retry-After": "7" }) });
  play.client.connect().catch(() => {});
  await settle();
  play.socket.drop();
  await settle();
  assert.equal(play.named("reconnecting")[0].delay, 7_500);
  play.client.disconnect();
});

test("who announced that it is for good is believed, whatever code follows", async () => {
  const play = await connected();
  play.socket.say({ t: "closing", code: 1012, message: "for good", data: { reconnect: false } });
  play.socket.drop(1012);
  assert.equal(play.client.getState(), "disconnected");
});

// ---- the token

test("renews by the gateway's clock", async () => {
  for (const skew of [-7_200_000, 7_200_000]) {
    const play = start({ token: () => "t", keepAlive: 1e9 });
    const welcome = play.client.connect();
    await settle();
    const ts = Date.now() + skew;
    play.socket.onopen({});
    play.socket.say({ t: "connected", ts, data: { expires: ts + 100_000 } });
    await welcome;
    await advance(79_000);
    assert.equal(refreshes(play), 0);
    await advance(1_000);
    assert.equal(refreshes(play), 1);
    play.client.disconnect();
  }
});

test("follows a clock that is set while it is connected", async () => {
  const play = await connected({ token: () => "t" });
  await advance(25_000);
  const ts = Date.now() + 3_600_000;
  play.socket.reply("ping", { ts });
  const refreshed = play.client.refresh("t2");
  await settle();
  play.socket.reply("refresh", { data: { expires: ts + 20_000 } });
  await refreshed;
  await advance(16_000);
  assert.equal(refreshes(play), 2);
  play.client.disconnect();
});

test("a renewal that fails, hangs or is refused is repeated", async () => {
  const answers = [() => "t1", () => Promise.reject(new Error("503")), () => new Promise(() => {}), () => "t4", () => "t5"];
  const play = await connected({ token: () => answers.shift()(), keepAlive: 1e9, welcome: { expires: Date.now() + 300_000 } });
  await advance(240_000);
  assert.match(play.named("error")[0].message, /^no token: 503$/);
  await advance(1_000);
  await advance(10_000);
  assert.match(play.named("error")[1].message, /^no token: no answer within 10000 ms$/);
  await advance(1_000);
  play.socket.say({ t: "error", id: play.socket.last("refresh").id, code: 302, message: "not now" });
  await settle();
  await advance(2_000);
  assert.deepEqual(play.socket.last("refresh").data, { token: "t5" });
  play.client.disconnect();
});

// ---- what happens around the page

function fakePage() {
  const page = new EventTarget();
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  globalThis.addEventListener = (...args) => page.addEventListener(...args);
  return (target, name) => (target === "window" ? page : document).dispatchEvent(new Event(name));
}

function noPage() {
  delete globalThis.document;
  delete globalThis.addEventListener;
}

test("tries at once when the page is online, visible or awake again, also after many tries", async () => {
  const fire = fakePage();
  try {
    const play = await connected({ backoff: { tries: 1, base: 30_000 } });
    const wake = [() => fire("window", "online"), () => fire("document", "visibilitychange"), () => fire("window", "pageshow")];
    for (const [index, nudge] of wake.entries()) {
      play.socket.drop();
      await settle();
      if (index === 0) {
        await advance(30_000);
        play.socket.drop();
        await settle();
      }
      await advance(1_000);
      const before = play.sockets.length;
      nudge();
      await advance(0);
      assert.equal(play.sockets.length, before + 1);
    }
    play.socket.drop();
    await settle();
    const before = play.sockets.length;
    await sleep(28_000); // the retry is due after 30 s
    await advance(0);
    assert.equal(play.sockets.length, before + 1);
    play.client.disconnect();
    assert.equal(fire("window", "online"), true);
    await advance(60_000);
    assert.equal(play.sockets.length, before + 1, "nothing wakes who has gone");
  } finally {
    noPage();
  }
});

test("a hidden page is not woken, nor does a storm of events try without end", async () => {
  const fire = fakePage();
  try {
    const play = await connected({ backoff: { base: 30_000 } });
    play.socket.drop();
    document.visibilityState = "hidden";
    await advance(2_000);
    fire("document", "visibilitychange");
    await advance(0);
    assert.equal(play.sockets.length, 1);
    document.visibilityState = "visible";
    for (let round = 0; round < 20; round++) {
      fire("window", "online");
      await advance(100);
      if (play.client.getState() === "reconnecting" && !play.socket.closed) play.socket.drop();
      await settle();
    }
    assert.ok(play.sockets.length <= 4, `${play.sockets.length} attempts in 2 s`);
    play.client.disconnect();
  } finally {
    noPage();
  }
});

test("the gateway's own time to wait is kept when the page wakes", async () => {
  const fire = fakePage();
  try {
    const play = await connected();
    play.socket.say({ t: "closing", code: 1012, data: { retry_after: 20 } });
    play.socket.drop(1012);
    fire("window", "online");
    await advance(19_000);
    assert.equal(play.sockets.length, 1);
    await advance(1_000);
    assert.equal(play.sockets.length, 2);
    play.client.disconnect();
  } finally {
    noPage();
  }
});

test("an open connection has to show after sleep that it lives", async () => {
  const play = await connected({ keepAlive: 1e9 });
  await sleep(3_600_000);
  assert.equal(play.socket.last("ping").t, "ping");
  await advance(5_000);
  assert.equal(play.named("disconnected")[0].code, 4000);
});

// ---- rooms

const ODD = ["constructor", "toString", "__proto__", "valueOf", "hasOwnProperty"];

test("rooms that are called as what every object has are restored", async () => {
  for (const answer of ["all", "none"]) {
    const play = await connected({ welcome: { resume: "token-1" } });
    for (const room of ODD) await join(play, room, 3);
    play.socket.drop();
    await advance(500);
    play.socket.welcome({ resume: "token-2" });
    const { data } = play.socket.last("join");
    assert.deepEqual(Object.keys(data.positions).sort(), [...ODD].sort());
    const rooms = ODD.map((room) => [room, { epoch: "e1", seq: 5, recovered: true, replayed: 2 }]);
    play.socket.reply("join", { data: { rooms: answer === "all" ? Object.fromEntries(rooms) : {} } });
    await settle();
    const joined = play.socket.sent.slice(1).map(({ room }) => room);
    assert.deepEqual(joined, answer === "all" ? [] : ODD);
    const seen = [];
    play.client.on("*", ({ room, seq }) => seen.push(`${room} ${seq}`));
    for (const room of ODD) play.socket.event(room, 4);
    assert.deepEqual(seen, ODD.map((room) => `${room} 4`));
    play.client.disconnect();
  }
});

test("more rooms than commands may wait are rejoined", async () => {
  const play = await connected({ pending: 5 });
  const names = Array.from({ length: 40 }, (_, number) => `r${number}`);
  for (const name of names) await join(play, name, 1);
  play.socket.drop();
  await advance(500);
  play.socket.welcome();
  for (let answered = 0; answered < names.length; answered++) {
    assert.ok(play.socket.sent.length <= answered + 5);
    const { id, room } = play.socket.sent[answered];
    play.socket.say({ t: "reply", id, room, epoch: "e1", seq: 1 });
    await settle();
  }
  assert.deepEqual(play.socket.sent.map(({ room }) => room), names);
  assert.deepEqual(play.named("error"), []);
  play.client.disconnect();
});

test("a room is not given up because too many commands wait, or the token ended meanwhile", async () => {
  const play = await connected({ token: () => "t" });
  await join(play, "r", 1);
  play.socket.drop();
  await advance(500);
  play.socket.welcome();
  for (const code of [403, 201]) {
    play.socket.say({ t: "error", id: play.socket.last("join").id, code, message: "not so" });
    await settle();
    await advance(1_000);
  }
  play.socket.reply("join", { room: "r", epoch: "e1", seq: 1 });
  await settle();
  assert.equal(play.socket.sent.length, 3);
  assert.deepEqual(play.named("error"), []);
  play.client.disconnect();
});

// ---- integers

test("integers beyond what a number can hold arrive and leave as they are", async () => {
  const play = await connected();
  await join(play, "r", 0);
  const seen = [];
  play.client.on("order", ({ data }) => seen.push(data));
  const data = '{"id":9223372036854775807,"__proto__":[-9007199254740993,42,1e400,9007199254740993.5,"9007199254740993"]}';
  play.socket.onmessage({ data: `{"v":1,"t":"event","event":"order","room":"r","epoch":"e1","seq":1,"mid":"m","data":${data}}` });
  assert.equal(seen[0].id, 9223372036854775807n);
  const [below, small, infinite, fraction, text] = Object.values(seen[0])[1];
  assert.deepEqual([below, small, infinite, text], [-9007199254740993n, 42, Infinity, "9007199254740993"]);
  assert.equal(typeof fraction, "number");
  const raw = [];
  play.socket.send = (text) => raw.push(text);
  play.client.publish("r", "back", { id: seen[0].id, note: 'int:"1' }).catch(() => {});
  await settle();
  assert.match(raw[0], /"data":\{"id":9223372036854775807,"note":"int:\\"1"\}/);
  play.client.disconnect();
});

test("parse and stringify change nothing but large integers, whatever the texts", () => {
  const big = 2n ** 63n;
  const texts = ["", '"', "\\", '\\"', "\u0001", "\\u0001", "\u0001\u00019007199254740993", "int:", "int:int:9007199254740993", "9007199254740993", '"9007199254740993"', "x\\\\"];
  for (const text of texts) {
    const value = { [text]: [text, big, { text, more: -big }, 1.5, -1e300, null, true], after: big };
    assert.deepEqual(parse(stringify(value)), value);
    assert.deepEqual(parse(JSON.stringify([text, text])), [text, text]);
  }
  assert.equal(stringify({ a: [big] }, 1), `{\n "a": [\n  ${big}\n ]\n}`);
  for (const bad of ['{"a": 9007199254740993', '"9007199254740993', '[9007199254740993,]']) assert.throws(() => parse(bad), SyntaxError);
});
