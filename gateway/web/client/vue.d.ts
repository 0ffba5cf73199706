import type { MaybeRefOrGetter, Plugin, ShallowRef } from "vue";
import type { EventMap, EventName, EventOf, Joined, JoinOptions, State, TransportKind, Trireme, TriremeError } from "./client.js";

export declare function createTrireme(client: Trireme<any>): Plugin;
export declare function useTrireme<Events extends EventMap = Record<string, any>>(): Trireme<Events>;
export declare function useConnection(): Readonly<ShallowRef<{ state: State; transport: TransportKind | null; degraded: string }>>;
export declare function useRoom(
  room: MaybeRefOrGetter<string | null>,
  options?: JoinOptions,
): { joined: Readonly<ShallowRef<Joined | null>>; error: Readonly<ShallowRef<TriremeError | null>> };
export declare function useEvent<Events extends EventMap = Record<string, any>, Name extends EventName<Events> = EventName<Events>>(
  name: Name,
  handler: (event: EventOf<Events, Name>) => void,
): void;
