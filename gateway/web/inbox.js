// Inbox: this user's notifications, and what waits for their decision.

import { announce, isOn, setOption, showBadge, toast } from "./alerts.js";
import { loadApprovals, mountApprovals, waiting } from "./approvals.js";
import { client, identity, onIdentity } from "./connection.js";
import { acting, at, debounce, failure, make, name, placeholder, timeElement } from "./dom.js";
import { rest } from "./rest.js";

const LIMIT = 50;
const TONES = { info: "info", success: "success", warning: "warning", error: "error" };

let notifications = []; // the newest first
let unread = 0;
let cursor = null;
let problem = null;
let loaded = false;
let built = false;
const open = () => { location.hash = "#/inbox"; };

const filters = () => ({ unread: built && at("only-unread").checked ? "true" : undefined, type: built ? at("only-type").value : undefined });
const badge = () => showBadge(unread + waiting());

async function load(more = false) {
  if (!identity.user) {
    [problem, loaded] = [{ status: 404, message: "This token is of a service, not of a user." }, true];
    return draw();
  }
  try {
    const page = await rest("GET", "notifications", { query: { ...filters(), limit: LIMIT, cursor: more ? cursor : undefined } });
    problem = null;
    notifications = more ? [...notifications, ...page.notifications] : page.notifications;
    [unread, cursor, loaded] = [page.unread, page.next ?? null, true];
  } catch (error) {
    if (more) return toast("error", "The next page could not be loaded", error.message);
    problem = error;
  }
  draw();
}

const reload = debounce(() => load(), 300);

/** Does `method` on a notification; the gateway's answer says how many are unread. */
async function change(method, path, apply) {
  try {
    unread = (await rest(method, `notifications/${path}`)).unread;
    apply();
    draw();
  } catch (error) {
    toast("error", "That did not work", error.message);
  }
}

function row(item) {
  const { id, type, title, message, created_at: created, read, sender, action } = item;
  const markRead = acting("Mark as read", "quiet", () => change("POST", `${encodeURIComponent(id)}/read`, () => { item.read = true; }));
  const remove = acting("Delete", "quiet", () => change("DELETE", encodeURIComponent(id), () => { notifications = notifications.filter((each) => each.id !== id); }));
  const offered = action && make("span", "chip", make("bdi", "", action.label ?? action.type));
  const element = make("li", read ? "" : "unread", make("span", "tone", make("span", "hidden-text", `${type}${read ? "" : ", unread"}`)),
    make("div", "what", make("h3", "", name(title, "")), make("p", "", make("bdi", "", message)), make("p", "note", timeElement(created), sender ? " · " : "", sender ? name(sender, "") : "", offered ? " · " : "", offered)),
    make("div", "row tools", read ? null : markRead, remove));
  element.dataset.type = TONES[type] ?? "info";
  return element;
}

function draw() {
  badge();
  if (!built) return;
  at("unread-count").textContent = String(unread);
  at("read-all").disabled = unread === 0;
  at("inbox-more").hidden = !cursor || Boolean(problem);
  if (problem) {
    const none = problem.status === 404;
    return at("notifications").replaceChildren(make("li", "state", none ? placeholder("empty", "No notifications here", problem.message) : failure(problem, reload)));
  }
  if (!loaded) return;
  if (!notifications.length) {
    const text = filters().unread || filters().type ? "Nothing matches the filter." : "What a service sends with POST /api/v1/notifications appears here, and stays until you delete it.";
    return at("notifications").replaceChildren(make("li", "state", placeholder("empty", "Your inbox is empty", text)));
  }
  at("notifications").replaceChildren(...notifications.map(row));
}

function build() {
  built = true;
  const check = (id, text, title) => Object.assign(make("label", "check", Object.assign(make("input"), { type: "checkbox", id }), ` ${text}`), { title });
  const type = make("select", "", Object.assign(make("option", "", "All types"), { value: "" }), ...Object.keys(TONES).map((each) => make("option", "", each)));
  Object.assign(type, { id: "only-type", ariaLabel: "Type" });
  const count = (id) => Object.assign(make("span", "count", "0"), { id });
  const all = acting("Mark all as read", "quiet", () => change("POST", "read-all", () => notifications.forEach((each) => { each.read = true; })));
  all.id = "read-all";
  const more = acting("Load more", "quiet", () => load(true));
  Object.assign(more, { id: "inbox-more", hidden: true });
  const list = (tag, id, className) => Object.assign(make(tag, className), { id });
  const title = make("h3", "", "Decided");
  title.id = "decided-title";
  at("page-inbox").append(
    make("div", "two",
      make("section", "card", make("h2", "", "Approvals ", count("approvals-count")), list("ul", "approvals", "plain"), title, list("ul", "decided", "plain")),
      make("section", "card", make("div", "row between wrap", make("h2", "", "Notifications ", count("unread-count"), make("span", "hidden-text", " unread")), make("div", "row wrap", check("only-unread", "Only unread"), type, all)),
        list("ul", "notifications", "plain"), make("div", "row end", more))),
    make("section", "card", make("h2", "", "Tell me"), make("div", "row wrap", check("desktop", "With a desktop notification", "While this tab is in the background"), check("sound", "With a sound"))));
  at("notifications").append(make("li", "state", placeholder("loading", "Loading…")));
  at("only-unread").addEventListener("change", reload);
  type.addEventListener("change", reload);
  for (const key of ["desktop", "sound"]) {
    at(key).checked = isOn(key);
    at(key).addEventListener("change", async ({ target }) => {
      const wanted = target.checked;
      target.checked = await setOption(key, wanted);
      if (wanted && !target.checked) toast("warning", "The browser does not allow notifications of this page");
    });
  }
}

export function mount() {
  mountApprovals(badge, open);
  onIdentity(({ org }) => {
    if (!org) {
      [notifications, unread, loaded] = [[], 0, false];
      return badge();
    }
    load();
    loadApprovals();
  });
  client.on("notification:new", ({ to, data }) => {
    if (to !== "user") return;
    // What is to be decided is announced by `permission:pending` already.
    if (data?.action?.type !== "approval") announce(TONES[data?.type] ?? "info", data?.title ?? "Notification", data?.message, open);
    reload();
  });
  client.on("notification:read", ({ to, data }) => {
    if (to !== "user") return;
    const read = data?.all ? null : new Set(data?.ids);
    for (const each of notifications) if (!read || read.has(each.id)) each.read = true;
    unread = data?.unread ?? unread;
    draw();
  });
  client.on("notification:deleted", ({ to }) => to === "user" && reload());
  client.on("lost", ({ of }) => {
    if (of !== "user") return;
    reload();
    loadApprovals();
  });
}

export function show() {
  if (!built) build();
  draw();
  loadApprovals();
}
