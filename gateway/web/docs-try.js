// A form for one operation, the same request as a line for a shell, and the gateway's answer.

import { button, copy, make } from "./dom.js";
import { example, inline, typeOf } from "./docs-schema.js";
import { token } from "./token.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The request that a form describes. */
function request(form, method, path, parameters) {
  let target = path;
  const query = new URLSearchParams();
  for (const parameter of parameters) {
    const { value } = form.elements[`${parameter.in}:${parameter.name}`];
    if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value) query.set(parameter.name, value);
  }
  return { method, target: query.size ? `${target}?${query}` : target, body: form.elements.body?.value };
}

function curl({ method, target, body }, bearer) {
  return ["curl -sS", method === "GET" ? "" : `-X ${method}`, bearer ? `-H "Authorization: Bearer ${bearer}"` : "",
    body ? `-H 'Content-Type: application/json' -d ${quoted(body)}` : "", quoted(location.origin + target)].filter(Boolean).join(" ");
}

async function send({ method, target, body }, secured, output) {
  const headers = {};
  if (secured && token()) headers.Authorization = `Bearer ${token()}`;
  if (body) headers["Content-Type"] = "application/json";
  output.textContent = "…";
  const sent = performance.now();
  try {
    const answer = await fetch(target, { method, headers, body: body || undefined, signal: AbortSignal.timeout(90_000) });
    const text = await answer.text();
    const isJson = /json/.test(answer.headers.get("Content-Type") ?? "");
    output.textContent = `${answer.status} in ${(performance.now() - sent).toFixed(1)} ms\n${isJson && text ? JSON.stringify(JSON.parse(text), null, 2) : text}`;
  } catch (error) {
    output.textContent = `No answer: ${error.message}`;
  }
}

/** The form of an operation and what belongs to it. */
export function tryIt(path, method, spec, root, secured) {
  const parameters = spec.parameters ?? [];
  const body = spec.requestBody?.content["application/json"].schema;
  const inputs = parameters.map((parameter) => {
    const input = make("input");
    Object.assign(input, { name: `${parameter.in}:${parameter.name}`, required: Boolean(parameter.required), placeholder: typeOf(parameter.schema, root), autocomplete: "off" });
    return make("label", "", make("span", "", make("code", "", parameter.name), ` in the ${parameter.in}`, parameter.description ? " – " : "", ...inline(parameter.description ?? "")), input);
  });
  const area = body && Object.assign(make("textarea"), { name: "body", spellcheck: false, rows: 8, value: JSON.stringify(example(body, root), null, 2) });
  const line = Object.assign(make("pre"), { tabIndex: 0, ariaLabel: "The same with curl" });
  const output = Object.assign(make("pre", "answer"), { hidden: true, ariaLive: "polite", tabIndex: 0, ariaLabel: "Answer" });
  const submit = make("button", "primary", "Send");
  const now = () => request(form, method, path, parameters);
  const tools = make("div", "row wrap", submit, button("Copy as curl", "quiet", ({ currentTarget }) => copy(curl(now(), secured && "$TOKEN"), currentTarget)),
    secured ? button("Copy with this token", "quiet", ({ currentTarget }) => copy(curl(now(), token() || "$TOKEN"), currentTarget)) : null);
  const form = make("form", "stack", ...inputs, body ? make("label", "", "Body", area) : null, tools);
  const show = () => { line.textContent = curl(now(), secured && "$TOKEN"); };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    output.hidden = false;
    send(now(), secured, output);
  });
  show();
  return [form, line, output];
}
