// The codec of `trireme.v1.cbor` (RFC 8949, as far as the envelope goes: definite lengths, no tags):
//
//     import { cbor } from "trireme-client/cbor";
//     new Trireme({ codec: cbor });
//
// protocol/vectors hold it to the gateway's.

import { KINDS } from "./kinds.js";

const KEYS = ["v", "t", "id", "room", "event", "data", "seq", "epoch", "ts", "mid", "sender", "code", "message", "critical", "to"];
const DEPTH = 16;
const utf8 = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

class Writer {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #end = 0;

  get bytes() { return this.#bytes.subarray(0, this.#end); }

  #room(size) {
    const at = this.#end;
    this.#end += size;
    if (this.#end > this.#bytes.length) {
      const larger = new Uint8Array(2 * this.#end);
      larger.set(this.#bytes);
      [this.#bytes, this.#view] = [larger, new DataView(larger.buffer)];
    }
    return at;
  }

  /** The head of an item: its major type and its argument, in the shortest form. */
  head(major, argument) {
    const first = major << 5;
    const size = argument < 24 ? 0 : argument < 0x100 ? 1 : argument < 0x10000 ? 2 : argument < 0x100000000 ? 4 : 8;
    const at = this.#room(1 + size);
    this.#view.setUint8(at, first | (size ? 24 + Math.log2(size) : Number(argument)));
    if (size === 1) this.#view.setUint8(at + 1, Number(argument));
    else if (size === 2) this.#view.setUint16(at + 1, Number(argument));
    else if (size === 4) this.#view.setUint32(at + 1, Number(argument));
    else if (size === 8) this.#view.setBigUint64(at + 1, BigInt(argument));
  }

  #float(number) {
    const at = this.#room(9);
    this.#view.setUint8(at, 0xfb);
    this.#view.setFloat64(at + 1, number);
  }

  #text(text) {
    const bytes = utf8.encode(text);
    this.head(3, bytes.length);
    const at = this.#room(bytes.length); // first: it may take other bytes
    this.#bytes.set(bytes, at);
  }

  value(value) {
    if (typeof value?.toJSON === "function") value = value.toJSON(); // as JSON.stringify does
    if (typeof value === "string") this.#text(value);
    else if (typeof value === "number") {
      if (!Number.isFinite(value)) this.head(7, 22); // null, as in JSON
      else if (!Number.isInteger(value) || Math.abs(value) >= 2 ** 63) this.#float(value);
      else if (value < 0) this.#integer(BigInt(value));
      else this.head(0, value);
    } else if (typeof value === "bigint") this.#integer(value);
    else if (typeof value === "boolean") this.head(7, value ? 21 : 20);
    else if (Array.isArray(value)) {
      this.head(4, value.length);
      for (const item of value) this.value(item);
    } else if (value && typeof value === "object") {
      const fields = Object.entries(value).filter(([, item]) => item !== undefined && typeof item !== "function");
      this.head(5, fields.length);
      for (const [key, item] of fields) {
        this.#text(key);
        this.value(item);
      }
    } else this.head(7, 22);
  }

  #integer(value) {
    if (value < 0n) this.head(1, -1n - value);
    else this.head(0, value);
  }
}

class Reader {
  #at = 0;

  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get done() { return this.#at === this.bytes.length; }

  #argument(low) {
    if (low < 24) return low;
    const at = this.#at;
    if (low === 24) return this.view.getUint8((this.#at += 1) - 1);
    if (low === 25) return this.view.getUint16((this.#at += 2) && at);
    if (low === 26) return this.view.getUint32((this.#at += 4) && at);
    if (low !== 27) throw new SyntaxError("CBOR: indefinite or reserved length");
    this.#at += 8;
    const large = this.view.getBigUint64(at);
    return large <= Number.MAX_SAFE_INTEGER ? Number(large) : large;
  }

  #simple(low) {
    if (low === 20 || low === 21) return low === 21;
    if (low === 22) return null;
    const at = this.#at;
    if (low === 26) return this.view.getFloat32((this.#at += 4) && at);
    if (low === 27) return this.view.getFloat64((this.#at += 8) && at);
    if (low === 25) {
      const half = this.view.getUint16((this.#at += 2) && at);
      const [sign, exponent, fraction] = [half & 0x8000 ? -1 : 1, (half >> 10) & 31, half & 1023];
      if (exponent === 31) return fraction ? NaN : sign * Infinity;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : (fraction / 1024) * 2 ** -14);
    }
    throw new SyntaxError(`CBOR: simple value ${low}`);
  }

  #many(low) {
    const count = Number(this.#argument(low));
    if (count > this.bytes.length - this.#at) throw new SyntaxError("CBOR: longer than the message");
    return count;
  }

  item(depth = 0) {
    if (depth > DEPTH) throw new SyntaxError("CBOR: nested too deeply");
    const first = this.view.getUint8(this.#at++);
    const [major, low] = [first >> 5, first & 31];
    if (major === 7) return this.#simple(low);
    if (major === 0) return this.#argument(low);
    if (major === 1) {
      const argument = this.#argument(low);
      const value = -1n - BigInt(argument);
      return value < Number.MIN_SAFE_INTEGER ? value : Number(value);
    }
    if (major === 3) {
      const size = this.#many(low);
      return strict.decode(this.bytes.subarray(this.#at, (this.#at += size)));
    }
    if (major === 4) return Array.from({ length: this.#many(low) }, () => this.item(depth + 1));
    if (major !== 5) throw new SyntaxError(`CBOR: major type ${major}`);
    const fields = Array.from({ length: this.#many(low) }, () => [this.item(depth + 1), this.item(depth + 1)]);
    return depth === 0 ? fields : Object.fromEntries(fields);
  }
}

/** @type {import("./client.js").Codec} */
export const cbor = {
  subprotocol: "trireme.v1.cbor",
  binary: true,
  encode(message) {
    const writer = new Writer();
    const fields = Object.entries(message)
      .filter(([, value]) => value !== undefined && value !== null)
      .map(([name, value]) => [KEYS.indexOf(name), name === "t" ? KINDS.indexOf(value) : value])
      .sort(([one], [other]) => one - other);
    if (fields.some(([key, value]) => key < 0 || (key === 1 && value < 0))) throw new TypeError("CBOR: not a field or a kind of the envelope");
    writer.head(5, fields.length);
    for (const [key, value] of fields) {
      writer.head(0, key);
      writer.value(value);
    }
    return writer.bytes;
  },
  decode(data) {
    const reader = new Reader(data instanceof Uint8Array ? data : new Uint8Array(data));
    const fields = reader.item();
    if (!Array.isArray(fields) || !reader.done) throw new SyntaxError("CBOR: not one map");
    const known = fields.filter(([key, value]) => KEYS[key] && typeof key === "number" && value !== null);
    return Object.fromEntries(known.map(([key, value]) => [KEYS[key], key === 1 ? KINDS[value] : value]));
  },
};
