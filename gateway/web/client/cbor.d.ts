import type { Codec } from "./client.js";

/** The codec of `trireme.v1.cbor`: `new Trireme({ codec: cbor })`. */
export declare const cbor: Codec & { encode(message: object): Uint8Array; decode(data: ArrayBuffer | Uint8Array): any };
