// The OpenAPI document of this gateway as a page: operations first, then all errors in one place. Everything comes from
// this gateway; text goes into the page as text, never as markup.

import { claims, keep, token } from "./token.js";
import { at, make, name, placeholder, wide } from "./dom.js";
import { example, inline, properties, prose, resolve, typeOf } from "./docs-schema.js";
import { tryIt } from "./docs-try.js";
import "./theme.js";

// ---- the token of this tab, which is the console's

function showToken() {
  const { org, sub } = claims(token() ?? "");
  at("token-state").replaceChildren(...(org ? [name(sub ?? "a service", ""), " of ", name(org, "")] : [token() ? "A token" : "No token"]));
  at("token").value = token() ?? "";
}

at("token").addEventListener("change", ({ target }) => {
  keep(target.value.trim());
  showToken();
});
showToken();

// ---- operations

const METHODS = { get: "GET", post: "POST", put: "PUT", patch: "PATCH", delete: "DELETE" };

function answers(spec, root) {
  const rows = Object.entries(spec.responses).map(([status, answer]) => {
    const schema = Object.values(answer.content ?? {})[0]?.schema ?? {};
    return make("tr", "", make("td", "", status), make("td", "", make("code", "", typeOf(schema, root))), make("td", "", ...inline(answer.description)));
  });
  const success = Object.values(Object.entries(spec.responses).find(([status]) => status.startsWith("2"))?.[1].content ?? {})[0]?.schema;
  const shown = success?.$ref && Object.assign(make("pre", "", JSON.stringify(example(success, root), null, 2)), { tabIndex: 0, ariaLabel: "Example of the answer" });
  return [make("h3", "", "Answers"), wide("Answers", make("table", "", make("tbody", "", ...rows))), shown ? make("h4", "", "Example") : null, shown, ...(success ? properties(success, root) : [])].filter(Boolean);
}

function operation(path, method, spec, root) {
  const secured = (spec.security ?? root.security ?? []).length > 0;
  const body = spec.requestBody?.content["application/json"].schema;
  const verb = make("span", "method", METHODS[method]);
  verb.dataset.method = method;
  const link = Object.assign(make("a", "deep", "#"), { href: `#${spec.operationId}`, ariaLabel: `Link to ${spec.operationId}` });
  const element = make("details", "operation", make("summary", "", verb, make("code", "", path.replace("/api/v1", "")), make("span", "what", ...inline(spec.summary))));
  element.id = spec.operationId;
  element.dataset.text = [METHODS[method], path, spec.operationId, spec.summary, spec.description, ...(spec.tags ?? []), body ? typeOf(body, root) : "", ...Object.keys(resolve(body, root)?.properties ?? {})].join(" ").toLowerCase();
  // Made when it is opened: fifty forms and their tables at once would keep the page waiting.
  element.addEventListener("toggle", () => {
    if (!element.open || element.childElementCount > 1) return;
    element.append(make("div", "inside", ...prose(spec.description ?? ""), secured ? null : make("p", "note", "No token is needed."), make("p", "note", make("code", "", `${METHODS[method]} ${path}`), " ", link),
      make("h3", "", "Try it"), ...tryIt(path, METHODS[method], spec, root, secured), ...(body ? [make("h3", "", "Body"), ...properties(body, root)] : []), ...answers(spec, root)));
  });
  return element;
}

// ---- errors: the list in the description, as one table

const ERROR = /^- (\d+) (\w+) \((\d+)\): (.*)$/gm;

function errors(text) {
  const rows = [...text.matchAll(ERROR)].map(([, code, title, status, meaning]) => {
    const row = make("tr", "error", make("td", "", Object.assign(make("a", "", code), { href: `#error-${code}` })), make("td", "", make("code", "", title)), make("td", "", status), make("td", "", ...inline(meaning)));
    row.id = `error-${code}`; // where the `type` of a problem document points
    row.dataset.text = `error ${code} ${title} ${title.replaceAll("_", " ")} ${status} ${meaning}`.toLowerCase();
    return row;
  });
  const head = make("tr", "", ...["Code", "Name", "HTTP", "Meaning"].map((each) => Object.assign(make("th", "", each), { scope: "col" })));
  at("errors").replaceChildren(make("h2", "", "Errors"), make("p", "note", "The same numbers over HTTP, in problem documents, and in the messages of a socket."), wide("Error numbers", make("table", "", make("thead", "", head), make("tbody", "", ...rows))));
}

// ---- the page

function show(root) {
  at("version").textContent = root.info.version;
  const groups = new Map();
  for (const [path, methods] of Object.entries(root.paths)) {
    for (const [method, spec] of Object.entries(methods)) {
      const tag = spec.tags?.[0] ?? "other";
      groups.set(tag, [...(groups.get(tag) ?? []), [operation(path, method, spec, root), method, path, spec]]);
    }
  }
  at("operations").replaceChildren(...[...groups].map(([tag, all]) => make("section", "group", make("h2", "", tag), ...all.map(([element]) => element))));
  at("contents").replaceChildren(...[...groups].map(([tag, all]) => make("section", "", make("h2", "", tag), make("ul", "", ...all.map(([element, method, , spec]) => {
    const verb = make("span", "method", METHODS[method]);
    verb.dataset.method = method;
    const item = make("li", "", Object.assign(make("a", "", verb, make("span", "", ...inline(spec.summary.replace(/\.$/, "")))), { href: `#${spec.operationId}` }));
    item.dataset.of = element.id;
    return item;
  })))), make("section", "", make("h2", "", make("a", "", "errors"))));
  at("contents").lastElementChild.querySelector("a").href = "#errors";
  errors(root.info.description);
  at("about").replaceChildren(make("h2", "", "About"), ...prose(root.info.description.replace(ERROR, "").replace("its `code` says more than the status:", "its `code` says more than the status; see the table above.")));
  search(at("search").value); // somebody may have been quicker
  go();
}

/** Opens what the address names; the browser looked for it before there was anything. */
function go() {
  const wanted = location.hash.slice(1) && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!wanted) return;
  if (wanted.hidden) search("");
  if (wanted.matches("details")) wanted.open = true;
  for (const link of at("contents").querySelectorAll("a")) link.ariaCurrent = link.hash === location.hash ? "true" : null;
  for (const row of document.querySelectorAll(".error.wanted")) row.classList.remove("wanted");
  if (wanted.matches(".error")) wanted.classList.add("wanted");
  wanted.scrollIntoView({ block: wanted.matches(".error") ? "center" : "start" });
}

/** Shows only what holds every word. */
function search(text) {
  at("search").value = text;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const element of document.querySelectorAll("[data-text]")) {
    element.hidden = !words.every((word) => element.dataset.text.includes(word));
    found += element.hidden ? 0 : 1;
  }
  for (const item of at("contents").querySelectorAll("[data-of]")) item.hidden = at(item.dataset.of).hidden;
  for (const group of document.querySelectorAll(".group, .contents section")) {
    const items = [...group.querySelectorAll(".operation, [data-of]")];
    if (items.length) group.hidden = items.every(({ hidden }) => hidden);
  }
  at("errors").hidden = [...document.querySelectorAll(".error")].every(({ hidden }) => hidden);
  at("about").hidden = words.length > 0;
  at("nothing").hidden = found > 0;
}

at("search").addEventListener("input", ({ target }) => search(target.value));
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  at("search").focus();
});
addEventListener("hashchange", go);

try {
  const answer = await fetch("/api/v1/openapi.json");
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  show(await answer.json());
} catch (error) {
  at("operations").replaceChildren(placeholder("error", "The OpenAPI document could not be loaded", error.message));
}
