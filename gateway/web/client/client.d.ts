/** A place in the order of a room. */
export interface Position {
  epoch: string;
  seq: number;
}

/** What handlers of rooms' events get. Without `room` it came to the organisation, or where `to` says. */
export interface RoomEvent<Data = any, Name extends string = string> {
  event: Name;
  room?: string;
  data: Data;
  seq?: number;
  epoch?: string;
  /** Milliseconds since 1970 UTC. */
  ts: number;
  mid: string;
  sender?: string;
  critical?: boolean;
  to?: "user" | "connection";
}

export type TransportKind = "websocket" | "sse" | "poll";
export type State = "disconnected" | "connecting" | "connected" | "reconnecting" | "failed";
export type Overflow = "disconnect" | "drop_oldest" | "conflate" | "replay";

export interface Welcome {
  connection: string;
  org: string;
  user?: string;
  node: string;
  /** Seconds. */
  heartbeat: number;
  limits: { message_bytes: number; rooms: number; patterns: number; values: number };
  /** Milliseconds since 1970 UTC. */
  expires?: number;
  unread?: number;
  subprotocol?: string;
  [more: string]: any;
}

export interface Backoff {
  base?: number;
  factor?: number;
  maximum?: number;
  tries?: number;
  giveUp?: boolean;
}

/** A codec for the WebSocket, such as that of `trireme-client/cbor`. */
export interface Codec {
  readonly subprotocol: string;
  readonly binary?: boolean;
  encode(message: object): string | Uint8Array;
  decode(data: any): any;
}

/** Durations are milliseconds. */
export interface Options {
  token?: string | (() => string | Promise<string>);
  auth?: "query" | "ticket" | "message";
  transports?: TransportKind[];
  retryWebSocket?: number;
  storage?: Pick<Storage, "getItem" | "setItem" | "removeItem"> | null;
  codec?: Codec;
  backoff?: Backoff;
  keepAlive?: number;
  pongTimeout?: number;
  slowPong?: number;
  connectTimeout?: number;
  commandTimeout?: number;
  queue?: number;
  pending?: number;
  WebSocket?: any;
  fetch?: typeof fetch;
}

export interface JoinOptions {
  events?: string[];
  since?: Position;
  overflow?: Overflow;
  key?: string;
  presence?: boolean;
}

export interface Joined extends Position {
  room: string;
  recovered?: boolean;
  replayed?: number;
  users?: string[];
}

/** The client's own events. */
export interface OwnEvents {
  state: { state: State; previous: State };
  connected: Welcome & { reconnected: boolean; transport: TransportKind };
  disconnected: { code: number; reason: string; reconnect: boolean };
  reconnecting: { attempt: number; delay: number; code: number; reason: string };
  "reconnect:failed": { attempts: number; code: number; reason: string };
  "login:refused": { code: number; reason: string; reconnect: boolean };
  error: TriremeError;
  lost: { room?: string; of?: "user"; epoch: string; from: number; to?: number; reason: string };
  presence: { room: string; event: "join" | "leave"; user: string };
  degraded: { degraded: boolean; reason: string; transport: TransportKind | null };
}

/** Names of events, with what their `data` is. */
export type EventMap = object;

type Named<Events extends EventMap> = keyof Events & string;
type IsPattern<Name extends string> = Name extends "all" | `${string}*${string}` ? true : false;
type Prefixed<Events extends EventMap, Pattern extends string> = Pattern extends "*" | "all"
  ? Named<Events>
  : Pattern extends `${infer Start}*`
    ? Extract<Named<Events>, `${Start}${string}`>
    : Named<Events>;

/** The event that a handler of `Name` gets. */
export type EventOf<Events extends EventMap, Name extends string> = Name extends keyof OwnEvents
  ? OwnEvents[Name]
  : Name extends Named<Events>
    ? RoomEvent<Events[Name], Name>
    : IsPattern<Name> extends true
      ? { [Each in Prefixed<Events, Name>]: RoomEvent<Events[Each], Each> }[Prefixed<Events, Name>]
      : never;

/** What may be listened to: names of the map, the client's own, and patterns. */
export type EventName<Events extends EventMap> = Named<Events> | keyof OwnEvents | "all" | `${string}*${string}`;

/** The client. `Events` maps names of events to their data: `Trireme<{ "message:new": { text: string } }>`. */
export declare class Trireme<Events extends EventMap = Record<string, any>> {
  constructor(url: string | URL, options?: Options);
  constructor(options?: Options);
  connect(): Promise<Welcome>;
  reconnect(): Promise<Welcome>;
  disconnect(): void;
  isConnected(): boolean;
  getState(): State;
  readonly transport: TransportKind | null;
  readonly degraded: string;
  on<Name extends EventName<Events>>(name: Name, handler: (event: EventOf<Events, Name>) => void): () => void;
  off<Name extends EventName<Events>>(name: Name, handler?: (event: EventOf<Events, Name>) => void): void;
  send(message: { t: string; [field: string]: any }): Promise<any>;
  send(type: string, data?: any): Promise<any>;
  join(room: string, options?: JoinOptions): Promise<Joined>;
  leave(room: string): Promise<void>;
  subscribe(events: string | string[]): Promise<{ events: string[]; except: string[] }>;
  unsubscribe(events: string | string[]): Promise<{ events: string[]; except: string[] }>;
  publish<Name extends Named<Events>>(
    room: string | null,
    event: Name,
    data?: Events[Name],
    options?: { mid?: string; critical?: boolean },
  ): Promise<Position & { room: string | null; mid: string }>;
  sendToUser<Name extends Named<Events>>(user: string, event: Name, data?: Events[Name]): Promise<{ mid: string; connections: number }>;
  call<Result = any>(name: string, data?: any): Promise<Result>;
  typing(room: string, state?: "start" | "stop"): Promise<void>;
  ping<Data = undefined>(data?: Data): Promise<{ ts: number; data: Data; rtt: number }>;
  info(): Promise<any>;
  stats(): Promise<any>;
  history(
    room: string,
    options?: { since?: Position; limit?: number },
  ): Promise<Position & { events: RoomEvent[]; more: boolean; complete: boolean }>;
  presence(room: string): Promise<{ members: { user: string; connections: number }[]; connections: number }>;
  refresh(token?: string): Promise<number | undefined>;
}

export declare class TriremeError extends Error {
  constructor(code: number | string, message: string, more?: { room?: string; retryAfter?: number; cause?: unknown });
  /** The gateway's error number, or a word when the client itself gave up. */
  readonly code: number | string;
  readonly room?: string;
  /** Milliseconds. */
  readonly retryAfter?: number;
}

export declare function shouldReconnect(code: number): boolean;
export declare function parse(text: string): any;
export declare function stringify(value: any, space?: number): string;
