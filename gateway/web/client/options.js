// What a client can be told, and what it does where it is not.

/** @typedef {{epoch: string, seq: number}} Position  a place in a room's order
 *
 * @typedef {{event: string, room?: string, data?: any, seq?: number, epoch?: string, ts: number, mid: string,
 *   sender?: string, critical?: boolean, to?: "user" | "connection"}} RoomEvent  what handlers get; without `room` it
 *   came to the organisation, or where `to` says; `seq` has no holes in its room, and only critical events overtake
 *   others; `ts` is in milliseconds since 1970 UTC, `mid` is the message's id
 *
 * @typedef {object} Options  durations are milliseconds; docs/client-js.md says more
 * @property {string | (() => string | Promise<string>)} [token]  a function is asked before every connection
 *   attempt, and again before an open connection's token expires; with one, a refused token is not the end
 * @property {"query" | "ticket" | "message"} [auth]  how the token travels to a WebSocket
 * @property {("websocket" | "sse" | "poll")[]} [transports]  in the order of preference
 * @property {number} [retryWebSocket]  on another transport a better one is tried this often; the wait doubles, up to
 *   ten times this; 0: never
 * @property {Storage | null} [storage]  remembers the transport that worked
 * @property {object} [codec]           another codec than JSON for the WebSocket
 * @property {{base?: number, factor?: number, maximum?: number, tries?: number, giveUp?: boolean}} [backoff]
 * @property {number} [keepAlive]       a ping goes out this often
 * @property {number} [pongTimeout]     no sign of life this long after a ping: the connection is given up
 * @property {number} [slowPong]        no pong this long after a ping: degraded
 * @property {number} [connectTimeout]  one connection attempt, from asking for the token to the welcome
 * @property {number} [commandTimeout]  every command settles within this time, waiting in the queue included
 * @property {number} [queue]           commands that may wait while there is no connection; 0: none
 * @property {number} [pending]         commands that may wait for their reply
 * @property {any} [WebSocket]          a WebSocket class, where there is no global one
 * @property {typeof fetch} [fetch]     for tickets, for the reason of a refused connection, and for the transports
 *   that are no WebSocket */

import { json } from "./json.js";

function storage() {
  try {
    return globalThis.document ? globalThis.localStorage : null;
  } catch {
    return null; // the page may not
  }
}

export const defaults = () => ({
  auth: "query", transports: ["websocket", "sse", "poll"], retryWebSocket: 30_000, storage: storage(), codec: json,
  keepAlive: 25_000, pongTimeout: 10_000, slowPong: 2_000,
  connectTimeout: 10_000, commandTimeout: 15_000, queue: 100, pending: 1_000,
  WebSocket: globalThis.WebSocket, fetch: globalThis.fetch?.bind(globalThis),
});
