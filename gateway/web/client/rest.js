// Requests to the gateway's REST interface, beside `/ws`.

import { parse } from "./json.js";
import { TriremeError } from "./errors.js";

/** What an answer that is no success says, as an error: `refused` for 401, a number when the gateway itself answered,
 *  `failed` for what a proxy says. */
async function problem(response) {
  const { detail = `status ${response.status}`, code } = await response.json().catch(() => ({}));
  const retryAfter = Number(response.headers.get("Retry-After")) * 1000 || undefined;
  return Object.assign(new TriremeError(response.status === 401 ? "refused" : "failed", detail, { retryAfter }), { number: code });
}

export class Rest {
  #address;
  #fetch;
  #timeout;

  constructor(address, { fetch, connectTimeout }) {
    this.#address = address;
    this.#fetch = fetch;
    this.#timeout = connectTimeout;
  }

  /** The answer's head; raises TriremeError for what is not a success. */
  async open(method, path, token, { query, body, signal } = {}) {
    const address = new URL(path, this.#address); // beside `/ws`, also behind a prefix
    address.protocol = address.protocol.replace("ws", "http");
    if (query) address.search = query;
    const headers = { Authorization: `Bearer ${token}`, ...(body && { "Content-Type": "application/json" }) };
    const response = await this.#fetch(address, { method, headers, body, signal, cache: "no-store" });
    if (response.ok) return response;
    throw await problem(response);
  }

  async ask(method, path, token, options) {
    const response = await this.open(method, path, token, { signal: AbortSignal.timeout(this.#timeout), ...options });
    return parse(await response.text());
  }
}
