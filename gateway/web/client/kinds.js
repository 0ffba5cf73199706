// The kinds of messages, written by tests/protocol/make_kinds.py from protocol/kinds.py.

/** By their numbers in CBOR. */
export const KINDS = [
  undefined, "auth", "refresh", "join", "leave", "subscribe", "unsubscribe", "publish", "send",
  "call", "ack", "history", "presence", "info", "stats", "ping", "typing", "connected", "reply",
  "error", "event", "lost", "pong", "closing",
];
/** Commands that belong to a connection. */
export const BOUND = new Set(["refresh", "join", "leave", "subscribe", "unsubscribe", "ack", "info"]);
/** What `send(type, data)` understands as a command of the protocol; everything else is a call. */
export const COMMANDS = new Set([...BOUND, "publish", "send", "history", "presence", "stats", "ping", "typing"]);
