// Commands that wait: for a connection, or for their reply.

import { TriremeError } from "./errors.js";

export class Commands {
  pending = new Map(); // id → command, waiting for its reply
  queue = new Set(); // waiting for a connection
  #nextId = 1;
  #codec;

  constructor(codec) {
    this.#codec = codec;
  }

  /** A command that settles within `timeout` ms; `start` puts it where it belongs. */
  make(message, timeout, start) {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      const encoded = this.#codec.encode({ v: 1, ...message, id });
      const command = { id, message, encoded, resolve, reject };
      command.timer = setTimeout(() => {
        const why = this.queue.has(command) ? "no connection" : "no reply";
        this.finish(command, new TriremeError("timeout", `${message.t}: ${why} within ${timeout} ms`));
      }, timeout);
      start(command);
    });
  }

  finish(command, error, reply) {
    clearTimeout(command.timer);
    this.pending.delete(command.id);
    this.queue.delete(command);
    if (error) command.reject(error);
    else command.resolve(reply);
  }

  /** The commands that only their own connection could answer wait for the next one. */
  requeue(kinds) {
    const again = [...this.pending.values()].filter(({ message }) => kinds.has(message.t));
    for (const { id } of again) this.pending.delete(id);
    this.queue = new Set([...again, ...this.queue]);
  }
}
