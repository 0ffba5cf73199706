// Operations: what became of one message, recipient by recipient.

import { at, definitions, failure, make, name, placeholder, some, table } from "./dom.js";
import { rest } from "./rest.js";

const TONES = { sent: "completed", replayed: "completed", queued: "running", lagging: "running", dropped: "failed", closed: "failed" };

export function mountTrace() {
  const field = (id, title) => Object.assign(make("input"), { id, placeholder: title, ariaLabel: title, autocomplete: "off" });
  const submit = make("button", "primary", "Trace");
  const form = make("form", "row wrap", Object.assign(field("trace-mid", "Message id (mid)"), { required: true }), field("trace-user", "User, or all"), submit);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    showTrace(at("trace-mid").value.trim(), at("trace-user").value.trim());
  });
  const answer = Object.assign(make("div", "scroll short"), { id: "trace", tabIndex: 0, role: "region", ariaLabel: "Delivery trace" });
  answer.append(placeholder("empty", "Why didn’t Bob get it?", "Enter a message’s id, or open an event of the live feed and choose “Trace its delivery”."));
  return make("section", "card", make("h2", "", "Delivery trace"), form, answer);
}

export async function showTrace(mid, user = "") {
  at("trace-mid").value = mid;
  at("trace").replaceChildren(placeholder("loading", "Loading…"));
  at("trace").scrollIntoView({ block: "center" });
  try {
    const found = await rest("GET", `messages/${encodeURIComponent(mid)}/trace`, { query: { user } });
    const about = definitions(make("dl"), { Event: found.event, Room: found.room, Number: found.seq, From: found.sender, At: new Date(found.ts).toLocaleString("en", { hour12: false }), Node: found.node });
    const rows = found.recipients.map(({ outcome, connection, user: who, reason }) => {
      const chip = make("span", "chip", outcome.replaceAll("_", " "));
      chip.dataset.status = TONES[outcome] ?? "cancelled";
      return [name(who ?? "a service", ""), chip, name(reason, ""), name(connection, "")];
    });
    const list = rows.length ? table("Recipients", [["User"], ["Outcome"], ["Reason"], ["Connection"]], rows) : placeholder("empty", "Nobody was connected", "");
    at("trace").replaceChildren(about, make("p", "note", `${some(rows.length, "recipient")}${found.complete ? "" : "; there were more than are remembered"}`), list);
  } catch (error) {
    at("trace").replaceChildren(error.status === 404 ? placeholder("empty", "This message is not remembered", error.message) : failure(error, () => showTrace(mid, user)));
  }
}
