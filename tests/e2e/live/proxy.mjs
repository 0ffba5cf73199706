// A proxy in front of the gateway that does what proxies do: refuses WebSockets, cuts streams, or lets nothing through.

import { createServer, connect } from "node:net";

/** Listens on a port of its own until the test ends; what it forbids is in its fields. */
export async function proxy(t, target) {
  const open = new Set();
  const rules = { websocket: true, sse: true, all: true, cut: 0, asked: [] };
  const server = createServer((near) => {
    near.on("error", () => {});
    if (!rules.all) return void near.destroy();
    near.once("data", (head) => {
      const text = head.toString("latin1");
      const path = text.split(" ")[1] ?? "";
      rules.asked.push(path.split("?")[0]);
      const refused = (!rules.websocket && /^upgrade: *websocket/im.test(text)) || (!rules.sse && path.includes("/stream"));
      if (refused) return void near.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      const far = connect(Number(target.port), target.hostname, () => {
        // One request for each connection, so that each is looked at.
        const closing = /^upgrade: *websocket/im.test(text) ? head : Buffer.from(text.replace(/^connection:.*\r\n/im, "").replace("\r\n", "\r\nConnection: close\r\n"), "latin1");
        far.write(closing);
        near.pipe(far).pipe(near);
      });
      far.on("error", () => near.destroy());
      near.on("close", () => far.destroy());
      far.on("close", () => near.destroy());
      const pair = { stream: path.includes("/stream"), end: () => (near.destroy(), far.destroy()) };
      open.add(pair);
      near.on("close", () => open.delete(pair));
      if (rules.cut && pair.stream) setTimeout(pair.end, rules.cut);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  rules.address = `ws://127.0.0.1:${server.address().port}/ws`;
  /** Ends what is open, or with `stream` what is open of streams. */
  rules.cutAll = (only) => [...open].filter((pair) => !only || pair.stream).forEach((pair) => pair.end());
  t.after(() => {
    server.close();
    rules.cutAll();
  });
  return rules;
}
