// The gateway that a Python test has started; its address and tokens come in the environment.

import { WebSocket } from "ws";
import { Trireme } from "../../../gateway/web/client.js";

export const address = process.env.TRIREME_WS;
export const tokens = JSON.parse(process.env.TRIREME_TOKENS); // user → token

/** A connected client of ours on npm's ws; it is disconnected when the test `t` ends. */
export async function client(t, user, options = {}) {
  const made = new Trireme(address, { token: tokens[user], WebSocket, ...options });
  t.after(() => made.disconnect());
  await made.connect();
  return made;
}

/** The next event named `name`, or matching it. */
export const next = (made, name) => new Promise((resolve) => {
  const off = made.on(name, (event) => {
    off();
    resolve(event);
  });
});

/** An open `ws` socket without any client, with a queue of what it received. */
export async function raw(t, user, subprotocols) {
  const socket = new WebSocket(`${address}?token=${tokens[user]}`, subprotocols);
  const received = [];
  const waiting = [];
  socket.on("message", (data, isBinary) => {
    const message = { data, isBinary };
    if (waiting.length) waiting.shift()(message);
    else received.push(message);
  });
  t.after(() => socket.terminate());
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  const receive = () => (received.length ? Promise.resolve(received.shift()) : new Promise((resolve) => waiting.push(resolve)));
  return { socket, receive };
}
