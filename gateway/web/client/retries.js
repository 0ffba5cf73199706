// How long to wait between attempts.

const QUICK = 1_000; // no wait is longer while the waits together are shorter than QUICK_FOR: a gateway that
const QUICK_FOR = 2_000; // restarts within 2 s is found again within 3 s

export class Retries {
  attempt = 0; // retries since the last connection that lasted
  #step = 0; // how often their wait has grown
  #waited = 0; // how long all of them were
  #backoff;

  constructor(backoff) {
    this.#backoff = { base: 500, factor: 2, maximum: 30_000, tries: 10, giveUp: false, ...backoff };
  }

  get tries() { return this.#backoff.tries; }
  get giveUp() { return this.#backoff.giveUp; }

  afresh() {
    this.attempt = this.#step = this.#waited = 0;
  }

  delay(earlier) {
    const { base, factor, maximum } = this.#backoff;
    return Math.random() * Math.min(maximum, base * factor ** earlier);
  }

  /** How long the next retry waits. */
  next() {
    const { base, factor, maximum, tries } = this.#backoff;
    const quick = Math.max(QUICK, base);
    let limit = this.attempt >= tries ? maximum : Math.min(maximum, base * factor ** this.#step);
    if (limit > quick && this.#waited < QUICK_FOR) limit = quick;
    else this.#step += 1;
    const wait = Math.random() * limit;
    this.#waited += wait;
    return wait;
  }
}
