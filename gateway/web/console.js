// The shell: which page is shown, how the connection is, who is signed in.

import * as agents from "./agents.js";
import { client, connect, onIdentity, onOffer, takeOffered } from "./connection.js";
import { at, make, name } from "./dom.js";
import * as inbox from "./inbox.js";
import * as live from "./live.js";
import * as operations from "./operations.js";
import "./theme.js";
import { claims, keep, token } from "./token.js";

// ---- pages: `#/agents?status=failed` is the page `agents` with what it keeps in its address

const PAGES = { live, agents, inbox, operations };
const TITLES = { live: "Live", agents: "Agents", inbox: "Inbox", operations: "Operations" };
let current = null;

function route() {
  const [, wanted, query] = /^#\/(\w*)\??(.*)$/.exec(location.hash) ?? [];
  const page = wanted in PAGES ? wanted : "live";
  if (page !== current) {
    PAGES[current]?.hide?.();
    for (const each of Object.keys(PAGES)) at(`page-${each}`).hidden = each !== page;
    for (const link of document.querySelectorAll("[data-page]")) link.ariaCurrent = link.dataset.page === page ? "page" : null;
    at("page-title").textContent = TITLES[page];
    if (current) at("main").focus({ preventScroll: true });
    current = page;
  }
  PAGES[page].show(new URLSearchParams(query));
}

addEventListener("hashchange", route);

// ---- the indicator, and the banner where something is to be done

const TEXTS = {
  disconnected: "Disconnected", connecting: "Connecting…", connected: "Connected",
  reconnecting: "Offline", failed: "Connection failed", degraded: "Degraded",
};
let degraded = "";
let countdown = null;
let retryText = "";
let exhausted = 0; // tries, when all of them have failed

function showState() {
  const state = degraded && client.isConnected() ? "degraded" : client.getState();
  at("indicator").dataset.state = state;
  at("indicator-text").textContent = TEXTS[state];
  document.body.dataset.connection = state;
  at("toggle").hidden = !token();
  at("toggle").textContent = ["disconnected", "failed"].includes(client.getState()) ? "Connect" : "Disconnect";
  const offline = state === "reconnecting" || state === "failed";
  at("banner").hidden = !(offline || state === "degraded");
  at("banner").dataset.state = state;
  at("retry").hidden = !offline;
  const tries = exhausted ? ` after ${exhausted} tries` : "";
  if (offline) at("banner-text").textContent = `The gateway cannot be reached${tries}. ${retryText}`;
  else if (state === "degraded") at("banner-text").textContent = `Degraded mode: ${degraded}. What you see may be late.`;
}

client.on("state", ({ state }) => {
  clearInterval(countdown);
  retryText = "";
  if (state === "connected") exhausted = 0;
  showState();
});
client.on("reconnect:failed", ({ attempts }) => {
  exhausted = attempts;
  showState();
});
client.on("degraded", ({ degraded: now, reason }) => {
  degraded = now ? reason || "live delivery is slow" : "";
  showState();
});
client.on("reconnecting", ({ attempt, delay, code, reason }) => {
  if (code === 1008) { // only the user can give another token
    client.disconnect();
    return signIn(`The gateway refused the token: ${reason}.`);
  }
  const until = Date.now() + delay;
  const show = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    const text = left > 0 ? `Next try in ${left} s (try ${attempt}).` : `Trying again (try ${attempt})…`;
    if (text === retryText) return;
    retryText = text;
    showState();
  };
  clearInterval(countdown);
  countdown = setInterval(show, 500);
  show();
});
at("retry").addEventListener("click", connect);
at("toggle").addEventListener("click", () => {
  if (["disconnected", "failed"].includes(client.getState())) connect();
  else client.disconnect();
});

onIdentity(({ org, user, roles }) => {
  at("who").replaceChildren(...(org ? [make("b", "", name(user ?? "a service", "")), " of ", name(org, "")] : []));
  at("who").title = roles?.join(", ") ?? "";
});

// ---- sign in

function signIn(reason) {
  if (reason) at("sign-in-reason").textContent = reason;
  if (!at("sign-in").open) at("sign-in").showModal();
}

at("sign-in").addEventListener("close", () => {
  const entered = at("sign-in-token").value.trim() || token();
  if (!entered) return;
  keep(entered);
  connect();
});

let offered = takeOffered();

function ask() {
  const { sub, org } = claims(offered);
  at("ask-user").textContent = org ? `${sub ?? "a service"} of ${org}` : "nobody whom it names";
  at("ask").returnValue = "";
  if (!at("ask").open) at("ask").showModal();
}

at("ask").addEventListener("close", () => {
  if (at("ask").open) return; // asked again before this event came
  if (at("ask").returnValue === "yes") {
    keep(offered);
    client.disconnect();
  }
  offered = null;
  if (token()) connect();
  else signIn();
});

onOffer(() => {
  offered = takeOffered();
  ask();
});

// ---- begin

for (const page of Object.values(PAGES)) page.mount?.();
route();
if (offered) ask();
else if (token()) connect();
else signIn();
showState();
