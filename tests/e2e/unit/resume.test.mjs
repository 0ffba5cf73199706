// Coming back with the resume token: one command restores everything, and what to do when it does not.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { advance, connected, fixDice, join, reset, settle, stopClock } from "./fake.mjs";

beforeEach(() => {
  stopClock();
  fixDice(0);
});
afterEach(reset);

const start = () => connected({ welcome: { resume: "token-1" } });

async function reconnect(play, resume = "token-2", limits = undefined) {
  play.socket.drop();
  await advance(0);
  play.socket.welcome({ resume, limits });
}

const restored = (seq, replayed = 0, more = {}) => ({ epoch: "e1", seq, recovered: true, replayed, ...more });

async function answer(play, rooms, events = ["*"], except = []) {
  play.socket.reply("join", { data: { rooms, events, except } });
  await settle();
}

const sent = (play) => play.socket.sent.map(({ t, room }) => (room === undefined ? t : `${t} ${room}`));

const collect = (play) => {
  const seen = [];
  play.client.on("*", ({ room, seq }) => seen.push(`${room} ${seq}`));
  return seen;
};

test("one command restores everything", async () => {
  const play = await start();
  const seen = collect(play);
  await join(play, "r", 4, { events: ["note"], overflow: "replay" });
  await join(play, "s", 7);
  play.socket.event("r", 5);
  play.socket.drop();
  const waiting = play.client.call("waiting");
  await advance(0);
  play.socket.welcome({ resume: "token-2" });
  assert.deepEqual(play.socket.sent.map(({ t, room, data }) => ({ t, room, data })), [
    { t: "join", room: undefined, data: { resume: "token-1", positions: { r: { epoch: "e1", seq: 5 }, s: { epoch: "e1", seq: 7 } } } },
  ]);
  play.socket.reply("join", { data: { rooms: { r: restored(7, 2), s: restored(7) }, events: ["*"], except: [] } });
  for (const seq of [5, 6, 7, 7, 8]) play.socket.event("r", seq); // at once, as one chunk brings them
  await settle();
  assert.deepEqual(seen, ["r 5", "r 6", "r 7", "r 8"]);
  assert.deepEqual(sent(play), ["join", "call"]);
  play.socket.reply("call", { data: 1 });
  assert.equal(await waiting, 1);
  assert.deepEqual([play.named("lost"), play.named("error")], [[], []]);

  await reconnect(play, "token-3");
  assert.deepEqual(play.socket.last("join").data, { resume: "token-2", positions: { r: { epoch: "e1", seq: 8 }, s: { epoch: "e1", seq: 7 } } });
  await answer(play, {}); // unknown there: the options are remembered here
  assert.deepEqual(sent(play), ["join", "join r", "join s"]);
  assert.deepEqual(play.socket.sent[1].data, { since: { epoch: "e1", seq: 8 }, events: ["note"], overflow: "replay" });
});

test("nothing to restore is not asked for", async () => {
  const play = await start();
  await reconnect(play);
  assert.deepEqual(play.socket.sent, []);
});

test("an unknown token, or one that takes too long, means room by room", async () => {
  for (const code of [109, 303]) {
    const play = await start();
    await join(play, "r", 4);
    await reconnect(play);
    play.socket.say({ t: "error", id: play.socket.last("join").id, code, message: "no" });
    await settle();
    assert.deepEqual(sent(play), ["join", "join r"]);
    assert.deepEqual(play.socket.last("join").data.since, { epoch: "e1", seq: 4 });
    assert.deepEqual(play.named("error"), []);
  }
});

test("more than the gateway takes is done room by room", async () => {
  const play = await start();
  for (let n = 0; n < 20; n++) await join(play, `a room with a long name ${n} ${"x".repeat(50)}`, 1);
  await reconnect(play, "token-2", { message_bytes: 1024 });
  await settle();
  assert.equal(play.socket.sent.length, 20);
});

test("rooms that were not restored are joined or given up", async () => {
  const play = await start();
  const seen = collect(play);
  for (const room of ["fine", "later", "unknown", "closed"]) await join(play, room, 3);
  await reconnect(play);
  await answer(play, {
    fine: restored(3),
    later: { code: 302, message: "no broker" },
    closed: { code: 202, message: "no more" },
    stray: restored(1, 1),
  });
  play.socket.event("stray", 1);
  assert.deepEqual(sent(play).slice(1), ["join later", "join unknown", "join closed"]);
  for (const { id, room } of play.socket.sent.slice(1)) {
    if (room === "closed") play.socket.say({ t: "error", id, code: 202, message: "no more", room });
    else play.socket.say({ t: "reply", id, room, epoch: "e1", seq: 3, data: { recovered: true, replayed: 0 } });
  }
  await settle();
  assert.deepEqual(sent(play).slice(4), ["leave stray"]);
  play.socket.reply("leave", { room: "stray" });
  await settle();
  assert.deepEqual(play.named("error").map(({ code, room }) => [code, room]), [[202, "closed"]]);
  assert.deepEqual(seen, []);
  await reconnect(play);
  assert.deepEqual(Object.keys(play.socket.last("join").data.positions), ["fine", "later", "unknown"]);
});

test("a room left while away means room by room; one left meanwhile is left behind it", async () => {
  const play = await start();
  await join(play, "r", 4);
  await join(play, "s", 4);
  play.socket.drop();
  await play.client.leave("r");
  await advance(0);
  play.socket.welcome({ resume: "token-2" });
  assert.deepEqual(sent(play), ["join s"]);
  play.socket.reply("join", { room: "s", epoch: "e1", seq: 4, data: { recovered: true, replayed: 0 } });
  await settle();

  await reconnect(play, "token-3");
  const left = play.client.leave("s");
  await answer(play, { s: restored(4) });
  assert.deepEqual(sent(play), ["join", "leave s"]);
  play.socket.reply("leave", { room: "s" });
  await left;
});

test("a new epoch is told, and what a reply brings of the filter counts", async () => {
  const play = await start();
  await join(play, "r", 4);
  await reconnect(play);
  await answer(play, { r: restored(2, 2, { epoch: "e2", recovered: false }) }, ["note"], ["x"]);
  assert.deepEqual(play.named("lost"), [{ room: "r", epoch: "e1", from: 5, to: undefined, reason: "epoch" }]);
  play.socket.event("r", 1, { epoch: "e2", mid: "a" });
  await reconnect(play, "token-3");
  assert.deepEqual(play.socket.last("join").data.positions, { r: { epoch: "e2", seq: 1 } });
  play.socket.say({ t: "error", id: play.socket.last("join").id, code: 109, message: "too old" });
  await settle();
  assert.deepEqual(play.socket.last("subscribe").data, { events: ["note"] });
});

test("the token is that of the last connection that was whole, and forgotten by disconnect()", async () => {
  const play = await start();
  await join(play, "r", 4);
  await reconnect(play, "token-2");
  await reconnect(play, "token-3"); // before the answer
  assert.equal(play.socket.last("join").data.resume, "token-1");
  await answer(play, { r: restored(4) });
  await reconnect(play, "token-4");
  assert.equal(play.socket.last("join").data.resume, "token-3");
  play.client.disconnect();
  play.client.connect();
  await settle();
  play.socket.welcome({ resume: "token-5" });
  assert.deepEqual(play.socket.sent, []);
});

test("closing tells how long to wait, with the dice on top", async () => {
  fixDice(0.5);
  const play = await start();
  play.socket.say({ t: "closing", code: 1012, message: "restart", data: { reconnect: true, retry_after: 2.5, resume: "token-1" } });
  play.socket.drop(1012);
  assert.equal(play.named("reconnecting")[0].delay, 2_750);
});

test("who comes and goes is told once, after an interruption, too", async () => {
  const play = await start();
  const told = [];
  play.client.on("presence", ({ room, event, user }) => told.push(`${room} ${event} ${user}`));
  const presence = (event, user, room = "r") => play.socket.say({ t: "presence", room, event, ts: 1, data: { user } });
  const joining = play.client.join("r", { presence: true });
  await settle();
  assert.equal(play.socket.last("join").data.presence, true);
  play.socket.reply("join", { room: "r", epoch: "e1", seq: 4, data: { users: ["alice", "bob"] } });
  assert.deepEqual((await joining).users, ["alice", "bob"]);
  presence("join", "bob");
  presence("leave", "bob");
  presence("leave", "bob");
  presence("join", "dave");
  presence("join", "eve", "other");
  assert.deepEqual(told.splice(0), ["r leave bob", "r join dave"]);
  await reconnect(play);
  await answer(play, { r: restored(4, 0, { users: ["bob", "dave"] }) });
  assert.deepEqual(told.splice(0), ["r leave alice", "r join bob"]);
  await reconnect(play, "token-3");
  play.socket.say({ t: "error", id: play.socket.last("join").id, code: 109, message: "too old" });
  await settle();
  assert.equal(play.socket.last("join").data.presence, true);
  play.socket.reply("join", { room: "r", epoch: "e1", seq: 4, data: { recovered: true, replayed: 0, users: ["dave"] } });
  assert.deepEqual(told, ["r leave bob"]);
});
