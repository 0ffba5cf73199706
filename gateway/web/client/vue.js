// Composables for Vue 3; docs/client-vue.md shows them at work.

import { inject, onScopeDispose, shallowRef, toValue, watch } from "vue";
import { connectionOf, holdRoom, same, watchConnection } from "./hold.js";

const KEY = Symbol("trireme");

/** The plugin: `app.use(createTrireme(client))` connects, and disconnects when the application is unmounted. */
export function createTrireme(client) {
  return {
    install(app) {
      app.provide(KEY, client);
      client.connect().catch(() => {}); // the events `error` and `login:refused` say it
      const unmount = app.unmount;
      app.unmount = (...args) => {
        unmount.apply(app, args);
        client.disconnect();
      };
    },
  };
}

/** The client of the application. */
export function useTrireme() {
  const client = inject(KEY, null);
  if (!client) throw new Error("useTrireme: app.use(createTrireme(client)) was not called");
  return client;
}

/** A ref of `{state, transport, degraded}`, kept up to date. */
export function useConnection() {
  const client = useTrireme();
  const connection = shallowRef(connectionOf(client));
  const look = () => {
    const now = connectionOf(client);
    if (!same(now, connection.value)) connection.value = now;
  };
  onScopeDispose(watchConnection(client, look));
  return connection;
}

/** Is in `room` (a name, a ref or a getter; null: in none) while the component is shown. Refs `joined` and `error`. */
export function useRoom(room, options) {
  const client = useTrireme();
  const [joined, error] = [shallowRef(null), shallowRef(null)];
  const tell = (outcome) => ([joined.value, error.value] = [outcome.joined, outcome.error]);
  watch(() => toValue(room), (name, _, onCleanup) => {
    if (name === null) return tell({ joined: null, error: null });
    onCleanup(holdRoom(client, name, options, tell));
  }, { immediate: true });
  return { joined, error };
}

/** Calls `handler` for the events named `name`, or matching it, while the component is shown. */
export function useEvent(name, handler) {
  onScopeDispose(useTrireme().on(name, handler));
}
