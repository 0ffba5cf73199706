// What every page of the console is made from: elements, formats, the looks of states, dialogs.

export const at = (id) => document.getElementById(id);

/** An element with a class and children. Text is never markup. */
export function make(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A name that somebody else chose: its direction stays its own, and a long one is shown in full as its title. */
export function name(text, className = "name") {
  const element = make("bdi", className, text ?? "");
  if (text) element.title = text;
  return element;
}

export function button(text, className, action) {
  const element = make("button", className, text);
  element.type = "button";
  if (action) element.addEventListener("click", action);
  return element;
}

/** A button that shows that it works until `action` is done, and cannot be pressed twice meanwhile. */
export function acting(text, className, action) {
  return button(text, className, async ({ currentTarget: pressed }) => {
    pressed.disabled = true;
    try {
      await action();
    } finally {
      pressed.disabled = false;
    }
  });
}

// ---- formats

export const whole = (number) => (Math.abs(number) < 100_000 ? Math.round(number).toLocaleString("en")
  : Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(number));
export const amount = (number) => (number !== 0 && Math.abs(number) < 10 && !Number.isInteger(number) ? number.toFixed(1) : whole(number));
export const some = (number, what) => `${whole(number)} ${what}${number === 1 ? "" : "s"}`;

/** Bytes, such as "3.2 MB". */
export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; number >= 1000 && unit < units.length - 1; unit++) number /= 1000;
  return `${number < 10 && unit ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

/** Seconds, such as "850 ms", "4.2 s", "3 min 5 s". */
export function duration(seconds) {
  if (seconds === undefined || seconds === null) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const [days, hours, minutes] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
}

export const clock = (ms, milliseconds = false) => {
  const time = new Date(ms);
  const text = time.toLocaleTimeString("en", { hour12: false });
  return milliseconds ? `${text}.${String(time.getMilliseconds()).padStart(3, "0")}` : text;
};

/** A point in time: only the clock when it is today. */
export function moment(ms) {
  const [time, today] = [new Date(ms), new Date()];
  if (time.toDateString() === today.toDateString()) return clock(ms);
  const day = time.toLocaleDateString("en", { day: "numeric", month: "short", year: time.getFullYear() === today.getFullYear() ? undefined : "numeric" });
  return `${day}, ${time.toLocaleTimeString("en", { hour12: false, hour: "2-digit", minute: "2-digit" })}`;
}

export function timeElement(ms) {
  const element = make("time", "", moment(ms));
  element.dateTime = new Date(ms).toISOString();
  element.title = new Date(ms).toLocaleString();
  return element;
}

// ---- the looks of states

/** What stands where there is nothing to show. `kind`: loading, empty, error, offline or forbidden.
 *  @param {string} kind @param {string} title @param {string} [text] @param {Node} [action] */
export function placeholder(kind, title, text, action) {
  const element = make("div", `placeholder ${kind}`,
    kind === "loading" ? make("span", "spinner") : make("span", "sign"), make("p", "title", title), text ? make("p", "note", text) : null, action);
  element.setAttribute("role", kind === "error" ? "alert" : "status");
  return element;
}

/** The placeholder for an error of the gateway, with a way to try again. */
export function failure(error, retry) {
  const again = retry && button("Try again", "quiet", retry);
  if (error.status === 401) return placeholder("forbidden", "Not signed in", error.message, again);
  if (error.status === 403) return placeholder("forbidden", "No permission", error.message);
  if (error.status === 404) return placeholder("empty", "Not here", error.message);
  if (error.code === "offline") return placeholder("offline", "No answer from the gateway", error.message, again);
  return placeholder("error", "This could not be loaded", error.message, again);
}

/** Rows of a definition list; empty values are left out. */
export function definitions(list, rows) {
  const shown = Object.entries(rows).filter(([, value]) => value !== undefined && value !== null && value !== "");
  list.replaceChildren(...shown.flatMap(([term, value]) => [make("dt", "", term), make("dd", "", value instanceof Node ? value : name(String(value), ""))]));
  return list;
}

/** A table: `columns` are [title, className], `rows` arrays of nodes or texts. */
export function table(caption, columns, rows) {
  const head = make("thead", "", make("tr", "", ...columns.map(([title, className]) => {
    const cell = make("th", className ?? "", title || make("span", "hidden-text", "Actions"));
    cell.scope = "col";
    return cell;
  })));
  const body = make("tbody", "", ...rows.map((cells) => make("tr", "", ...cells.map((cell, index) => {
    const element = make("td", columns[index][1] ?? "", cell ?? "");
    element.dataset.label = columns[index][0];
    return element;
  }))));
  return make("table", "", make("caption", "hidden-text", caption), head, body);
}

/** What may be wider than the page, and is reached by the keyboard too. */
export function wide(title, content) {
  return Object.assign(make("div", "scroll", content), { tabIndex: 0, role: "region", ariaLabel: title });
}

/** An execution's status; one that lasts turns. */
export function statusChip(status, lasts = status === "running") {
  const chip = make("span", "chip", lasts ? make("span", "spinner") : make("span", "dot"), status);
  chip.dataset.status = status;
  return chip;
}

// ---- dialogs

/** Ask before something is done that cannot be undone; settles with whether it was confirmed. */
export function confirm(title, text, action) {
  const yes = make("button", "danger", action);
  yes.value = "yes";
  const no = make("button", "", "Cancel");
  no.value = "no";
  no.autofocus = true;
  const form = make("form", "stack", make("h2", "", title), make("p", "note", text), make("div", "row end", no, yes));
  form.method = "dialog";
  const dialog = make("dialog", "", form);
  dialog.setAttribute("aria-label", title);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

/** A sheet at the side with `content`, closed by its button, Escape or a click beside it. */
export function sheet(title, ...content) {
  const dialog = make("dialog", "sheet");
  const close = button("×", "quiet icon", () => dialog.close());
  close.ariaLabel = "Close";
  dialog.append(make("div", "row between", make("h2", "", title), close), ...content);
  dialog.setAttribute("aria-label", typeof title === "string" ? title : title.textContent);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Calls `action` after the last of a run of calls, and at the latest `wait` ms after the first. */
export function debounce(action, wait) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      action();
    }, wait);
  };
}

export async function copy(text, pressed) {
  await navigator.clipboard.writeText(text);
  const before = pressed.textContent;
  pressed.textContent = "Copied";
  setTimeout(() => (pressed.textContent = before), 2_000);
}
