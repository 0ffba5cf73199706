// What asks for attention: toasts, the number in the tab's icon and title, desktop notifications, a sound.

import { at, button, make } from "./dom.js";

const SHOWN = 3; // toasts at a time
const STAYS = 5_000;
const PER_SECOND = 3; // more are only counted

let recent = [];
let more = null;

/** A toast for a moment. `tone`: info, success, warning or error. `open` is what a click does. */
export function toast(tone, title, text, open) {
  const now = performance.now();
  recent = recent.filter((time) => now - time < 1_000);
  if (recent.length >= PER_SECOND) return countMore();
  recent.push(now);
  const element = make("div", "toast", make("div", "", make("strong", "", make("bdi", "", title)), text ? make("p", "", make("bdi", "", text)) : null));
  element.dataset.tone = tone;
  if (open) element.append(button("Show", "quiet", () => { element.remove(); open(); }));
  const close = button("×", "quiet icon", () => element.remove());
  close.ariaLabel = "Dismiss";
  element.append(close);
  place(element);
}

function countMore() {
  if (!more?.isConnected) {
    more = make("div", "toast more", make("span"));
    more.count = 0;
    place(more);
  }
  more.firstChild.textContent = `and ${(more.count += 1)} more`;
}

function place(element) {
  const box = at("toasts");
  box.append(element);
  while (box.childElementCount > SHOWN) box.firstElementChild.remove();
  let timer = setTimeout(() => element.remove(), STAYS);
  element.addEventListener("pointerenter", () => clearTimeout(timer));
  element.addEventListener("pointerleave", () => { timer = setTimeout(() => element.remove(), STAYS); });
}

// ---- the tab

const TITLE = document.title;

/** Shows `count` beside the inbox, in the tab's title and in its icon. */
export function showBadge(count) {
  const text = count > 99 ? "99+" : String(count);
  at("badge").hidden = count === 0;
  at("badge").replaceChildren(text, make("span", "hidden-text", " that wait for you"));
  document.title = count ? `(${text}) ${TITLE}` : TITLE;
  const mark = count ? `<circle cx="22" cy="10" r="10" fill="#d1372c"/><text x="22" y="14.5" font-family="sans-serif" font-size="${count > 9 ? 11 : 13}" font-weight="700" text-anchor="middle" fill="#fff">${count > 99 ? "99" : count}</text>` : "";
  const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#0e7c86"/><path d="M5 17.5c3.2 4.6 18.8 4.6 22 0l-2.2 6.2a3 3 0 0 1-2.8 2H10a3 3 0 0 1-2.8-2z" fill="#fff"/><path d="M11 15.5 8.5 6M16 15.5V5M21 15.5 23.5 6" stroke="#fff" stroke-width="2.4" stroke-linecap="round"/>${mark}</svg>`;
  at("tab-icon").href = count ? `data:image/svg+xml,${encodeURIComponent(icon)}` : "/assets/icon.svg";
}

// ---- what the user may switch on

const option = (key) => localStorage.getItem(key) === "yes";
let audio = null;

/** Switches on a `desktop` notification or a `sound`; settles with whether it is on. */
export async function setOption(key, on) {
  if (key === "desktop" && on) {
    if (!("Notification" in globalThis) || (await Notification.requestPermission()) !== "granted") on = false;
  }
  if (key === "sound" && on) {
    audio ??= new AudioContext();
    beep();
  }
  localStorage.setItem(key, on ? "yes" : "no");
  return on;
}

export const isOn = (key) => option(key) && (key !== "desktop" || globalThis.Notification?.permission === "granted");

function beep() {
  audio ??= new AudioContext();
  const [tone, volume] = [audio.createOscillator(), audio.createGain()];
  tone.frequency.value = 660;
  volume.gain.setValueAtTime(0.08, audio.currentTime);
  volume.gain.exponentialRampToValueAtTime(0.001, audio.currentTime + 0.25);
  tone.connect(volume).connect(audio.destination);
  tone.start();
  tone.stop(audio.currentTime + 0.25);
}

/** Something new for this user: a toast, and what they switched on. */
export function announce(tone, title, text, open) {
  toast(tone, title, text, open);
  if (isOn("sound")) beep();
  if (isOn("desktop") && document.hidden) {
    const shown = new Notification(title, { body: text, icon: "/assets/icon.svg" });
    shown.onclick = () => { window.focus(); open?.(); };
  }
}
