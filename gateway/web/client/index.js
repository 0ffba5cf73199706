/*! Trireme's client. Sources: gateway/web/client; documentation: docs/client-js.md. MIT */

export { TriremeError, shouldReconnect } from "./errors.js";
export { parse, stringify } from "./json.js";
export { Trireme } from "./trireme.js";
