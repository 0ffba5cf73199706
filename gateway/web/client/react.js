// Hooks for React 18 or newer; docs/client-react.md shows them at work.

import { createContext, createElement, useCallback, useContext, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { connectionOf, holdRoom, same, watchConnection } from "./hold.js";

const Context = createContext(null);

/** Connects `client` while it is shown, and gives it to the hooks below it. */
export function TriremeProvider({ client, children }) {
  const shown = useRef(0);
  useEffect(() => {
    shown.current += 1;
    client.connect().catch(() => {}); // the events `error` and `login:refused` say it
    return () => {
      shown.current -= 1;
      setTimeout(() => shown.current === 0 && client.disconnect(), 0); // strict mode shows it again at once
    };
  }, [client]);
  return createElement(Context.Provider, { value: client }, children);
}

/** The client of the nearest provider. */
export function useTrireme() {
  const client = useContext(Context);
  if (!client) throw new Error("useTrireme: there is no TriremeProvider around this component");
  return client;
}

/** `{state, transport, degraded}`, kept up to date. */
export function useConnection() {
  const client = useTrireme();
  const last = useRef(null);
  const subscribe = useCallback((changed) => watchConnection(client, changed), [client]);
  const look = () => {
    const now = connectionOf(client);
    return (last.current = last.current && same(last.current, now) ? last.current : now);
  };
  return useSyncExternalStore(subscribe, look, look);
}

/** Is in `room` while the component is shown; null: in none. Returns `{joined, error}`. */
export function useRoom(room, options) {
  const client = useTrireme();
  const [outcome, setOutcome] = useState({ joined: null, error: null });
  const wanted = useRef(options);
  wanted.current = options;
  useEffect(() => (room === null ? undefined : holdRoom(client, room, wanted.current, setOutcome)), [client, room]);
  return outcome;
}

/** Calls `handler` for the events named `name`, or matching it, while the component is shown. */
export function useEvent(name, handler) {
  const client = useTrireme();
  const latest = useRef(handler);
  latest.current = handler;
  useEffect(() => client.on(name, (event) => latest.current(event)), [client, name]);
}
