// Patterns over names, and the filter that the gateway keeps for a WebSocket, for transports that have to keep it here.
// `protocol/vectors/patterns.json` holds both to the gateway's.

const plain = (pattern) => (pattern === "all" ? "*" : pattern.replace(/\*+/g, "*"));

function matcher(pattern) {
  const parts = pattern.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}$`, "s");
}

/** The test for a pattern (`*` is any run of characters, `all` is `*`), or null for a plain name. */
export function compile(pattern) {
  return plain(pattern).includes("*") ? matcher(plain(pattern)) : null;
}

/** Whether one of `patterns` (compiled to a list by `matchers`) matches. */
export const matchers = (patterns) => patterns.map((pattern) => matcher(plain(pattern)));
const some = (patterns, name) => matchers(patterns).some((pattern) => pattern.test(name));

/** Whether some name matches both patterns. */
function overlap(one, other) {
  if (!one.includes("*")) return matcher(other).test(one);
  if (!other.includes("*")) return matcher(one).test(other);
  const [ends, others] = [one.split("*"), other.split("*")];
  const [first, second] = [ends[0], others[0]];
  const [last, secondLast] = [ends.at(-1), others.at(-1)];
  // Between the first and the last star everything fits, one after the other.
  return (first.startsWith(second) || second.startsWith(first)) && (last.endsWith(secondLast) || secondLast.endsWith(last));
}

/** Which events pass: those that match a pattern of `events` and none of `except`. Immutable. */
export class Filter {
  constructor(events = ["*"], except = [], narrowed = false) {
    Object.assign(this, { events: [...new Set(events)].sort(), except: [...new Set(except)].sort(), narrowed });
    this.passing = matchers(this.events);
    this.held = matchers(this.except);
  }

  allows(name) {
    return this.passing.some((pattern) => pattern.test(name)) && !this.held.some((pattern) => pattern.test(name));
  }

  subscribe(patterns) {
    const added = patterns.map(plain);
    const events = this.narrowed ? [...this.events, ...added] : added;
    const meets = (list, pattern) => list.some((each) => overlap(each, pattern));
    return new Filter(events, this.except.filter((each) => meets(events, each) && !meets(added, each)), true);
  }

  unsubscribe(patterns) {
    const removed = patterns.map(plain);
    const events = this.events.filter((each) => !some(removed, each));
    const candidates = [...new Set([...removed, ...this.except])];
    const covered = (pattern) => some(candidates.filter((each) => each !== pattern), pattern);
    const kept = candidates.filter((each) => events.some((event) => overlap(event, each)) && !covered(each));
    return new Filter(events, kept, this.narrowed);
  }
}
