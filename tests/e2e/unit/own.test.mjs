// What the organisation and the user were sent while there was no connection: it comes without being asked for.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { advance, connected, fixDice, join, reset, settle, stopClock } from "./fake.mjs";

beforeEach(() => {
  stopClock();
  fixDice(0);
});
afterEach(reset);

const at = (organisation, user, epoch = "e1") => ({
  organisation: { epoch, seq: organisation },
  user: { epoch, seq: user },
});
const start = () => connected({ welcome: { resume: "token-1", positions: at(3, 5) } });

async function reconnect(play, positions) {
  play.socket.drop();
  await advance(0);
  play.socket.welcome({ resume: "token-2", positions });
}

const collect = (play) => {
  const seen = [];
  play.client.on("*", ({ to, seq, mid }) => mid && seen.push(`${to ?? "all"} ${seq}`));
  return seen;
};

const tell = (play, to, seq, fields = {}) =>
  play.socket.event(undefined, seq, { to, mid: `${to ?? "all"}-${seq}`, ...fields });

test("where nothing was missed nothing is asked", async () => {
  const play = await start();
  await reconnect(play, at(3, 5));
  await settle();
  assert.deepEqual(play.socket.sent, []);
});

test("what was missed comes once and in order", async () => {
  const play = await start();
  const seen = collect(play);
  tell(play, "user", 6);
  await reconnect(play, at(3, 8));
  assert.deepEqual(play.socket.last("join").data, { user: { since: { epoch: "e1", seq: 6 } } });
  tell(play, "user", 9); // it comes again behind the reply
  tell(play, undefined, 4);
  play.socket.reply("join", { data: { user: { epoch: "e1", seq: 9, recovered: true, replayed: 3 } } });
  for (const seq of [7, 8, 9, 9, 10]) tell(play, "user", seq);
  await settle();
  assert.deepEqual(seen, ["user 6", "all 4", "user 7", "user 8", "user 9", "user 10"]);
  assert.deepEqual(play.named("lost"), []);
});

test("with the resume token one command brings all", async () => {
  const play = await start();
  const seen = collect(play);
  await join(play, "r", 1);
  await reconnect(play, at(4, 5));
  assert.deepEqual(play.socket.last("join").data, {
    resume: "token-1",
    positions: { r: { epoch: "e1", seq: 1 } },
    organisation: { since: { epoch: "e1", seq: 3 } },
    user: { since: { epoch: "e1", seq: 5 } },
  });
  const rooms = { r: { epoch: "e1", seq: 1, recovered: true, replayed: 0 } };
  const organisation = { epoch: "e1", seq: 4, recovered: true, replayed: 1 };
  const user = { epoch: "e1", seq: 5, recovered: true, replayed: 0 };
  play.socket.reply("join", { data: { rooms, events: ["*"], except: [], organisation, user } });
  tell(play, undefined, 4);
  tell(play, "user", 6);
  await settle();
  assert.deepEqual(seen, ["all 4", "user 6"]);
  assert.deepEqual(play.socket.sent.map(({ t }) => t), ["join"]);
});

test("another epoch and a refusal are told", async () => {
  const play = await start();
  const seen = collect(play);
  await reconnect(play, at(1, 1, "e2"));
  const outcome = { epoch: "e2", seq: 1, recovered: false, replayed: 1 };
  play.socket.reply("join", { data: { organisation: outcome, user: outcome } });
  tell(play, "user", 1, { epoch: "e2", mid: "m" });
  await settle();
  assert.deepEqual(seen, ["user 1"]);
  assert.deepEqual(play.named("lost").map(({ of, from, reason }) => [of, from, reason]), [
    [undefined, 4, "epoch"],
    ["user", 6, "epoch"],
  ]);
});

test("the same message id to the organisation and to the user is two messages", async () => {
  const play = await start();
  const seen = collect(play);
  tell(play, undefined, 4, { mid: "m" });
  tell(play, "user", 6, { mid: "m" });
  tell(play, "connection", undefined, { mid: "m" });
  assert.equal(seen.length, 3);
});
