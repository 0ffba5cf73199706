// Commands and their replies, rooms and events, and how they outlive a lost connection.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, test } from "node:test";
import { Trireme, TriremeError } from "../../../gateway/web/client.js";
import { advance, connected, fixDice, join, reset, settle, start, stopClock } from "./fake.mjs";

beforeEach(() => {
  stopClock();
  fixDice(0);
});
afterEach(reset);

async function reconnect(play) {
  play.socket.drop();
  await advance(0);
  play.socket.welcome();
}

const collect = (play, name) => {
  const seen = [];
  play.client.on(name, (event) => seen.push(event));
  return seen;
};

// ---- commands

test("every method says what the protocol says", async () => {
  const play = await connected();
  const { client } = play;
  const cases = [
    [() => client.join("r", { events: ["a:*"], overflow: "conflate", key: "k" }),
      { t: "join", room: "r", data: { events: ["a:*"], overflow: "conflate", key: "k" } },
      { room: "r", epoch: "e1", seq: 4 }, { room: "r", epoch: "e1", seq: 4 }],
    [() => client.publish("r", "e", { x: 1 }, { mid: "m" }), { t: "publish", room: "r", event: "e", data: { x: 1 }, mid: "m" },
      { room: "r", seq: 5, epoch: "e1", mid: "m" }, { room: "r", seq: 5, epoch: "e1", mid: "m" }],
    [() => client.publish(null, "e", undefined, { critical: true }), { t: "publish", event: "e", critical: true }, { seq: 1, epoch: "o", mid: "m" }, { room: null, seq: 1, epoch: "o", mid: "m" }],
    [() => client.sendToUser("bob", "e", [1]), { t: "send", event: "e", data: { user: "bob", data: [1] } },
      { mid: "m", data: { connections: 2 } }, { mid: "m", connections: 2 }],
    [() => client.call("pause", { id: 1 }), { t: "call", event: "pause", data: { id: 1 } }, { data: "done" }, "done"],
    [() => client.subscribe("a"), { t: "subscribe", data: { events: ["a"] } }, { data: { events: ["a"], except: [] } }, { events: ["a"], except: [] }],
    [() => client.unsubscribe(["a", "b"]), { t: "unsubscribe", data: { events: ["a", "b"] } }, { data: { events: [], except: [] } }, { events: [], except: [] }],
    [() => client.typing("r"), { t: "typing", room: "r", data: { state: "start" } }, { room: "r" }, undefined],
    [() => client.typing("r", "stop"), { t: "typing", room: "r", data: { state: "stop" } }, { room: "r" }, undefined],
    [() => client.info(), { t: "info" }, { data: { user: "alice" } }, { user: "alice" }],
    [() => client.stats(), { t: "stats" }, { data: { connections: 3 } }, { connections: 3 }],
    [() => client.presence("r"), { t: "presence", room: "r" }, { room: "r", data: { members: [], connections: 0 } }, { members: [], connections: 0 }],
    [() => client.history("r", { since: { epoch: "e1", seq: 2 }, limit: 5 }), { t: "history", room: "r", data: { since: { epoch: "e1", seq: 2 }, limit: 5 } },
      { room: "r", epoch: "e1", seq: 9, data: { events: [], more: false, complete: true } }, { epoch: "e1", seq: 9, events: [], more: false, complete: true }],
    [() => client.leave("r"), { t: "leave", room: "r" }, { room: "r" }, undefined],
    [() => client.send({ t: "ack", room: "r", seq: 3 }), { t: "ack", room: "r", seq: 3 }, { room: "r", seq: 3 }, null],
  ];
  for (const [act, expected, reply, result] of cases) {
    const outcome = act();
    await settle();
    const { v, id, ...sent } = play.socket.sent.at(-1);
    assert.equal(v, 1);
    assert.deepEqual(sent, expected);
    play.socket.say({ t: "reply", id, ...reply });
    const got = await outcome;
    if (result !== null) assert.deepEqual(got, result);
    else assert.equal(got.seq, 3);
  }
  const ids = play.socket.sent.map(({ id }) => id);
  assert.equal(new Set(ids).size, ids.length);
});

test("ping gives the gateway's time, the echo and the round trip", async () => {
  const play = await connected();
  const pinged = play.client.ping({ n: 1 });
  await settle();
  play.socket.reply("ping", { ts: 1234, data: { n: 1 } });
  const { ts, data, rtt } = await pinged;
  assert.deepEqual([ts, data], [1234, { n: 1 }]);
  assert.ok(rtt >= 0 && rtt < 5_000);
});

test("replies in another order find their commands", async () => {
  const play = await connected();
  const [one, two] = [play.client.call("one"), play.client.call("two")];
  await settle();
  const [{ id: first }, { id: second }] = play.socket.sent;
  play.socket.say({ t: "reply", id: second, data: 2 });
  play.socket.say({ t: "reply", id: first, data: 1 });
  assert.deepEqual(await Promise.all([one, two]), [1, 2]);
});

test("the gateway's error rejects its command", async () => {
  const play = await connected();
  const publishing = play.client.publish("r", "e");
  await settle();
  play.socket.say({ t: "error", id: play.socket.last("publish").id, code: 300, message: "too fast", room: "r", data: { retry_after: 1.5 } });
  await assert.rejects(publishing, (error) => {
    assert.ok(error instanceof TriremeError);
    assert.deepEqual([error.code, error.message, error.room, error.retryAfter], [300, "too fast", "r", 1500]);
    return true;
  });
  assert.deepEqual(play.named("error"), []);
});

test("an error that belongs to no command is an event", async () => {
  const play = await connected();
  play.socket.say({ t: "error", code: 104, message: "bad" });
  assert.equal(play.named("error")[0].code, 104);
});

test("a command without a reply ends after its time", async () => {
  const play = await connected({ commandTimeout: 3_000, keepAlive: 1e9 });
  const outcome = assert.rejects(play.client.call("slow"), { code: "timeout", message: /no reply within 3000 ms/ });
  await advance(3_000);
  await outcome;
  play.socket.say({ t: "reply", id: play.socket.last("call").id });
  assert.deepEqual(play.named("error"), []);
});

test("without a connection, commands are refused clearly", async () => {
  const { client } = start();
  await assert.rejects(client.join("r"), { code: "not_connected", message: "join: not connected" });
});

test("a lost connection rejects what waits for a reply", async () => {
  const play = await connected();
  const outcome = assert.rejects(play.client.publish("r", "e"), { code: "disconnected", message: /1012, restart/ });
  await settle();
  play.socket.drop(1012, "restart");
  await outcome;
});

test("commands wait for the connection, in order, and settle within their time", async () => {
  const play = await connected({ commandTimeout: 1_000, keepAlive: 1e9 });
  play.socket.drop();
  const one = play.client.call("one");
  const two = play.client.call("two");
  await advance(0);
  assert.equal(play.sockets.length, 2);
  play.socket.welcome();
  assert.deepEqual(play.socket.sent.map(({ event }) => event), ["one", "two"]);
  play.socket.say({ t: "reply", id: play.socket.sent[0].id, data: 1 });
  assert.equal(await one, 1);
  const late = assert.rejects(two, { code: "timeout", message: /no reply/ });
  await advance(1_000);
  await late;

  play.socket.drop();
  const never = assert.rejects(play.client.call("three"), { code: "timeout", message: /no connection within 1000 ms/ });
  await advance(1_000);
  await never;
  play.socket.welcome();
  assert.deepEqual(play.socket.sent, []);
});

test("the queue is bounded, and 0 is none", async () => {
  const play = await connected({ queue: 2 });
  play.socket.drop();
  const fates = [play.client.call("a"), play.client.call("b"), play.client.call("c")].map((p) => p.catch((e) => e.code));
  assert.equal(await fates[2], "queue_full");
  play.client.disconnect();
  assert.deepEqual(await Promise.all(fates), ["disconnected", "disconnected", "queue_full"]);

  const none = await connected({ queue: 0 });
  none.socket.drop();
  await assert.rejects(none.client.call("a"), { code: "queue_full" });
});

test("commands that wait for replies are bounded", async () => {
  const play = await connected({ pending: 2 });
  play.client.call("a").catch(() => {});
  play.client.call("b").catch(() => {});
  await assert.rejects(play.client.call("c"), { code: "queue_full" });
  await advance(25_000);
  assert.equal(play.socket.sent.at(-1).t, "ping", "the sign of life goes out all the same");
  play.socket.reply("call");
  const later = play.client.call("d");
  await settle();
  play.socket.reply("call", { data: "done" });
  assert.equal(await later, "done", "what is answered makes room");
});

test("what the gateway would close the connection over stays here", async () => {
  const play = await connected({ welcome: { limits: { message_bytes: 1024 } } });
  await assert.rejects(play.client.publish("r", "e", "é".repeat(500)), { code: 404 });
  assert.deepEqual(play.socket.sent, []);
  play.client.publish("r", "e", "e".repeat(500)).catch(() => {});
  await settle();
  assert.equal(play.socket.sent.length, 1);
});

test("data that is not JSON rejects and leaves nothing behind", async () => {
  const play = await connected();
  const circle = [];
  circle.push(circle);
  await assert.rejects(play.client.publish("r", "e", circle), TypeError);
  assert.deepEqual(play.socket.sent, []);
});

// ---- events

test("handlers get events by name and by pattern, until taken away", async () => {
  const play = await connected();
  const seen = [];
  const note = (label) => () => seen.push(label);
  const plain = note("plain");
  play.client.on("task:created", plain);
  const off = play.client.on("task:*", note("tasks"));
  play.client.on("*ed", note("ed"));
  play.client.on("t*:*e*d", note("inner"));
  play.client.on("all", note("all"));
  play.client.on("*", note("star"));
  play.client.on("other", note("other"));
  play.client.on("task.created", note("dot"));
  play.client.on("task.*", note("dots"));
  const say = (event, seq) => play.socket.say({ t: "event", event, ts: 1, mid: `m${seq}` });
  say("task:created", 1);
  assert.deepEqual(seen.splice(0), ["plain", "tasks", "ed", "inner", "all", "star"]);
  off();
  play.client.off("task:created", plain);
  play.client.off("*");
  say("task:created", 2);
  assert.deepEqual(seen.splice(0), ["ed", "inner", "all"]);
});

test("patterns mean what the published vectors say", async () => {
  const { matches } = JSON.parse(readFileSync(new URL("../../../protocol/vectors/patterns.json", import.meta.url)));
  assert.ok(matches.length > 10);
  const { client, socket } = await connected();
  for (const [n, { pattern, name, matches: expected }] of matches.entries()) {
    let hit = false;
    const off = client.on(pattern, () => (hit = true));
    socket.say({ t: "event", event: name, ts: 1, mid: `m${n}` });
    assert.equal(hit, expected, `${pattern} on ${name}`);
    off();
  }
});

test("an event brings what the gateway said of it", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  await join(play, "r", 4);
  play.socket.event("r", 5, { data: { text: "hi" }, sender: "bob" });
  assert.deepEqual(seen, [{ room: "r", seq: 5, epoch: "e1", event: "note", ts: 1, mid: "r-5", data: { text: "hi" }, sender: "bob" }]);
});

test("a room's event cannot pose as one of the client's own", async () => {
  const play = await connected();
  const own = play.named("connected").length;
  const everything = collect(play, "*");
  play.socket.say({ t: "event", event: "connected", ts: 1, mid: "m" });
  assert.equal(play.named("connected").length, own);
  assert.equal(everything.length, 1);
  play.client.disconnect();
  assert.equal(everything.length, 1, "nor do patterns see the client's own");
});

test("a failing handler is reported and stops no other", async () => {
  const play = await connected();
  const failures = [];
  const report = (error) => failures.push(error.message);
  const before = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", report);
  try {
    play.client.on("note", () => {
      throw new Error("oops");
    });
    const seen = collect(play, "note");
    play.socket.event(undefined, undefined);
    await settle();
    assert.equal(seen.length, 1);
    assert.deepEqual(failures, ["oops"]);
    assert.ok(play.client.isConnected());
  } finally {
    process.removeListener("uncaughtException", report);
    before.forEach((listener) => process.on("uncaughtException", listener));
  }
});

test("duplicates are dropped by place and by message id", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  await join(play, "r", 4);
  await join(play, "s", 4);
  play.socket.event("r", 5);
  play.socket.event("r", 5, { mid: "other" });
  play.socket.event("r", 4, { mid: "older" });
  play.socket.event("r", 6, { mid: "r-5" });
  play.socket.event("s", 5, { mid: "r-5" });
  play.socket.event("r", 1, { epoch: "e2", mid: "new order" });
  play.socket.say({ t: "event", event: "note", ts: 1, mid: "direct" });
  play.socket.say({ t: "event", event: "note", ts: 1, mid: "direct" });
  assert.deepEqual(seen.map(({ room, mid }) => `${room} ${mid}`), ["r r-5", "s r-5", "r new order", "undefined direct"]);
});

test("only so many message ids are remembered", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  for (let n = 0; n < 2_001; n++) play.socket.say({ t: "event", event: "note", ts: 1, mid: `m${n}` });
  play.socket.say({ t: "event", event: "note", ts: 1, mid: "m1" });
  assert.equal(seen.length, 2_001, "the oldest is still known");
  play.socket.say({ t: "event", event: "note", ts: 1, mid: "m0" });
  assert.equal(seen.length, 2_002, "the one before it no longer");
});

test("only functions can be handlers", async () => {
  assert.throws(() => start().client.on("note", "handler"), TypeError);
});

test("something that is not JSON is an error event", async () => {
  const play = await connected();
  play.socket.onmessage({ data: "{" });
  assert.equal(play.named("error")[0].code, "invalid");
  assert.ok(play.client.isConnected());
});

test("kinds of a later version are ignored", async () => {
  const play = await connected();
  play.socket.say({ t: "novelty", room: "r" });
  assert.deepEqual(play.named("error"), []);
});

// ---- after a lost connection

test("rooms are rejoined from where they were left, with their options", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  await join(play, "r", 4, { events: ["note"] });
  await join(play, "s", 7);
  play.socket.event("r", 5);
  await reconnect(play);
  assert.deepEqual(play.socket.sent.map(({ v, id, t, ...rest }) => rest), [
    { room: "r", data: { since: { epoch: "e1", seq: 5 }, events: ["note"] } },
    { room: "s", data: { since: { epoch: "e1", seq: 7 } } },
  ]);
  const [r, s] = play.socket.sent;
  play.socket.say({ t: "reply", id: r.id, room: "r", epoch: "e1", seq: 7, data: { recovered: true, replayed: 2 } });
  play.socket.event("r", 6);
  play.socket.event("r", 7);
  play.socket.say({ t: "reply", id: s.id, room: "s", epoch: "e1", seq: 9, data: { recovered: true, replayed: 0 } });
  play.socket.event("r", 8);
  assert.deepEqual(seen.map(({ seq }) => seq), [5, 6, 7, 8]);
  assert.deepEqual(play.named("lost"), []);
  assert.deepEqual(play.named("connected").map(({ reconnected }) => reconnected), [false, true]);

  await reconnect(play); // what the filter held back is not asked for again
  assert.deepEqual(play.socket.sent.map(({ data }) => data.since.seq), [8, 9]);
});

test("commands given while rooms are being rejoined come after", async () => {
  const play = await connected();
  await join(play, "r", 4);
  play.socket.drop();
  const waiting = play.client.call("waiting");
  play.client.on("connected", () => play.client.typing("r").catch(() => {}));
  await advance(0);
  play.socket.welcome();
  await settle();
  assert.deepEqual(play.socket.sent.map(({ t }) => t), ["join"]);
  play.socket.reply("join", { room: "r", epoch: "e1", seq: 4, data: { recovered: true, replayed: 0 } });
  await settle();
  assert.deepEqual(play.socket.sent.map(({ t }) => t), ["join", "call", "typing"]);
  play.socket.reply("call", { data: 1 });
  assert.equal(await waiting, 1);
});

test("the filter is restored before any room", async () => {
  const restored = async (steps) => {
    const play = await connected();
    await join(play, "r", 1);
    for (const [kind, given, events, except] of steps) {
      const done = play.client[kind](given);
      await settle();
      play.socket.reply(kind, { data: { events, except } });
      await done;
    }
    await reconnect(play);
    const sent = [];
    while (play.socket.sent.at(-1).t !== "join") {
      const { t, data } = play.socket.sent.at(-1);
      sent.push([t, data.events]);
      play.socket.reply(t, { data: { events: steps.at(-1)[2], except: steps.at(-1)[3] } });
      await settle();
    }
    return sent;
  };
  assert.deepEqual(await restored([]), []);
  assert.deepEqual(await restored([["subscribe", ["a", "b"], ["a", "b"], []]]), [["subscribe", ["a", "b"]]]);
  assert.deepEqual(
    await restored([["subscribe", "a*", ["a*"], []], ["unsubscribe", "ab", ["a*"], ["ab"]]]),
    [["subscribe", ["a*"]], ["unsubscribe", ["ab"]]],
  );
  // Never narrowed: a later subscribe must still be the first.
  assert.deepEqual(await restored([["unsubscribe", "t*", ["*"], ["t*"]]]), [["unsubscribe", ["t*"]]]);
  assert.deepEqual(await restored([["unsubscribe", "*", [], []]]), [["unsubscribe", ["*"]]]);
});

test("what the history no longer holds is told", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  await join(play, "r", 4);
  await reconnect(play);
  play.socket.reply("join", { room: "r", epoch: "e1", seq: 10, data: { recovered: false, replayed: 2 } });
  play.socket.say({ t: "lost", room: "r", epoch: "e1", data: { from: 5, to: 8, reason: "history" } });
  play.socket.event("r", 9);
  play.socket.event("r", 10);
  assert.deepEqual(play.named("lost"), [{ room: "r", epoch: "e1", from: 5, to: 8, reason: "history" }]);
  assert.deepEqual(seen.map(({ seq }) => seq), [9, 10]);
});

test("a room whose order began anew is told, and followed", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  await join(play, "r", 40);
  await reconnect(play);
  play.socket.reply("join", { room: "r", epoch: "e2", seq: 2, data: { recovered: false, replayed: 2 } });
  play.socket.event("r", 1, { epoch: "e2", mid: "x" });
  play.socket.event("r", 2, { epoch: "e2", mid: "y" });
  assert.deepEqual(play.named("lost"), [{ room: "r", epoch: "e1", from: 41, to: undefined, reason: "epoch" }]);
  assert.deepEqual(seen.map(({ mid }) => mid), ["x", "y"]);
  await reconnect(play);
  assert.deepEqual(play.socket.last("join").data.since, { epoch: "e2", seq: 2 });
});

test("a room whose order the broker lost on the open connection goes on in the new one", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  await join(play, "r", 4);
  const next = { epoch: "e2", seq: 2 };
  play.socket.say({ t: "lost", room: "r", epoch: "e1", data: { from: 5, reason: "epoch", next } });
  assert.deepEqual(play.named("lost"), [{ room: "r", epoch: "e1", from: 5, reason: "epoch" }]);
  await reconnect(play);
  assert.deepEqual(play.socket.last("join").data.since, next);
  play.socket.reply("join", { room: "r", epoch: "e2", seq: 3, data: { recovered: true, replayed: 1 } });
  play.socket.event("r", 3, { epoch: "e2" });
  assert.deepEqual(seen.map(({ seq }) => seq), [3]);
});

test("lost on the open connection is told, and join with since repairs it", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  await join(play, "r", 4);
  play.socket.say({ t: "lost", room: "r", epoch: "e1", data: { from: 5, to: 7, reason: "slow" } });
  play.socket.event("r", 8);
  const [lost] = play.named("lost");
  assert.deepEqual(lost, { room: "r", epoch: "e1", from: 5, to: 7, reason: "slow" });
  await join(play, "r", 8, { since: { epoch: lost.epoch, seq: lost.from - 1 } });
  for (const seq of [5, 6, 7, 8]) play.socket.event("r", seq);
  play.socket.event("r", 9);
  assert.deepEqual(seen.map(({ seq }) => seq), [8, 5, 6, 7, 9]);
});

test("what a critical event overtakes still counts", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  await join(play, "r", 4);
  play.socket.event("r", 7, { critical: true });
  for (const seq of [5, 6]) play.socket.event("r", seq);
  await reconnect(play);
  assert.equal(play.socket.last("join").data.since.seq, 6);
  play.socket.reply("join", { room: "r", epoch: "e1", seq: 8, data: { recovered: true, replayed: 2 } });
  for (const seq of [7, 8]) play.socket.event("r", seq);
  assert.deepEqual(seen.map(({ seq }) => seq), [7, 5, 6, 8]);
  assert.equal(seen[0].critical, true);
});

test("what went to the organisation during an interruption is told as lost", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  const say = (seq, epoch = "o1") => play.socket.event(undefined, seq, { epoch, mid: `${epoch}-${seq}` });
  say(5);
  say(7); // somebody was excluded from 6: no loss
  assert.deepEqual(play.named("lost"), []);
  await reconnect(play);
  say(7);
  say(8);
  assert.deepEqual(play.named("lost"), []);
  await reconnect(play);
  say(11);
  say(13);
  await reconnect(play);
  say(1, "o2");
  assert.deepEqual(play.named("lost"), [{ room: undefined, epoch: "o1", from: 9, to: 10, reason: "disconnected" }]);
  assert.deepEqual(seen.map(({ seq }) => seq), [5, 7, 8, 11, 13, 1]);
});

test("rooms that a renewed token no longer permits are left", async () => {
  const play = await connected();
  await join(play, "r", 4);
  await join(play, "s", 4);
  const refreshed = play.client.refresh("t2");
  await settle();
  play.socket.reply("refresh", { data: { left: ["r"] } });
  await refreshed;
  assert.deepEqual(play.named("error").map(({ code, room }) => [code, room]), [[202, "r"]]);
  await reconnect(play);
  assert.deepEqual(play.socket.sent.map(({ room }) => room), ["s"]);
});

test("after the end was announced, commands wait for the next connection", async () => {
  const play = await connected();
  play.socket.say({ t: "closing", code: 1012, message: "restart", data: { reconnect: true } });
  const waiting = play.client.call("later");
  await settle();
  assert.deepEqual(play.socket.sent, []);
  await reconnect(play);
  play.socket.reply("call", { data: "done" });
  assert.equal(await waiting, "done");
});

test("an end that is announced while rooms are rejoined holds commands back too", async () => {
  const play = await connected();
  await join(play, "r", 4);
  await reconnect(play);
  play.socket.say({ t: "closing", code: 1012, message: "restart", data: { reconnect: true } });
  play.socket.reply("join", { room: "r", epoch: "e1", seq: 4, data: { recovered: true, replayed: 0 } });
  await settle();
  play.client.call("later").catch(() => {});
  await settle();
  assert.deepEqual(play.socket.sent.map(({ t }) => t), ["join"]);
  play.client.disconnect();
});

test("joining again without since keeps the place", async () => {
  const play = await connected();
  const seen = collect(play, "note");
  await join(play, "r", 4);
  await join(play, "r", 6); // 5 and 6 are still on their way
  play.socket.event("r", 5);
  play.socket.event("r", 6);
  assert.deepEqual(seen.map(({ seq }) => seq), [5, 6]);
});

test("a room that refuses is given up, and one that cannot now is asked again", async () => {
  const play = await connected();
  await join(play, "r", 4);
  await join(play, "s", 4);
  await reconnect(play);
  const [r, s] = play.socket.sent;
  play.socket.say({ t: "error", id: r.id, code: 202, message: "forbidden", room: "r" });
  play.socket.say({ t: "error", id: s.id, code: 300, message: "too fast", room: "s", data: { retry_after: 2 } });
  await settle();
  assert.deepEqual(play.named("error").map(({ code, room }) => [code, room]), [[202, "r"]]);
  await advance(1_999);
  assert.equal(play.socket.sent.length, 2);
  await advance(1);
  assert.deepEqual([play.socket.sent.length, play.socket.last("join").room], [3, "s"]);
  play.socket.reply("join", { room: "s", epoch: "e1", seq: 4, data: { recovered: true, replayed: 0 } });
  await settle();
  await reconnect(play);
  assert.deepEqual(play.socket.sent.map(({ room }) => room), ["s"]);
});

test("a connection lost while rooms are being rejoined begins that anew", async () => {
  const play = await connected();
  await join(play, "r", 4);
  play.socket.drop();
  const waiting = play.client.call("waiting").catch(() => {});
  await advance(0);
  play.socket.welcome();
  await reconnect(play);
  await settle();
  assert.deepEqual(play.socket.sent.map(({ t }) => t), ["join"]);
  assert.deepEqual(play.named("error"), []);
  play.socket.reply("join", { room: "r", epoch: "e1", seq: 4, data: { recovered: true, replayed: 0 } });
  await settle();
  assert.deepEqual(play.socket.sent.map(({ t }) => t), ["join", "call"]);
  play.client.disconnect();
  await waiting;
});

test("a room left by send() is not rejoined either", async () => {
  const play = await connected();
  await join(play, "r", 4);
  const left = play.client.send({ t: "leave", room: "r" });
  await settle();
  play.socket.reply("leave", { room: "r" });
  await left;
  await reconnect(play);
  assert.deepEqual(play.socket.sent, []);
});

test("a room left while away is not rejoined", async () => {
  const play = await connected();
  await join(play, "r", 4);
  play.socket.drop();
  await play.client.leave("r");
  await advance(0);
  play.socket.welcome();
  assert.deepEqual(play.socket.sent, []);
});

test("disconnect() forgets rooms and filter; failing keeps them", async () => {
  const forgetful = await connected();
  await join(forgetful, "r", 4);
  const seen = collect(forgetful, "note");
  forgetful.socket.say({ t: "event", event: "note", ts: 1, mid: "m" });
  forgetful.client.disconnect();
  forgetful.client.connect();
  await settle();
  forgetful.socket.welcome();
  assert.deepEqual(forgetful.socket.sent, []);
  forgetful.socket.say({ t: "event", event: "note", ts: 1, mid: "m" });
  assert.equal(seen.length, 2, "message ids too");
  assert.equal(forgetful.named("connected").at(-1).reconnected, false);

  const faithful = await connected({ backoff: { tries: 0, giveUp: true } });
  await join(faithful, "r", 4);
  faithful.socket.drop();
  assert.equal(faithful.client.getState(), "failed");
  faithful.client.connect();
  await settle();
  faithful.socket.welcome();
  assert.deepEqual(faithful.socket.last("join").data.since, { epoch: "e1", seq: 4 });
});

test("needs a WebSocket and, outside a page, an address", () => {
  assert.throws(() => new Trireme("ws://x/ws", { WebSocket: null, fetch: null }), /no WebSocket here/);
  assert.throws(() => new Trireme({ WebSocket: class {} }), TypeError);
});
