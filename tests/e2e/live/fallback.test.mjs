// Where WebSocket does not get through: server-sent events, long-poll, and the way back, without a gap or a double.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket } from "ws";
import { Trireme } from "../../../gateway/web/client.js";
import { address, client, next, tokens } from "./gateway.mjs";
import { proxy } from "./proxy.mjs";

const QUICK = { base: 20, maximum: 100, tries: 1000 };

/** A client behind a proxy, and all that it heard and was told. */
async function behind(t, rules, options = {}) {
  const through = Object.assign(await proxy(t, new URL(address)), rules);
  const made = new Trireme(through.address, { token: tokens.alice, WebSocket, backoff: QUICK, retryWebSocket: 0, ...options });
  const heard = [];
  const told = [];
  made.on("*", (event) => heard.push(event));
  for (const name of ["connected", "disconnected", "degraded", "lost", "error", "presence"]) made.on(name, (value) => told.push([name, value]));
  t.after(() => made.disconnect());
  const welcome = await made.connect();
  const named = (wanted) => told.filter(([name]) => name === wanted).map(([, value]) => value);
  return { through, made, heard, told, named, welcome };
}

/** Resolves when `look` finds something; it is asked again with every event of the client. */
function until(made, look) {
  return new Promise((resolve) => {
    const names = ["*", "connected", "state", "degraded", "lost", "presence"];
    const again = () => {
      const found = look();
      if (!found) return;
      for (const name of names) made.off(name, again);
      resolve(found);
    };
    for (const name of names) made.on(name, again);
    again();
  });
}

const numbers = (heard, room) => heard.filter((event) => event.room === room && event.event === "n").map(({ data }) => data);
const upTo = (n, first = 1) => Array.from({ length: n - first + 1 }, (_, i) => first + i);

for (const [kind, rules] of [["sse", { websocket: false }], ["poll", { websocket: false, sse: false }]]) {
  test(`${kind}: everything that a WebSocket does`, async (t) => {
    const { made, named, heard, welcome } = await behind(t, rules);
    assert.equal(made.transport, kind);
    assert.equal(welcome.user, "alice");
    assert.equal(named("connected")[0].transport, kind);
    assert.deepEqual(named("degraded").map(({ degraded, transport }) => [degraded, transport]), [[true, kind]]);
    const bob = await client(t, "bob");
    const room = `fallback:${kind}`;
    await bob.join(room);
    const joined = await made.join(room, { presence: true });
    assert.deepEqual([...joined.users].sort(), ["alice", "bob"]);
    const hello = next(bob, "n");
    const { seq } = await made.publish(room, "n", 1);
    assert.equal((await hello).seq, seq);
    await Promise.all(upTo(20, 2).map((n) => made.publish(room, "n", n)));
    await until(made, () => numbers(heard, room).length === 20);
    assert.deepEqual(numbers(heard, room), upTo(20));
    assert.deepEqual((await made.history(room)).events.map(({ data }) => data), upTo(20));
    assert.deepEqual((await made.presence(room)).members.map(({ user }) => user).sort(), ["alice", "bob"]);
    assert.ok((await made.ping("x")).rtt > 0);
    await assert.rejects(made.call("nothing"), { code: 108 });
    await assert.rejects(made.join("no*room"), { code: 105 });
    await assert.rejects(made.leave("elsewhere"), { code: 205 });
    const typed = next(bob, "typing:start");
    await made.typing(room);
    assert.equal((await typed).data.user, "alice");

    const nudged = next(made, "nudge");
    await bob.sendToUser("alice", "nudge", 9007199254740993n);
    assert.equal((await nudged).data, 9007199254740993n);
    const filter = await made.subscribe("m:*");
    assert.deepEqual(filter, { events: ["m:*"], except: [] });
    await made.join(`${room}:more`, { events: ["m:a"] });
    await bob.publish(`${room}:more`, "m:b", 1);
    await bob.publish(`${room}:more`, "n", 1);
    const last = next(made, "m:a");
    await bob.publish(`${room}:more`, "m:a", 1);
    await last;
    assert.deepEqual(heard.filter((event) => event.room === `${room}:more`).map(({ event }) => event), ["m:a"]);
    const { rooms } = await made.info();
    assert.deepEqual(rooms.map((each) => each.room).sort(), [room, `${room}:more`]);
    await made.leave(`${room}:more`);
    assert.ok((await made.refresh(tokens.alice_later)) > welcome.expires);
    await made.subscribe("n");
    await bob.publish(room, "n", 21);
    await until(made, () => numbers(heard, room).length === 21);
    assert.deepEqual(numbers(heard, room), upTo(21));
    assert.deepEqual([named("lost"), named("error"), named("disconnected")], [[], [], []]);
  });
}

test("a stream that a proxy cuts again and again loses nothing and doubles nothing", async (t) => {
  const { through, made, heard, named } = await behind(t, { websocket: false });
  const bob = await client(t, "bob");
  const backend = await client(t, "backend");
  await made.join("cut:a");
  await made.join("cut:b");
  for (let n = 1; n <= 60; n++) {
    await bob.publish(n % 2 ? "cut:a" : "cut:b", "n", n);
    await backend.publish(null, "all", n);
    await bob.sendToUser("alice", "own", n);
    if (n % 10 === 0) {
      through.cutAll(true);
      await bob.publish("cut:a", "n", n + 0.5);
    }
  }
  await until(made, () => heard.filter(({ event }) => event === "own").length === 60 && heard.filter(({ event }) => event === "all").length === 60
    && numbers(heard, "cut:a").length === 36 && numbers(heard, "cut:b").length === 30);
  for (const name of ["own", "all"]) assert.deepEqual(heard.filter(({ event }) => event === name).map(({ data }) => data), upTo(60));
  assert.deepEqual(numbers(heard, "cut:a"), [...numbers(heard, "cut:a")].sort((a, b) => a - b));
  assert.deepEqual(numbers(heard, "cut:b"), upTo(60).filter((n) => n % 2 === 0));
  assert.deepEqual([named("lost"), named("error"), named("disconnected")], [[], [], []]);
  assert.ok(through.asked.filter((path) => path.endsWith("/stream")).length > 6);
});

test("from WebSocket to poll and back, with everything blocked in between", async (t) => {
  const { through, made, heard, named } = await behind(t, {}, { retryWebSocket: 50 });
  const bob = await client(t, "bob");
  let n = 0;
  const publish = async () => {
    await bob.publish("ways", "n", ++n);
    await bob.sendToUser("alice", "own", n);
  };
  await made.join("ways", { presence: true });
  await publish();
  const ways = [{ websocket: false }, { sse: false }, { sse: true, websocket: true }, { websocket: false, sse: false }, { sse: true }, { websocket: true }];
  const expected = ["sse", "poll", "websocket", "poll", "sse", "websocket"];
  for (const [step, way] of ways.entries()) {
    Object.assign(through, way);
    if (step === 0 || step === 1 || step === 3) {
      through.all = false;
      through.cutAll();
      await until(made, () => !made.isConnected());
      await publish(); // while nothing gets through
      through.all = true;
    }
    await publish();
    await until(made, () => made.transport === expected[step]);
    await publish();
    await made.publish("ways", "n", ++n);
    await bob.sendToUser("alice", "own", n);
    await until(made, () => numbers(heard, "ways").at(-1) === n && heard.filter(({ event }) => event === "own").at(-1)?.data === n);
  }
  assert.deepEqual(numbers(heard, "ways"), upTo(n));
  assert.deepEqual(heard.filter(({ event }) => event === "own").map(({ data }) => data), upTo(n));
  assert.deepEqual([named("lost"), named("error")], [[], []]);
  assert.equal(made.degraded, "");
});

test("what worked is remembered, and what is better tried soon", async (t) => {
  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value), removeItem: (key) => kept.delete(key) };
  const first = await behind(t, { websocket: false }, { storage });
  first.made.disconnect();
  const [[key, value]] = kept;
  assert.match(value, /"kind":"sse"/);
  first.through.asked.length = 0;
  const again = new Trireme(first.through.address, { token: tokens.alice, WebSocket, storage });
  t.after(() => again.disconnect());
  await again.connect();
  assert.equal(again.transport, "sse");
  assert.ok(!first.through.asked.includes("/ws"));
  first.through.websocket = true;
  await until(again, () => again.transport === "websocket"); // a second later
  assert.equal(kept.has(key), false);
});

test("who is refused is told so on every transport", async (t) => {
  for (const transports of [["websocket"], ["sse"], ["poll"]]) {
    const made = new Trireme(address, { token: "no.such.token", WebSocket, transports });
    const refused = next(made, "login:refused");
    await assert.rejects(made.connect(), { code: "refused" });
    assert.equal((await refused).code, 1008);
    assert.equal(made.getState(), "disconnected");
  }
});

test("more rooms than one stream takes, and rooms that may not be joined", async (t) => {
  const { made, heard, named } = await behind(t, { websocket: false });
  const bob = await client(t, "bob");
  const rooms = upTo(70).map((n) => `many:${n}`);
  await Promise.all(rooms.map((room) => made.join(room)));
  await Promise.all(rooms.map((room, n) => bob.publish(room, "n", n)));
  await bob.sendToUser("alice", "once");
  await until(made, () => heard.length === 71);
  assert.deepEqual(heard.filter(({ room }) => room).map(({ data }) => data).sort((a, b) => a - b), upTo(69, 0));
  assert.deepEqual(named("error"), []);

  const narrow = await behind(t, { websocket: false }, { token: tokens.alice_narrow });
  const outcomes = await Promise.allSettled(["lobby", "secret"].map((room) => narrow.made.join(room)));
  assert.deepEqual(outcomes.map(({ status, reason }) => reason?.code ?? status), ["fulfilled", 202]);
});
