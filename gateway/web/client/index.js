/*! Trireme, MIT */

export { TriremeError, shouldReconnect } from "./errors.js";
export { parse, stringify } from "./json.js";
export { Trireme } from "./trireme.js";
