// Schemas of the OpenAPI document as text and tables.

import { make, wide } from "./dom.js";

/** `code` within a line of a description. */
export function inline(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", "", part) : part));
}

/** Paragraphs and lists of a description. */
export function prose(text) {
  return text.trim().split(/\n{2,}/).filter(Boolean).map((block) => {
    if (!block.startsWith("- ")) return make("p", "", ...inline(block));
    return make("ul", "", ...block.split(/\n(?=- )/).map((line) => make("li", "", ...inline(line.slice(2)))));
  });
}

/** The schema that a `$ref` names. */
export function resolve(schema, root) {
  return schema?.$ref ? root.components.schemas[schema.$ref.split("/").pop()] : schema;
}

const real = (schema) => (schema.anyOf ?? []).filter((each) => each.type !== "null");

/** One line that says what a schema accepts. */
export function typeOf(schema, root) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return [...new Set(real(schema).map((each) => typeOf(each, root)))].join(" | ");
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  if (schema.type === "array") return `[${typeOf(schema.items ?? {}, root)}]`;
  if (schema.type === "object" && schema.additionalProperties) return `{text: ${typeOf(schema.additionalProperties, root)}}`;
  return schema.type ?? "any value";
}

/** The text beside a property, also when it is optional and therefore inside an `anyOf`; with its bounds. */
function describe(schema) {
  const inner = real(schema)[0] ?? schema;
  const text = schema.description ?? inner.description ?? "";
  const bounds = [["minimum", "at least"], ["maximum", "at most"], ["default", "default"]]
    .map(([key, words]) => [words, schema[key] ?? inner[key]])
    .filter(([, value]) => value !== undefined && value !== null && typeof value !== "object" && value !== "")
    .map(([words, value]) => `${words} ${value}`);
  return [text, bounds.length ? `(${bounds.join(", ")})` : ""].filter(Boolean).join(" ");
}

/** Tables of a schema's properties, and of those that it mentions. */
export function properties(schema, root, seen = new Set()) {
  const named = resolve(schema, root);
  if (!named?.properties || seen.has(named)) return [];
  seen.add(named);
  const required = named.required ?? [];
  const rows = Object.entries(named.properties).map(([key, each]) => make("tr", "",
    make("td", "", make("code", "", key), required.includes(key) ? null : make("small", "", " optional")), make("td", "", make("code", "", typeOf(each, root))), make("td", "", ...inline(describe(each)))));
  const mentioned = Object.values(named.properties)
    .flatMap((each) => [each, each.items, ...(each.items?.anyOf ?? []), ...(each.anyOf ?? []), ...(each.anyOf ?? []).map(({ items }) => items), each.additionalProperties])
    .filter((each) => each?.$ref);
  return [make("h4", "", named.title ?? "Fields"), wide(named.title ?? "Fields", make("table", "", make("tbody", "", ...rows))), ...mentioned.flatMap((each) => properties(each, root, seen))];
}

/** A value that the schema accepts, from the document itself. */
export function example(schema, root) {
  const named = resolve(schema, root);
  if (!named) return undefined;
  if (named.examples) return named.examples[0];
  if (named.anyOf) return example(real(named)[0], root);
  return named.type === "array" ? [example(named.items, root)] : {};
}
