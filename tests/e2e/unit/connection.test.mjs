// How the client connects, keeps alive, comes back and gives up.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { shouldReconnect, Trireme } from "../../../gateway/web/client.js";
import { advance, connected, fixDice, join, reset, settle, start, stopClock } from "./fake.mjs";

const LONGEST = 1 - 1e-12;

beforeEach(() => {
  stopClock();
  fixDice(LONGEST);
});
afterEach(reset);

test("offers the JSON subprotocol, brings the token and resolves with the welcome", async () => {
  const play = start({ token: "a.b+c" });
  const welcome = play.client.connect();
  await settle();
  assert.equal(play.client.getState(), "connecting");
  assert.deepEqual(play.socket.protocols, ["trireme.v1.json"]);
  assert.equal(play.socket.url.pathname, "/ws");
  assert.equal(play.socket.url.searchParams.get("token"), "a.b+c");
  play.socket.welcome();
  assert.equal((await welcome).org, "acme");
  assert.ok(play.client.isConnected());
  assert.deepEqual(play.named("state").map(({ state }) => state), ["connecting", "connected"]);
});

test("takes the address from the page", () => {
  globalThis.location = { href: "https://app.example/console/#token=x" };
  try {
    const sockets = [];
    class Socket {
      constructor(url) {
        sockets.push(url);
      }
    }
    const client = new Trireme({ WebSocket: Socket });
    client.connect();
    return settle().then(() => assert.deepEqual(sockets, ["wss://app.example/ws"]));
  } finally {
    delete globalThis.location;
  }
});

test("connect() twice is one connection", async () => {
  const play = start();
  const both = [play.client.connect(), play.client.connect()];
  await settle();
  assert.equal(play.sockets.length, 1);
  play.socket.welcome();
  await Promise.all(both);
  assert.equal((await play.client.connect()).org, "acme");
  assert.equal(play.sockets.length, 1);
});

test("asks a token function before every attempt", async () => {
  let asked = 0;
  const play = await connected({ token: async () => `t${++asked}` });
  play.socket.drop();
  await advance(500);
  play.socket.drop();
  await settle(); // REST is asked first
  await advance(1000);
  assert.deepEqual(play.sockets.map(({ url }) => url.searchParams.get("token")), ["t1", "t2", "t3"]);
});

test("a token function that fails or hangs is a failed attempt", async () => {
  const answers = [() => Promise.reject(new Error("offline")), () => new Promise(() => {}), () => "t3"];
  const play = start({ token: () => answers.shift()() });
  play.client.connect();
  await settle();
  await advance(500); // the second attempt, which hangs
  assert.equal(play.named("reconnecting").length, 1);
  await advance(10_000);
  assert.match(play.named("reconnecting")[1].reason, /no answer from the token function within 10000 ms/);
  await advance(1000);
  assert.equal(play.sockets.length, 1);
  assert.equal(play.socket.url.searchParams.get("token"), "t3");
});

test("exchanges the token for a ticket", async () => {
  const asked = [];
  const fetch = async (url, { method, headers }) => {
    asked.push([`${url}`, method, headers.Authorization]);
    return new Response(JSON.stringify({ ticket: `k${asked.length}` }));
  };
  const play = await connected({ auth: "ticket", fetch });
  play.socket.drop();
  await advance(500);
  assert.deepEqual(asked[0], ["http://gateway.example/api/v1/auth/ticket", "POST", "Bearer t0"]);
  assert.deepEqual(play.sockets.map(({ url }) => url.search), ["?ticket=k1", "?ticket=k2"]);
});

test("authenticates with the first message", async () => {
  const play = await connected({ auth: "message" });
  assert.equal(play.socket.url.search, "");
  assert.deepEqual(play.socket.sent[0], { v: 1, t: "auth", data: { token: "t0" } });
});

test("a refused token ends the attempts, with the gateway's reason", async () => {
  const problem = () => Promise.resolve(new Response(JSON.stringify({ detail: "the token has expired" }), { status: 401 }));
  const play = start({ fetch: problem });
  const connecting = play.client.connect();
  await settle();
  play.socket.drop(1006);
  await assert.rejects(connecting, { name: "TriremeError", code: "refused", message: /the token has expired/ });
  assert.equal(play.client.getState(), "disconnected");
  await advance(60_000);
  assert.equal(play.sockets.length, 1);
  const again = play.client.connect();
  await settle();
  play.socket.welcome();
  assert.equal((await again).org, "acme", "what was refused once may be asked for again");
});

test("another failure of the same kind is tried again", async () => {
  const play = start({ fetch: () => Promise.resolve(new Response("{}", { status: 503 })) });
  play.client.connect();
  await settle();
  play.socket.drop(1006);
  await settle();
  assert.equal(play.client.getState(), "reconnecting");
});

test("waits with exponential backoff and full jitter, says after ten tries that it failed, and goes on", async () => {
  const play = start({ fetch: undefined });
  let welcomed = false;
  play.client.connect().then(() => (welcomed = true));
  await settle();
  const delays = [];
  for (let attempt = 1; attempt <= 12; attempt++) {
    play.socket.drop();
    await settle();
    const { delay, attempt: told } = play.named("reconnecting").at(-1);
    assert.equal(told, attempt);
    assert.equal(play.named("reconnect:failed").length, attempt > 10 ? 1 : 0);
    delays.push(delay);
    if (delay < 10_000) await advance(delay - 1);
    assert.equal(play.sockets.length, attempt, "not before its time");
    await advance(delay < 10_000 ? 1 : delay);
    assert.equal(play.sockets.length, attempt + 1);
  }
  assert.deepEqual(delays, [500, 1000, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, 30000, 30000]);
  assert.equal(play.named("reconnect:failed")[0].attempts, 10);
  assert.equal(play.client.getState(), "reconnecting");
  play.socket.welcome();
  await settle();
  assert.ok(welcomed && play.client.isConnected());
});

test("with giveUp it ends after its tries", async () => {
  const play = start({ backoff: { giveUp: true, tries: 3 } });
  const outcome = assert.rejects(play.client.connect(), { code: "failed" });
  for (let attempt = 0; attempt <= 3; attempt++) {
    await settle();
    play.socket.drop();
    await settle();
    if (attempt < 3) await advance(play.named("reconnecting").at(-1).delay);
  }
  await outcome;
  assert.equal(play.client.getState(), "failed");
  assert.equal(play.named("reconnect:failed")[0].attempts, 3);
  await advance(600_000);
  assert.equal(play.sockets.length, 4);
  play.client.connect().catch(() => {});
  await settle();
  assert.equal(play.sockets.length, 5, "a new connect() begins anew");
  play.socket.drop();
  await settle();
  assert.equal(play.named("reconnecting").at(-1).attempt, 1);
  play.client.disconnect();
});

test("no dice make a restart of 2 s cost more than 3 s", async () => {
  let state = 1;
  mock.method(Math, "random", () => (state = (state * 48271) % 0x7fffffff) / 0x7fffffff);
  for (let round = 0; round < 200; round++) {
    const play = await connected();
    play.socket.drop();
    let at = 0;
    for (;;) {
      const { delay } = play.named("reconnecting").at(-1);
      await advance(delay);
      at += delay;
      if (at >= 2_000) break;
      play.socket.drop();
      await settle();
    }
    assert.ok(at <= 3_000, `${at}`);
    play.client.disconnect();
  }
});

test("jitter reaches down to no wait at all", async () => {
  fixDice(0);
  const play = await connected();
  play.socket.drop();
  assert.equal(play.named("reconnecting")[0].delay, 0);
});

test("base, factor, maximum and tries are configurable", async () => {
  const play = start({ backoff: { base: 100, factor: 3, maximum: 800, tries: 4, giveUp: true } });
  play.client.connect().catch(() => {});
  for (let attempt = 0; attempt < 5; attempt++) {
    await settle();
    play.socket.drop();
    await settle();
    await advance(800);
  }
  assert.deepEqual(play.named("reconnecting").map(({ delay }) => delay), [100, 300, 800, 800]);
  assert.equal(play.named("reconnect:failed").length, 1);
  assert.deepEqual(play.named("state").map(({ state }) => state), ["connecting", "reconnecting", "failed"]);
});

test("connections that do not last do not shorten the waits, and count as retries", async () => {
  await advance(100_000);
  const play = await connected();
  const delays = [];
  for (let round = 0; round < 5; round++) {
    play.socket.drop(1013);
    delays.push(play.named("reconnecting").at(-1).delay);
    await advance(delays.at(-1));
    play.socket.welcome();
  }
  await advance(5_000);
  play.socket.drop(1013);
  delays.push(play.named("reconnecting").at(-1).delay);
  assert.deepEqual(delays, [500, 1000, 1000, 2000, 4000, 500]);
  assert.deepEqual(play.named("reconnecting").map(({ attempt }) => attempt), [1, 2, 3, 4, 5, 1]);
});

test("the close code says whether to come back", async () => {
  for (const code of [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014, 4000, 4001, 4499]) {
    const play = await connected();
    play.socket.drop(code);
    assert.equal(play.client.getState(), "reconnecting", `${code}`);
    assert.ok(shouldReconnect(code));
    play.client.disconnect();
  }
  for (const code of [1002, 1003, 1007, 1008, 1009, 4500, 4501, 4999]) {
    const play = await connected();
    play.socket.drop(code, "because");
    assert.equal(play.client.getState(), "disconnected", `${code}`);
    assert.deepEqual(play.named("disconnected"), [{ code, reason: "because", reconnect: false }]);
    await advance(600_000);
    assert.equal(play.sockets.length, 1);
  }
});

test("an announced end counts, also when the connection is then cut", async () => {
  for (const code of [1000, 1005, 1006, 4500]) {
    const play = await connected();
    play.socket.say({ t: "closing", code: 4500, message: "by an administrator", data: { reconnect: false } });
    play.socket.drop(code);
    assert.deepEqual(play.named("disconnected"), [{ code: 4500, reason: "by an administrator", reconnect: false }]);
  }
});

test("retry_after is waited for, and the jitter on top", async () => {
  const play = await connected();
  play.socket.say({ t: "closing", code: 1012, message: "restart", data: { reconnect: true, retry_after: 7 } });
  play.socket.drop(1012, "restart");
  assert.equal(play.named("reconnecting")[0].delay, 7500);
  await advance(7499);
  assert.equal(play.sockets.length, 1);
  await advance(1);
  play.socket.welcome();
  await advance(6_000);
  play.socket.drop(1012);
  assert.equal(play.named("reconnecting")[1].delay, 500, "it held for once");
});

test("an unreasonable retry_after is cut", async () => {
  const play = await connected();
  play.socket.say({ t: "closing", code: 1012, data: { retry_after: 1e9 } });
  play.socket.drop(1012);
  assert.equal(play.named("reconnecting")[0].delay, 300_500);
});

test("disconnect() is for good", async () => {
  const play = await connected();
  const waiting = assert.rejects(play.client.publish("r", "e"), { code: "disconnected" });
  await settle();
  play.client.disconnect();
  await waiting;
  assert.ok(play.socket.closed);
  assert.equal(play.client.getState(), "disconnected");
  play.socket.drop(1006);
  await advance(600_000);
  assert.equal(play.sockets.length, 1);
  assert.deepEqual(play.named("reconnecting"), []);
});

test("disconnect() while connecting or waiting ends that too", async () => {
  const connecting = start();
  const outcome = assert.rejects(connecting.client.connect(), { code: "disconnected" });
  await settle();
  connecting.client.disconnect();
  await outcome;

  const waiting = await connected();
  waiting.socket.drop();
  waiting.client.disconnect();
  await advance(600_000);
  assert.equal(waiting.sockets.length, 1);
});

test("disconnect() from a handler of the end stops what would follow", async () => {
  const play = await connected();
  play.client.on("disconnected", () => play.client.disconnect());
  play.socket.drop();
  assert.equal(play.client.getState(), "disconnected");
  assert.deepEqual(play.named("reconnecting"), []);
  await advance(600_000);
  assert.equal(play.sockets.length, 1);
});

test("connect() during the wait tries at once", async () => {
  const play = await connected();
  play.socket.drop();
  const again = play.client.connect();
  await settle();
  assert.equal(play.sockets.length, 2);
  await advance(5_000);
  assert.equal(play.sockets.length, 2, "and not once more when the wait would have been over");
  play.socket.welcome();
  await again;
});

test("connect() during an attempt joins it", async () => {
  const play = await connected();
  play.socket.drop();
  await advance(500);
  let welcomed = false;
  const again = play.client.connect().then(() => (welcomed = true));
  await settle();
  assert.equal(play.sockets.length, 2);
  assert.equal(welcomed, false);
  play.socket.welcome();
  await again;
});

test("connect() after disconnect() waits for the new connection", async () => {
  const play = await connected();
  play.client.disconnect();
  let welcomed = false;
  const again = play.client.connect().then(() => (welcomed = true));
  await settle();
  assert.equal(welcomed, false);
  play.socket.welcome();
  await again;
});

test("disconnect() while the token is being asked for opens nothing", async () => {
  let give;
  const play = start({ token: () => new Promise((resolve) => (give = resolve)) });
  const outcome = assert.rejects(play.client.connect(), { code: "disconnected" });
  await settle();
  play.client.disconnect();
  give("t1");
  await outcome;
  await settle();
  assert.equal(play.sockets.length, 0);
});

test("a second welcome changes nothing", async () => {
  const play = await connected();
  play.socket.say({ t: "connected", data: { user: "mallory" } });
  assert.equal(play.named("connected").length, 1);
  assert.equal((await play.client.connect()).user, "alice");
});

test("an attempt without an answer ends after its time", async () => {
  const play = start();
  play.client.connect();
  await settle();
  await advance(9_999);
  assert.equal(play.client.getState(), "connecting");
  await advance(1);
  assert.equal(play.client.getState(), "reconnecting");
  assert.ok(play.socket.closed);
});

test("pings every 25 s", async () => {
  const play = await connected();
  await advance(24_999);
  assert.deepEqual(play.socket.sent, []);
  for (let round = 1; round <= 3; round++) {
    await advance(round === 1 ? 1 : 25_000);
    assert.equal(play.socket.sent.length, round);
    play.socket.reply("ping");
    await settle();
  }
  assert.ok(play.client.isConnected());
  assert.deepEqual(play.named("degraded"), []);
});

test("a missing pong is a lost connection", async () => {
  const play = await connected();
  await advance(25_000);
  await advance(9_999);
  assert.ok(play.client.isConnected());
  await advance(1);
  assert.deepEqual(play.named("disconnected"), [{ code: 4000, reason: "no pong within 10000 ms", reconnect: true }]);
  assert.ok(play.socket.closed);
  await advance(500);
  assert.equal(play.sockets.length, 2);
});

test("any message is a sign of life", async () => {
  const play = await connected();
  await advance(25_000);
  await advance(5_000);
  play.socket.event(undefined, undefined);
  await advance(5_000);
  assert.ok(play.client.isConnected());
});

test("a slow pong is degraded until one comes in time", async () => {
  const play = await connected();
  await advance(25_000);
  await advance(2_000);
  assert.deepEqual(play.named("degraded"), [{ degraded: true, reason: "the connection is slow", transport: "websocket" }]);
  play.socket.reply("ping");
  await settle();
  assert.deepEqual(play.named("degraded").at(-1), { degraded: false, reason: "", transport: "websocket" });
});

test("many failed retries are degraded until the connection is back", async () => {
  const play = await connected();
  for (let round = 0; round < 4; round++) {
    assert.deepEqual(play.named("degraded"), []);
    play.socket.drop();
    await settle();
    if (round < 3) await advance(play.named("reconnecting").at(-1).delay);
  }
  assert.deepEqual(play.named("degraded"), [{ degraded: true, reason: "there is no connection", transport: null }]);
  await advance(play.named("reconnecting").at(-1).delay);
  play.socket.welcome();
  assert.equal(play.named("degraded").at(-1).degraded, false);
});

test("renews the token before it expires", async () => {
  let asked = 0;
  const play = await connected({ token: () => `t${++asked}`, keepAlive: 1e9, welcome: { expires: Date.now() + 600_000 } });
  await advance(539_999);
  assert.ok(!play.socket.sent.some(({ t }) => t === "refresh"));
  await advance(1);
  assert.deepEqual(play.socket.last("refresh").data, { token: "t2" });
  play.socket.reply("refresh", { data: { expires: Date.now() + 100_000 } });
  await settle();
  await advance(80_000);
  assert.deepEqual(play.socket.last("refresh").data, { token: "t3" });
});

test("a token that was renewed by hand is not renewed again at the old time", async () => {
  const play = await connected({ token: () => "t1", keepAlive: 1e9, welcome: { expires: Date.now() + 100_000 } });
  const refreshed = play.client.refresh("t2");
  await settle();
  assert.deepEqual(play.socket.last("refresh").data, { token: "t2" });
  play.socket.reply("refresh", { data: { expires: Date.now() + 1_000_000 } });
  assert.equal(await refreshed, 1_000_000);
  await advance(100_000);
  assert.equal(play.socket.sent.filter(({ t }) => t === "refresh").length, 1);
});

test("a token that never expires is not renewed", async () => {
  const play = await connected({ token: () => "t1" });
  await advance(20_000);
  assert.deepEqual(play.socket.sent, []);
});

test("a token that is mere text is not renewed", async () => {
  const play = await connected({ welcome: { expires: Date.now() + 10_000 } });
  await advance(20_000);
  assert.deepEqual(play.socket.sent, []);
});

test("what an ended socket still says is ignored", async () => {
  const play = await connected();
  const seen = [];
  play.client.on("*", (event) => seen.push(event));
  const old = play.socket;
  old.drop();
  await advance(500);
  play.socket.welcome();
  await join(play, "r", 5);
  old.event("r", 6);
  old.drop(1000);
  assert.deepEqual(seen, []);
  assert.ok(play.client.isConnected());
});
