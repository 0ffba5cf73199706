// JSON with integers of 64 bits.

/** `JSON.parse`, but integers that a number cannot hold become BigInts. @param {string} text @returns {any} */
export function parse(text) {
  if (!/\d{16}/.test(text)) return JSON.parse(text);
  // Each becomes a text that begins with a mark, and then a BigInt. JSON has one way only to write that character.
  let mark = "\\u0001";
  while (text.includes(mark)) mark += mark;
  const token = /"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
  let [marked, done] = ["", 0];
  for (let found = token.exec(text); found; found = token.exec(text)) {
    if (found[0] === '"') token.lastIndex = stringEnd(text, found.index + 1);
    else if (/^-?\d{16,}$/.test(found[0]) && !Number.isSafeInteger(Number(found[0]))) {
      marked += `${text.slice(done, found.index)}"${mark}${found[0]}"`;
      done = token.lastIndex;
    }
  }
  const begin = JSON.parse(`"${mark}"`);
  const revive = (_, value) => (typeof value === "string" && value.startsWith(begin) ? BigInt(value.slice(begin.length)) : value);
  return done ? JSON.parse(marked + text.slice(done), revive) : JSON.parse(text);
}

/** Behind the quote that ends the string whose content begins at `index`. */
function stringEnd(text, index) {
  for (let end = text.indexOf('"', index); end >= 0; end = text.indexOf('"', end + 1)) {
    let before = end;
    while (text[before - 1] === "\\") before -= 1;
    if ((end - before) % 2 === 0) return end + 1;
  }
  return text.length;
}

/** `JSON.stringify`, but BigInts are written as integers. @param {any} value @param {number} [space] */
export function stringify(value, space) {
  let big = false;
  const plain = JSON.stringify(value, (_, item) => (typeof item === "bigint" ? ((big = true), 0) : item), space);
  if (!big) return plain;
  let mark = "int:";
  while (plain.includes(mark)) mark += mark;
  const marked = JSON.stringify(value, (_, item) => (typeof item === "bigint" ? mark + item : item), space);
  return marked.replace(new RegExp(`"${mark}(-?\\d+)"`, "g"), "$1");
}

/** The codec of `trireme.v1.json`. */
export const json = {
  subprotocol: "trireme.v1.json",
  /** What goes out is hardly ever more than plain JSON, for which `JSON.stringify` is quicker. */
  encode(message) {
    try {
      return JSON.stringify(message);
    } catch {
      return stringify(message);
    }
  },
  decode: parse,
};
