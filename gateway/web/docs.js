// Shows the OpenAPI document of this gateway, with a form and a curl line for each operation.
// Everything comes from this gateway; text goes into the page as text, never as markup.

const page = document.getElementById("document");
const token = document.getElementById("token");

/** Make an element: properties, then children (elements or text). */
function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Paragraphs, lists and `code` of a description. */
function prose(text) {
  return text.trim().split(/\n{2,}/).map((block) => {
    if (!block.startsWith("- ")) return make("p", {}, ...inline(block));
    return make("ul", {}, ...block.split("\n").map((line) => {
      const item = make("li", {}, ...inline(line.slice(2)));
      const number = /^\d+/.exec(line.slice(2));
      if (number) item.id = `error-${number[0]}`; // where the `type` of a problem document points
      return item;
    }));
  });
}

function inline(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

/** The schema that a `$ref` names. */
function resolve(schema, root) {
  return schema.$ref ? root.components.schemas[schema.$ref.split("/").pop()] : schema;
}

/** One line that says what a schema accepts. */
function typeOf(schema, root) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return [...new Set(schema.anyOf.map((each) => typeOf(each, root)))].join(" | ");
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  if (schema.type === "array") return `[${typeOf(schema.items ?? {}, root)}]`;
  if (schema.type === "object" && schema.additionalProperties) {
    return `{text: ${typeOf(schema.additionalProperties, root)}}`;
  }
  return schema.type ?? "any value";
}

/** The text beside a property, also when it is optional and therefore inside an `anyOf`. */
function describe(schema) {
  return schema.description ?? schema.anyOf?.find((each) => each.description)?.description ?? "";
}

/** A table of a schema's properties, and of those that it mentions. */
function properties(schema, root, seen = new Set()) {
  const named = resolve(schema, root);
  if (!named?.properties || seen.has(named)) return [];
  seen.add(named);
  const required = named.required ?? [];
  const rows = Object.entries(named.properties).map(([name, each]) =>
    make("tr", {},
      make("td", {}, make("code", {}, name), required.includes(name) ? "" : make("small", {}, " optional")),
      make("td", {}, make("code", {}, typeOf(each, root))),
      make("td", {}, ...inline(describe(each)))));
  const mentioned = Object.values(named.properties)
    .flatMap((each) => [each, each.items, each.items?.anyOf, each.anyOf].flat())
    .filter((each) => each?.$ref);
  return [
    make("h3", {}, named.title ?? "Fields"),
    make("table", {}, make("tbody", {}, ...rows)),
    ...mentioned.flatMap((each) => properties(each, root, seen)),
  ];
}

/** A value to begin with: the required members, and those that have no default. */
function example(schema, root) {
  const named = resolve(schema, root);
  if (named.anyOf) return example(named.anyOf[0], root);
  if (named.enum) return named.enum[0];
  if (named.type === "array") return named.items ? [example(named.items, root)] : [];
  if (named.type === "object") {
    const wanted = Object.keys(named.properties ?? {})
      .filter((name) => (named.required ?? []).includes(name) || ["data", "room", "ttl", "user"].includes(name));
    return Object.fromEntries(wanted.map((name) => [name, sample(name, named.properties[name], root)]));
  }
  return { string: "", integer: 0, number: 0, boolean: false }[named.type] ?? null;
}

const SAMPLES = { event: "message:new", room: "chat:42", data: { text: "hello" }, user: "alice", ttl: 3600 };

function sample(name, schema, root) {
  return name in SAMPLES ? SAMPLES[name] : example(schema, root);
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The request that a form describes. */
function request(form, method, path, parameters) {
  let target = path;
  const query = new URLSearchParams();
  for (const parameter of parameters) {
    const value = form.elements[`${parameter.in}:${parameter.name}`].value;
    if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(value));
    else if (value) query.set(parameter.name, value);
  }
  const body = form.elements.body?.value;
  return { method, target: query.size ? `${target}?${query}` : target, body };
}

function curl({ method, target, body }, secured) {
  return [
    "curl -sS",
    method === "GET" ? "" : `-X ${method}`,
    secured ? '-H "Authorization: Bearer $TOKEN"' : "",
    body ? `-H 'Content-Type: application/json' -d ${quoted(body)}` : "",
    quoted(location.origin + target),
  ].filter(Boolean).join(" ");
}

async function send({ method, target, body }, secured, output) {
  const headers = {};
  if (secured && token.value) headers.Authorization = `Bearer ${token.value.trim()}`;
  if (body) headers["Content-Type"] = "application/json";
  output.textContent = "…";
  try {
    const answer = await fetch(target, { method, headers, body: body || undefined });
    const text = await answer.text();
    const isJson = /json/.test(answer.headers.get("Content-Type") ?? "");
    output.textContent = `${answer.status}\n${isJson ? JSON.stringify(JSON.parse(text), null, 2) : text}`;
  } catch (error) {
    output.textContent = String(error);
  }
}

function operation(path, method, spec, root) {
  const parameters = spec.parameters ?? [];
  const secured = (spec.security ?? root.security ?? []).length > 0;
  const body = spec.requestBody?.content["application/json"].schema;
  const inputs = parameters.map((parameter) =>
    make("label", {}, make("code", {}, parameter.name), ` ${parameter.in} `,
      make("small", {}, ...inline(parameter.description ?? "")),
      make("input", { name: `${parameter.in}:${parameter.name}`, required: Boolean(parameter.required),
        placeholder: typeOf(parameter.schema, root) })));
  const area = body && make("textarea", { name: "body", spellcheck: false,
    value: JSON.stringify(example(body, root), null, 2) });
  const line = make("pre");
  const output = make("pre", { hidden: true, ariaLive: "polite" });
  const form = make("form", {}, ...inputs, body ? make("label", {}, "body", area) : null,
    make("button", { type: "submit" }, "Send"));
  const show = () => { line.textContent = curl(request(form, method.toUpperCase(), path, parameters), secured); };
  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    output.hidden = false;
    send(request(form, method.toUpperCase(), path, parameters), secured, output);
  });
  show();
  const answers = Object.entries(spec.responses).map(([status, answer]) => {
    const schema = Object.values(answer.content ?? {})[0]?.schema ?? {};
    return make("tr", {}, make("td", {}, status), make("td", {}, make("code", {}, typeOf(schema, root))),
      make("td", {}, ...inline(answer.description)));
  });
  const success = Object.values(spec.responses["200"]?.content ?? {})[0]?.schema ?? {};
  return make("details", { id: spec.operationId },
    make("summary", {}, make("span", { className: "method" }, method.toUpperCase()),
      make("code", {}, path), " ", make("span", { className: "summary" }, ...inline(spec.summary))),
    make("div", {}, ...prose(spec.description ?? ""), secured ? null : make("p", {}, "No token is needed."),
      ...(body ? [make("h2", {}, "Body"), ...properties(body, root)] : []),
      make("h2", {}, "Answers"), make("table", {}, make("tbody", {}, ...answers)), ...properties(success, root),
      make("h2", {}, "Try it"), form, line, output));
}

function show(root) {
  document.getElementById("version").textContent = root.info.version;
  const groups = new Map();
  for (const [path, methods] of Object.entries(root.paths)) {
    for (const [method, spec] of Object.entries(methods)) {
      const tag = spec.tags?.[0] ?? "other";
      groups.set(tag, [...(groups.get(tag) ?? []), operation(path, method, spec, root)]);
    }
  }
  page.replaceChildren(...prose(root.info.description),
    ...[...groups].flatMap(([tag, operations]) => [make("h2", {}, tag), ...operations]));
  // The browser looked for the fragment before there was anything.
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

const answer = await fetch("/api/v1/openapi.json");
if (answer.ok) show(await answer.json());
else page.replaceChildren(make("p", {}, `Could not load the OpenAPI document: HTTP ${answer.status}.`));
