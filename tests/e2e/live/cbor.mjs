// CBOR as far as the envelope needs it (RFC 8949, definite lengths, no tags), written from the specification.

const KEYS = ["v", "t", "id", "room", "event", "data", "seq", "epoch", "ts", "mid", "sender", "code", "message"];
const KINDS = [
  null, "auth", "refresh", "join", "leave", "subscribe", "unsubscribe", "publish", "send", "call", "ack", "history", "presence",
  "info", "stats", "ping", "typing", "connected", "reply", "error", "event", "lost", "pong", "closing",
];

function head(major, value) {
  const bytes = Buffer.alloc(9);
  if (value < 24) return Buffer.of((major << 5) | value);
  const size = value < 0x100 ? 1 : value < 0x10000 ? 2 : value < 0x100000000 ? 4 : 8;
  bytes[0] = (major << 5) | (24 + Math.log2(size));
  if (size === 8) bytes.writeBigUInt64BE(BigInt(value), 1);
  else bytes.writeUIntBE(value, 1, size);
  return bytes.subarray(0, 1 + size);
}

export function encode(value) {
  if (value === null) return Buffer.of(0xf6);
  if (typeof value === "boolean") return Buffer.of(value ? 0xf5 : 0xf4);
  if (Number.isInteger(value)) return value < 0 ? head(1, -1 - value) : head(0, value);
  if (typeof value === "number") {
    const bytes = Buffer.alloc(9, 0xfb);
    bytes.writeDoubleBE(value, 1);
    return bytes;
  }
  if (typeof value === "string") return Buffer.concat([head(3, Buffer.byteLength(value)), Buffer.from(value)]);
  if (Array.isArray(value)) return Buffer.concat([head(4, value.length), ...value.map(encode)]);
  const pairs = value instanceof Map ? [...value] : Object.entries(value);
  return Buffer.concat([head(5, pairs.length), ...pairs.flat().map(encode)]);
}

export function decode(bytes) {
  let at = 0;
  const item = () => {
    const first = bytes[at++];
    const [major, low] = [first >> 5, first & 31];
    if (major === 7) {
      if (low === 20 || low === 21) return low === 21;
      if (low === 22) return null;
      if (low === 27) return bytes.readDoubleBE((at += 8) - 8);
      if (low === 26) return bytes.readFloatBE((at += 4) - 4);
      throw new Error(`simple value ${low}`);
    }
    if (low > 27 || major === 6) throw new Error(`initial byte ${first}`);
    let argument = low;
    if (low >= 24) {
      const size = 2 ** (low - 24);
      argument = size === 8 ? Number(bytes.readBigUInt64BE(at)) : bytes.readUIntBE(at, size);
      at += size;
    }
    if (major === 0) return argument;
    if (major === 1) return -1 - argument;
    if (major === 3) return bytes.toString("utf8", at, (at += argument));
    if (major === 4) return Array.from({ length: argument }, item);
    if (major === 5) return new Map(Array.from({ length: argument }, () => [item(), item()]));
    throw new Error(`major type ${major}`);
  };
  const result = item();
  if (at !== bytes.length) throw new Error("trailing bytes");
  return result;
}

const plain = (value) => {
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, inner]) => [key, plain(inner)]));
  return Array.isArray(value) ? value.map(plain) : value;
};

/** An envelope with names → bytes with integers, and back. */
export const pack = (message) => encode(new Map(Object.entries({ v: 1, ...message }).map(
  ([key, value]) => [KEYS.indexOf(key), key === "t" ? KINDS.indexOf(value) : value],
)));

export const unpack = (bytes) => Object.fromEntries([...decode(bytes)].map(
  ([key, value]) => [KEYS[key], key === 1 ? KINDS[value] : plain(value)],
));
