// Handlers by the name of an event, or by a pattern.

import { compile } from "./patterns.js";

/** The client's own events; all others are those of rooms, the organisation and the user. */
export const OWN_EVENTS = [
  "state", "connected", "disconnected", "reconnecting", "reconnect:failed", "login:refused", "error", "lost", "presence", "degraded",
];

export class Emitter {
  #handlers = []; // {name, match, handler}; replaced, never changed, so that handlers may add and remove some

  on(name, handler) {
    if (typeof handler !== "function") throw new TypeError("the handler must be a function");
    this.#handlers = [...this.#handlers, { name, match: compile(name), handler }];
    return () => this.off(name, handler);
  }

  off(name, handler) {
    this.#handlers = this.#handlers.filter((entry) => entry.name !== name || (handler && entry.handler !== handler));
  }

  has(name) {
    return this.#handlers.some((entry) => entry.name === name);
  }

  /** A room's event that bears the name of one of the client's own reaches handlers of patterns only. */
  emit(name, value, own = true) {
    for (const { name: wanted, match, handler } of this.#handlers) {
      if (own || !match ? wanted !== name || own !== OWN_EVENTS.includes(name) : !match.test(name)) continue;
      try {
        handler(value);
      } catch (error) {
        queueMicrotask(() => { throw error; }); // reported like any uncaught error, without stopping the others
      }
    }
  }
}
