// The token of this tab: every page of this gateway that is opened in it has the same.

export const token = () => sessionStorage.getItem("token");

export function keep(chosen) {
  sessionStorage.setItem("token", chosen);
}

/** What a token says of itself; nothing of it is verified here. */
export function claims(text) {
  try {
    const bytes = Uint8Array.from(atob(text.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return {};
  }
}
