// The CBOR subprotocol, spoken by npm's ws with an encoder of the test's own.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocket } from "ws";
import { cbor } from "../../../gateway/web/client/cbor.js";
import { pack, unpack } from "./cbor.mjs";
import { address, client, next, raw, tokens } from "./gateway.mjs";

async function open(t, user) {
  const { socket, receive } = await raw(t, user, ["trireme.v1.cbor"]);
  const hear = async () => {
    const { data, isBinary } = await receive();
    assert.ok(isBinary);
    return unpack(data);
  };
  return { socket, hear, say: (message) => socket.send(pack(message)) };
}

test("the same envelope, with integers for names", async (t) => {
  const alice = await open(t, "alice");
  assert.equal(alice.socket.protocol, "trireme.v1.cbor");
  const welcome = await alice.hear();
  assert.deepEqual([welcome.t, welcome.data.user, welcome.data.subprotocol], ["connected", "alice", "trireme.v1.cbor"]);
  alice.say({ t: "join", id: 7, room: "chat:c1" });
  const joined = await alice.hear();
  assert.deepEqual(joined, { v: 1, t: "reply", id: 7, room: "chat:c1", epoch: joined.epoch, seq: 0 });
  alice.say({ t: "pirate", id: 8 }); // packs as kind -1
  const error = await alice.hear();
  assert.deepEqual([error.t, error.id], ["error", 8]);
  alice.say({ t: "ping", id: 9, data: [1, -1, 1.5, "é", true, null, { a: [] }] });
  const pong = await alice.hear();
  assert.deepEqual([pong.t, pong.id, pong.data], ["pong", 9, [1, -1, 1.5, "é", true, null, { a: [] }]]);
});

test("CBOR and JSON clients hear each other, all values alike", async (t) => {
  const data = {
    null: null, yes: true, no: false, small: 23, byte: 255, word: 65536, long: 2 ** 40, negative: -500, float: 0.1, text: "Ærøskøbing 🚣",
    empty: "", list: [1, [2, [3]]], map: { "": { deep: [] } }, long_text: "x".repeat(300),
  };
  const alice = await open(t, "alice");
  await alice.hear();
  const bob = await client(t, "bob");
  await bob.join("chat:c2");
  alice.say({ t: "join", id: 1, room: "chat:c2" });
  await alice.hear();

  const heard = next(bob, "values");
  alice.say({ t: "publish", room: "chat:c2", event: "values", data });
  assert.deepEqual((await heard).data, data);
  assert.deepEqual((await alice.hear()).data, data, "one's own, in CBOR");
  await bob.publish("chat:c2", "values", data);
  assert.deepEqual((await alice.hear()).data, data, "what JSON said, in CBOR");
});

test("a text message on a CBOR connection closes with 1003, broken CBOR with 1007", async (t) => {
  for (const [message, code] of [["{}", 1003], [Buffer.of(0xa1, 0x00), 1007], [Buffer.of(0xbf, 0xff), 1007]]) {
    const { socket } = await raw(t, "alice", ["trireme.v1.cbor"]);
    const closed = new Promise((resolve) => socket.on("close", resolve));
    socket.send(message);
    assert.equal(await closed, code);
  }
});

test("CBOR is preferred where both are offered, JSON where nothing is, and only unknown ones are refused", async (t) => {
  const both = await raw(t, "alice", ["trireme.v1.json", "trireme.v1.cbor"]);
  assert.equal(both.socket.protocol, "trireme.v1.cbor");
  assert.ok((await both.receive()).isBinary);
  const none = await raw(t, "alice", []);
  assert.equal(JSON.parse((await none.receive()).data).data.subprotocol, "trireme.v1.json");

  const refused = new WebSocket(`${address}?token=${tokens.alice}`, ["graphql-ws"]);
  const response = await new Promise((resolve) => refused.on("error", () => {}).on("unexpected-response", (_, r) => resolve(r)));
  assert.equal(response.statusCode, 400);
  const chunks = [];
  for await (const chunk of response) chunks.push(chunk);
  assert.match(Buffer.concat(chunks).toString(), /trireme\.v1\.cbor.*trireme\.v1\.json/s);
});

test("the client with the codec of the package", async (t) => {
  const [alice, bob] = [await client(t, "alice", { codec: cbor }), await client(t, "bob")];
  assert.equal((await alice.info()).subprotocol, "trireme.v1.cbor");
  await Promise.all([alice.join("chat:codec"), bob.join("chat:codec")]);
  for (const [from, to] of [[alice, bob], [bob, alice]]) {
    const said = next(to, "said");
    const data = { text: "é😀", list: [1, -1, 1.5, null, true], large: 2n ** 60n };
    const { seq } = await from.publish("chat:codec", "said", data);
    const event = await said;
    assert.deepEqual([event.seq, event.data, event.room], [seq, data, "chat:codec"]);
  }
});
