// Why something failed, and whether to come back after it.

/** Why something failed. `code` is the gateway's error number, or a word when the client itself gave up:
 *  `not_connected`, `disconnected`, `timeout`, `queue_full`, `refused`, `failed`, `invalid`. */
export class TriremeError extends Error {
  /** @param {number | string} code @param {string} message @param {object} [more]  room, retryAfter (ms), cause */
  constructor(code, message, { room, retryAfter, cause } = {}) {
    super(message, { cause });
    Object.assign(this, { name: "TriremeError", code, room, retryAfter });
  }
}

/** Whether a connection that the other side closed with `code` is to be opened again. The gateway itself never closes
 *  with 1000 or without a code (1005): that is a proxy, which has no say in it. @param {number} code */
export function shouldReconnect(code) {
  return [1000, 1001, 1005, 1006, 1011, 1012, 1013, 1014].includes(code) || (code >= 4000 && code <= 4499);
}

/** Whether the gateway says "not now": 3xx, too many pending commands, or a token that has just ended, for which a
 *  room is not to blame. @param {number | string} code */
export function isTemporary(code) {
  return ["timeout", 200, 201, 203, 403].includes(code) || (code >= 300 && code <= 399);
}
