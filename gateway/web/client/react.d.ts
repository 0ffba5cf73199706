import type { FunctionComponent, ReactNode } from "react";
import type { EventMap, EventName, EventOf, Joined, JoinOptions, State, TransportKind, Trireme, TriremeError } from "./client.js";

export declare const TriremeProvider: FunctionComponent<{ client: Trireme<any>; children?: ReactNode }>;
export declare function useTrireme<Events extends EventMap = Record<string, any>>(): Trireme<Events>;
export declare function useConnection(): { state: State; transport: TransportKind | null; degraded: string };
export declare function useRoom(room: string | null, options?: JoinOptions): { joined: Joined | null; error: TriremeError | null };
export declare function useEvent<Events extends EventMap = Record<string, any>, Name extends EventName<Events> = EventName<Events>>(
  name: Name,
  handler: (event: EventOf<Events, Name>) => void,
): void;
