// What happens around the page.

const LOOK = 5_000; // a look at the clock this often tells of sleep
const SLEPT = 10_000; // so much later than it was due

/** Calls `nudge` when something tells sooner than a timer that the network is back, or the connection gone.
 *  @param {() => void} nudge @returns {() => void} ends it */
export function watch(nudge) {
  const ending = new AbortController();
  const { signal } = ending;
  const { document } = globalThis;
  const shown = () => document?.visibilityState !== "hidden" && nudge();
  for (const name of ["online", "pageshow"]) globalThis.addEventListener?.(name, () => nudge(), { signal });
  for (const name of ["visibilitychange", "resume"]) document?.addEventListener(name, shown, { signal });
  let looked = Date.now();
  const look = setInterval(() => {
    if (Date.now() - looked > LOOK + SLEPT) nudge();
    looked = Date.now();
  }, LOOK);
  return () => {
    clearInterval(look);
    ending.abort();
  };
}
