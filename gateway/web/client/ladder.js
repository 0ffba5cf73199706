// Which transport to use: down where one does not get through, and up again where it does.

const REMEMBER = 3_600_000; // ms that a transport which worked is tried first
const SOON = 1_000; // ms until a better one is tried, where the other is used from memory only
const GROWTH = 10; // times `retryWebSocket`, the longest wait
const FLAKY = 3; // WebSockets in a row that were cut off soon after they had opened

export class Ladder {
  level = 0;
  #kinds;
  #options;
  #key;
  #wait;
  #cut = 0;

  constructor(address, options) {
    const { transports, WebSocket, fetch, storage, retryWebSocket } = options;
    this.#kinds = transports.filter((kind) => (kind === "websocket" ? WebSocket : ["sse", "poll"].includes(kind) && fetch));
    if (!this.#kinds.length) throw new TypeError("no WebSocket here: pass one as options.WebSocket");
    this.#options = { storage, retryWebSocket };
    this.#key = `trireme:transport:${address.host}`;
    this.#wait = retryWebSocket;
    this.#recall();
  }

  get kind() { return this.#kinds[this.level]; }
  get better() { return this.#kinds.slice(0, this.level); }
  get best() { return this.level === 0; }

  #recall() {
    try {
      const { kind, at } = JSON.parse(this.#options.storage?.getItem(this.#key) ?? "{}");
      const level = this.#kinds.indexOf(kind);
      if (level <= 0 || !(Math.abs(Date.now() - at) < REMEMBER)) return;
      this.level = level;
      this.#wait = SOON;
    } catch { /* what stands there is not ours, or storage is forbidden */ }
  }

  #remember() {
    try {
      if (this.best) this.#options.storage?.removeItem(this.#key);
      else this.#options.storage?.setItem(this.#key, JSON.stringify({ kind: this.kind, at: Date.now() }));
    } catch { /* it is full, or forbidden */ }
  }

  /** One down; false at the lowest, after which all are tried again. */
  down() {
    this.#cut = 0;
    this.level += 1;
    if (this.level < this.#kinds.length) return true;
    this.level = 0;
    return false;
  }

  top() {
    this.level = 0;
  }

  /** This one worked. */
  works(kind) {
    const level = this.#kinds.indexOf(kind);
    if (level < this.level) this.#wait = this.#options.retryWebSocket;
    this.level = level;
    this.#remember();
  }

  /** It was cut off: whether once too often. */
  cutOff(soon) {
    this.#cut = soon ? this.#cut + 1 : 0;
    if (this.#cut < FLAKY || this.level + 1 >= this.#kinds.length) return false;
    return this.down();
  }

  /** How long until a better one is tried again; 0: never. */
  next() {
    const { retryWebSocket } = this.#options;
    if (!retryWebSocket || this.best) return 0;
    const wait = this.#wait;
    this.#wait = Math.min(Math.max(wait * 2, retryWebSocket), retryWebSocket * GROWTH);
    return wait;
  }
}
