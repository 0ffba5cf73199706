// The feed: up to some thousand events, of which only the visible rows exist. What comes waits for the next redraw, and
// there are at most ten a second, so a thousand events a second cost the page no more than ten.

import { stringify } from "/client.js";
import { at, clock, make } from "./dom.js";

const KEPT = 3_000; // events
const KEPT_CHARACTERS = 8_000_000; // of their data, together
const REDRAW = 100; // ms
const SPARE = 4; // rows above and below what is visible
const PREVIEW = 300; // characters of data in a row

/** Turns a filter's text into a test: `*` is any run of characters, a text without one is a beginning. */
export function matcher(text) {
  if (!text || text === "all" || text === "*") return null;
  const parts = text.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(`^${parts.join(".*")}${text.includes("*") ? "$" : ""}`, "su");
}

export class Feed {
  #list = at("feed");
  #viewport = at("feed-viewport");
  #items = []; // the oldest first
  #characters = 0;
  #frozen = null; // what is shown while paused
  #received = 0;
  #missed = 0; // came while paused
  #pattern = null;
  #scope = "";
  #shown = [];
  #rows = []; // elements, used again and again
  #top = null; // the newest that was shown, to keep the place when the reader has scrolled down
  #drawn = 0; // when
  #due = null;
  #open;

  /** @param {(item: object) => void} open  shows one event */
  constructor(open) {
    this.#open = open;
    this.#viewport.addEventListener("scroll", () => this.#place(), { passive: true });
    new ResizeObserver(() => this.#draw()).observe(this.#viewport);
    this.#list.addEventListener("click", ({ target }) => {
      const item = target.closest("li")?.item;
      if (item?.event) this.#open(item);
    });
  }

  get received() { return this.#received; }
  get paused() { return this.#frozen !== null; }

  /** Adds an event of the client. */
  add({ event, room, to, seq, epoch, ts, mid, sender, data, critical }) {
    const text = data === undefined ? "" : stringify(data);
    this.#received += 1;
    this.#keep({ event, room, to, seq, epoch, ts, mid, sender, critical, text, scope: room !== undefined ? "room" : to ? "user" : "organisation" });
  }

  /** Adds a line of the console's own. */
  note(text, kind = "") {
    this.#keep({ note: text, kind, ts: Date.now(), text: "" });
  }

  #keep(item) {
    this.#items.push(item);
    this.#characters += item.text.length;
    if (this.paused) this.#missed += 1;
    if (this.#items.length > KEPT * 1.2 || this.#characters > KEPT_CHARACTERS) this.#trim();
    this.#soon();
  }

  #trim() {
    let drop = Math.max(0, this.#items.length - KEPT);
    let left = this.#characters;
    for (let index = 0; index < this.#items.length - 1; index++) {
      if (index >= drop && left <= KEPT_CHARACTERS * 0.8) break;
      left -= this.#items[index].text.length;
      drop = Math.max(drop, index + 1);
    }
    this.#items.splice(0, drop);
    this.#characters = left;
  }

  pause() {
    this.#frozen = this.#items.slice();
    this.#missed = 0;
    this.#draw();
  }

  resume() {
    this.#frozen = null;
    this.#draw();
  }

  clear() {
    this.#items = [];
    this.#characters = this.#received = 0;
    if (this.paused) this.#frozen = [];
    this.#draw();
  }

  filter(text, scope) {
    [this.#pattern, this.#scope] = [matcher(text), scope];
    this.#draw();
  }

  #matches(item) {
    if (item.note !== undefined) return true;
    if (this.#scope && item.scope !== this.#scope) return false;
    return this.#pattern === null || this.#pattern.test(item.event) || (item.room !== undefined && this.#pattern.test(item.room));
  }

  #soon() {
    if (this.#due !== null) return;
    const wait = Math.max(0, this.#drawn + REDRAW - performance.now());
    this.#due = setTimeout(() => requestAnimationFrame(() => {
      this.#due = null;
      this.#draw();
    }), wait);
  }

  #draw() {
    this.#drawn = performance.now();
    at("feed-count").textContent = this.#received.toLocaleString("en");
    at("feed-pause").textContent = !this.paused ? "Pause" : this.#missed ? `Resume (${this.#missed.toLocaleString("en")} new)` : "Resume";
    const all = this.#frozen ?? this.#items;
    this.#shown = this.#pattern || this.#scope ? all.filter((item) => this.#matches(item)) : all;
    at("empty").hidden = this.#viewport.hidden = false;
    const some = this.#shown.some((item) => item.event) || this.#items.length > 20;
    at("empty").hidden = some;
    this.#viewport.hidden = this.#shown.length === 0;
    const height = this.#rowHeight();
    this.#list.style.height = `${this.#shown.length * height}px`;
    if (this.#viewport.scrollTop > height && this.#top) { // the reader looks at older ones: they stay where they are
      const above = this.#shown.length - 1 - this.#shown.lastIndexOf(this.#top);
      if (above > 0 && above < this.#shown.length) this.#viewport.scrollTop += above * height;
    }
    this.#top = this.#shown.at(-1);
    this.#place();
  }

  #rowHeight() {
    return parseFloat(getComputedStyle(this.#list).getPropertyValue("--row")) || 36;
  }

  /** Fills the rows that are visible now. */
  #place() {
    const height = this.#rowHeight();
    const count = this.#shown.length;
    const first = Math.max(0, Math.floor(this.#viewport.scrollTop / height) - SPARE);
    const last = Math.min(count, Math.ceil((this.#viewport.scrollTop + this.#viewport.clientHeight) / height) + SPARE);
    const wanted = Math.max(0, last - first);
    while (this.#rows.length < wanted) {
      const row = new Row();
      this.#rows.push(row);
      this.#list.append(row.element);
    }
    while (this.#rows.length > wanted) this.#rows.pop().element.remove();
    this.#rows.forEach((row, index) => row.show(this.#shown[count - 1 - first - index], (first + index) * height));
  }
}

/** One row's elements, made once and filled again with whichever event comes to their place. */
class Row {
  constructor() {
    this.time = make("time");
    this.name = make("bdi", "name");
    this.data = make("bdi", "data");
    this.room = make("bdi", "room");
    this.rest = make("bdi", "rest");
    this.data.dir = this.rest.dir = "ltr"; // JSON, and a number before a name of any script
    this.button = make("button", "", this.name, " ", this.data, " ", make("span", "place", this.room, " ", this.rest));
    this.button.type = "button";
    this.element = make("li", "", this.time, this.button);
  }

  show(item, top) {
    if (this.top !== top) this.element.style.transform = `translateY(${(this.top = top)}px)`;
    if (this.element.item === item) return;
    this.element.item = item;
    const { note, event, room, to, seq, sender, ts, text, kind } = item;
    this.time.textContent = clock(ts, true);
    this.element.className = note === undefined ? "" : `system ${kind}`;
    this.button.disabled = note !== undefined;
    this.name.textContent = note ?? event;
    this.data.textContent = text.length > PREVIEW ? `${text.slice(0, PREVIEW)}…` : text;
    this.room.textContent = note === undefined ? room ?? (to ? "you" : "organisation") : "";
    this.rest.textContent = note === undefined ? [seq === undefined ? "" : `#${seq}`, sender].filter(Boolean).join(" · ") : "";
  }
}
