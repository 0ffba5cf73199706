// REST of the gateway that served this page, with this tab's token.

import { parse, stringify } from "/client.js";
import { token } from "./token.js";

const DEADLINE = 15_000;

/** Why a request failed: `status` of HTTP, `code` of the gateway, or `offline` when there was no answer. */
export class RestError extends Error {
  constructor(message, status, code, retryAfter) {
    super(message);
    Object.assign(this, { name: "RestError", status, code, retryAfter });
  }
}

/** What the gateway answers to `method` `path` (below `/api/v1`).
 *  @param {string} method @param {string} path @param {{query?: object, body?: any}} [options]
 *  @throws {RestError} */
export async function rest(method, path, { query = {}, body } = {}) {
  const asked = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const headers = { Authorization: `Bearer ${token() ?? ""}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response, text;
  try {
    response = await fetch(`/api/v1/${path}${asked.length ? `?${new URLSearchParams(asked)}` : ""}`, {
      method, headers, body: body === undefined ? undefined : stringify(body), signal: AbortSignal.timeout(DEADLINE),
    });
    text = await response.text();
  } catch (cause) {
    const why = cause.name === "TimeoutError" ? `nothing came within ${DEADLINE / 1000} s` : "it cannot be reached";
    throw new RestError(`The gateway does not answer: ${why}.`, 0, "offline");
  }
  let answer;
  try {
    answer = text ? parse(text) : undefined;
  } catch {
    answer = { detail: `status ${response.status}, and an answer that is not JSON` };
  }
  if (response.ok) return answer;
  throw new RestError(answer?.detail ?? `status ${response.status}`, response.status, answer?.code, answer?.retry_after);
}

/** The newest values of `/metrics`: name → list of {labels, value}. @throws {RestError} */
export async function metrics() {
  let text;
  try {
    const response = await fetch("/metrics", { signal: AbortSignal.timeout(DEADLINE) });
    if (!response.ok) throw new RestError(`/metrics: status ${response.status}`, response.status);
    text = await response.text();
  } catch (error) {
    throw error instanceof RestError ? error : new RestError("The gateway does not answer.", 0, "offline");
  }
  const found = new Map();
  for (const line of text.split("\n")) {
    const parts = /^([a-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/i.exec(line);
    if (!parts) continue;
    const labels = Object.fromEntries([...(parts[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value]));
    found.set(parts[1], [...(found.get(parts[1]) ?? []), { labels, value: Number(parts[3]) }]);
  }
  return found;
}
