// The JSON subprotocol, spoken by the browser client on npm's ws, and by ws alone.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket } from "ws";
import { Trireme } from "../../../gateway/web/client.js";
import { address, client, next, raw, tokens } from "./gateway.mjs";

test("the welcome tells who one is", async (t) => {
  const alice = new Trireme(address, { token: tokens.alice, WebSocket });
  t.after(() => alice.disconnect());
  const welcome = await alice.connect();
  assert.equal(welcome.org, "acme");
  assert.equal(welcome.user, "alice");
  assert.equal(welcome.subprotocol, "trireme.v1.json");
  assert.ok(welcome.expires > Date.now());
  const info = await alice.info();
  assert.deepEqual([info.connection, info.org, info.user], [welcome.connection, "acme", "alice"]);
});

test("what one publishes in a room, all of it get, in order", async (t) => {
  const [alice, bob] = [await client(t, "alice"), await client(t, "bob")];
  const seen = [];
  bob.on("message:*", (event) => seen.push(event));
  const { epoch, seq } = await alice.join("chat:1");
  await bob.join("chat:1", { events: ["message:*"] });
  const done = next(bob, "message:last");
  const replies = await Promise.all([
    ...Array.from({ length: 20 }, (_, n) => alice.publish("chat:1", "message:new", { n, text: "é😀" })),
    alice.publish("chat:1", "other", null),
    alice.publish("chat:1", "message:last"),
  ]);
  await done;
  assert.deepEqual(replies.map((reply) => reply.seq), Array.from({ length: 22 }, (_, n) => seq + 1 + n));
  assert.ok(replies.every((reply) => reply.epoch === epoch));
  assert.deepEqual(seen.map((event) => event.seq), replies.filter((_, n) => n !== 20).map((reply) => reply.seq));
  assert.deepEqual(seen.slice(0, 20).map((event) => event.data), Array.from({ length: 20 }, (_, n) => ({ n, text: "é😀" })));
  assert.ok(seen.every((event) => event.sender === "alice" && event.room === "chat:1"));

  const page = await bob.history("chat:1", { since: { epoch, seq: seq + 20 } });
  assert.deepEqual(page.events.map(({ event }) => event), ["other", "message:last"]);
  assert.ok(page.complete);
  assert.deepEqual((await bob.presence("chat:1")).members.map(({ user }) => user).sort(), ["alice", "bob"]);
});

test("a user is reached on all connections, without a join", async (t) => {
  const [alice, phone, desk] = [await client(t, "alice"), await client(t, "bob"), await client(t, "bob")];
  const arrivals = [next(phone, "nudge"), next(desk, "nudge")];
  const { connections } = await alice.sendToUser("bob", "nudge", { from: "alice" });
  assert.equal(connections, 2);
  for (const event of await Promise.all(arrivals)) {
    assert.deepEqual([event.data, event.room, event.to], [{ from: "alice" }, undefined, "user"]);
  }
});

test("the filter holds back what was not subscribed", async (t) => {
  const [alice, bob] = [await client(t, "alice"), await client(t, "bob")];
  const seen = [];
  bob.on("*", (event) => seen.push(event.event));
  await alice.join("chat:2");
  await bob.join("chat:2");
  assert.deepEqual(await bob.subscribe("task:*"), { events: ["task:*"], except: [] });
  await bob.unsubscribe(["task:noise"]);
  const done = next(bob, "task:end");
  for (const name of ["message:new", "task:noise", "task:new", "task:end"]) await alice.publish("chat:2", name);
  await done;
  assert.deepEqual(seen, ["task:new", "task:end"]);
});

test("typing reaches the others", async (t) => {
  const [alice, bob] = [await client(t, "alice"), await client(t, "bob")];
  await alice.join("chat:3");
  await bob.join("chat:3");
  const started = next(bob, "typing:start");
  await alice.typing("chat:3");
  assert.deepEqual((await started).data, { user: "alice" });
  const stopped = next(bob, "typing:stop");
  await alice.typing("chat:3", "stop");
  assert.deepEqual((await stopped).data, { user: "alice" });
});

test("a command that is refused says why, and the connection goes on", async (t) => {
  const alice = await client(t, "alice");
  await assert.rejects(alice.call("nobody:answers"), { code: 108 });
  await assert.rejects(alice.join("a*"), { code: 105 });
  await assert.rejects(alice.publish(null, "everybody"), { code: 202 });
  assert.deepEqual((await alice.ping({ still: "here" })).data, { still: "here" });
  assert.ok((await alice.stats()).connections >= 1);
});

test("a repeated publish with the same mid is one event", async (t) => {
  const alice = await client(t, "alice");
  const { epoch, seq } = await alice.join("chat:4");
  const replies = [
    await alice.publish("chat:4", "paid", { amount: 1 }, { mid: "payment-1" }),
    await alice.publish("chat:4", "paid", { amount: 1 }, { mid: "payment-1" }),
  ];
  assert.deepEqual(replies.map((reply) => reply.seq), [seq + 1, seq + 1]);
  assert.equal((await alice.history("chat:4", { since: { epoch, seq } })).events.length, 1);
});

test("a ticket stands for the token", async (t) => {
  const alice = await client(t, "alice", { auth: "ticket" });
  assert.equal((await alice.info()).user, "alice");
});

test("a bad token is refused at once, with the reason", async () => {
  const attempts = [];
  class Counting extends WebSocket {
    constructor(...args) {
      super(...args);
      attempts.push(args);
    }
  }
  for (const auth of ["query", "ticket"]) {
    const mallory = new Trireme(address, { token: "no.such.token", WebSocket: Counting, auth });
    await assert.rejects(mallory.connect(), { code: "refused", message: /token/ });
    assert.equal(mallory.getState(), "disconnected");
  }
  assert.equal(attempts.length, 1, "without a ticket no connection is tried");
});

test("services publish to everybody, and mark what is critical", async (t) => {
  const [backend, bob] = [await client(t, "backend"), await client(t, "bob")];
  await bob.join("chat:6");
  const [everybody, alarm] = [next(bob, "notice"), next(bob, "alarm")];
  const { seq } = await backend.publish(null, "notice", { at: "noon" });
  await backend.publish("chat:6", "alarm", null, { critical: true });
  const { room, data } = await everybody;
  assert.deepEqual([room, data, (await everybody).seq], [undefined, { at: "noon" }, seq]);
  assert.equal((await alarm).critical, true);
  const alice = await client(t, "alice");
  await assert.rejects(alice.publish("chat:6", "alarm", null, { critical: true }), { code: 202 });
});

test("the token is renewed on the open connection", async (t) => {
  const alice = await client(t, "alice");
  assert.ok((await alice.refresh(tokens.alice_later)) > Date.now() + 7_000_000);
  await assert.rejects(alice.refresh(tokens.bob), { code: 204 });
  assert.ok(alice.isConnected());

  await alice.join("chat:7");
  await alice.join("lobby");
  const refused = next(alice, "error");
  await alice.refresh(tokens.alice_narrow);
  assert.equal((await refused).room, "chat:7");
  assert.deepEqual((await alice.info()).rooms.map(({ room }) => room), ["lobby"]);
});

test("the envelope is as documented, for any WebSocket", async (t) => {
  const { socket, receive } = await raw(t, "alice", ["trireme.v1.json"]);
  assert.equal(socket.protocol, "trireme.v1.json");
  const say = async (message) => {
    socket.send(JSON.stringify(message));
    const { data, isBinary } = await receive();
    assert.equal(isBinary, false);
    return JSON.parse(data);
  };
  assert.equal(JSON.parse((await receive()).data).t, "connected");
  const joined = await say({ v: 1, t: "join", id: 1, room: "chat:5" });
  assert.deepEqual(joined, { v: 1, t: "reply", id: 1, room: "chat:5", epoch: joined.epoch, seq: 0 });
  const event = await say({ v: 1, t: "publish", room: "chat:5", event: "message:new", data: { text: "hi" } });
  const { ts, mid } = event;
  assert.deepEqual(event, {
    v: 1, t: "event", room: "chat:5", event: "message:new", data: { text: "hi" }, seq: 1, epoch: joined.epoch, ts, mid, sender: "alice",
  });
  assert.equal((await say({ v: 1, t: "pirate", id: 9 })).code, 102);
});
