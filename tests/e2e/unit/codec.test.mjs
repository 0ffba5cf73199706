// The CBOR codec and the filter, against the vectors of the protocol.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { cbor } from "../../../gateway/web/client/cbor.js";
import { parse } from "../../../gateway/web/client/json.js";
import { compile, Filter } from "../../../gateway/web/client/patterns.js";

const read = (name) => parse(readFileSync(new URL(`../../../protocol/vectors/${name}.json`, import.meta.url), "utf8"));
const hex = (text) => Uint8Array.from(Buffer.from(text, "hex"));
const floats = /\d\.0[^\d]|\d[eE]/; // JSON.parse does not tell 1.0 from 1, which are two things in CBOR

/** Without what has no order in a map. */
const sorted = (value) => {
  if (Array.isArray(value)) return value.map(sorted);
  if (!value || typeof value !== "object") return Object.is(value, -0) ? 0 : value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
};

test("CBOR: what is valid is decoded to what it means, and the usual form encoded to the same bytes", () => {
  const all = [...read("valid"), ...read("boundary").valid];
  let encoded = 0;
  for (const { name, envelope, cbor: bytes, json, usual } of all) {
    assert.deepEqual(sorted(cbor.decode(hex(bytes))), sorted(envelope), name);
    if (!usual || floats.test(json)) continue;
    assert.equal(Buffer.from(cbor.encode(envelope)).toString("hex").length, bytes.length, name);
    assert.deepEqual(sorted(cbor.decode(cbor.encode(envelope))), sorted(envelope), name);
    encoded += 1;
  }
  assert.ok(encoded > 20);
});

test("CBOR: bytes that are cut short, or go on, are refused", () => {
  const bytes = cbor.encode({ v: 1, t: "publish", room: "r", event: "e", data: { a: [1, "é", 2.5, true, null] } });
  for (let end = 0; end < bytes.length; end++) assert.throws(() => cbor.decode(bytes.subarray(0, end)), undefined, String(end));
  assert.throws(() => cbor.decode(Uint8Array.of(...bytes, 0)), SyntaxError);
  for (const text of ["9f01ff", "bf0001ff", "a10518", "a105c100", "a105f7"]) assert.throws(() => cbor.decode(hex(text)), undefined, text);
  assert.throws(() => cbor.decode(hex(`a105${"81".repeat(20)}00`)), /too deeply/);
  assert.throws(() => cbor.encode({ v: 1, t: "nothing" }), TypeError);
});

test("CBOR: integers of 64 bits, and values as JSON.stringify has them", () => {
  for (const value of [0, -1, 23, 24, 255, 256, 65535, 65536, 2 ** 32, -(2 ** 32), 2 ** 53 - 1, 2n ** 63n - 1n, -(2n ** 63n), 1.5, 1e300, -0.25]) {
    assert.deepEqual(cbor.decode(cbor.encode({ t: "event", data: value })).data, value);
  }
  const data = { day: new Date(0), gone: undefined, nan: NaN, list: [undefined, () => 1], call: () => 1 };
  assert.deepEqual(cbor.decode(cbor.encode({ t: "event", data })).data, JSON.parse(JSON.stringify(data)));
  assert.equal(cbor.decode(cbor.encode({ t: "event", data: 2 ** 70 })).data, 2 ** 70);
});

test("filters are those of the gateway", () => {
  const { matches, filters } = read("patterns");
  for (const { pattern, name, matches: wanted } of matches) {
    const found = compile(pattern) ? compile(pattern).test(name) : pattern === name;
    assert.equal(found, wanted, `${pattern} ${name}`);
    assert.equal(new Filter([pattern === "all" ? "*" : pattern]).allows(name), wanted, `${pattern} ${name}`);
  }
  for (const { about, steps, events, except, passes, held } of filters) {
    const filter = steps.reduce((before, [step, patterns]) => before[step](patterns), new Filter());
    assert.deepEqual([filter.events, filter.except], [events, except], about);
    for (const name of passes) assert.ok(filter.allows(name), `${about}: ${name}`);
    for (const name of held) assert.ok(!filter.allows(name), `${about}: ${name}`);
  }
});
