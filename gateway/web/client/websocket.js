// One WebSocket, as a link: what the client needs of a transport.

/** @typedef {object} Link
 *  @property {"websocket" | "sse" | "poll"} kind
 *  @property {(command: {id: number, message: object, encoded: string | Uint8Array}) => void} send
 *  @property {() => void} close */

/** Opens a WebSocket. `on.message` gets what the gateway says, `on.end` how it ended and whether it had opened.
 *  @returns {Link} */
export function openWebSocket(address, token, { WebSocket, codec }, on) {
  const socket = new WebSocket(address.href, [codec.subprotocol]);
  if (codec.binary) socket.binaryType = "arraybuffer";
  let opened = false;
  socket.onopen = () => {
    opened = true;
    if (token) socket.send(codec.encode({ v: 1, t: "auth", data: { token } }));
  };
  socket.onmessage = ({ data }) => {
    let message;
    try {
      message = codec.decode(data);
    } catch (cause) {
      return on.garbled(cause);
    }
    on.message(message);
  };
  socket.onerror = () => {}; // the close that follows says as much
  socket.onclose = ({ code, reason }) => on.end(code, reason, { opened });
  return {
    kind: "websocket",
    send: ({ encoded }) => socket.send(encoded),
    close: () => socket.close(),
  };
}
