// Makes ../client.js, the one file that pages load, of the modules beside this file: node build.mjs
// A test holds them together. esbuild is among the packages of tests/e2e/package.json.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const { build } = createRequire(`${here}../../../tests/e2e/package.json`)("esbuild");

await build({
  entryPoints: [`${here}index.js`],
  outfile: process.argv[2] ?? `${here}../client.js`,
  absWorkingDir: here,
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: true,
  // Names that only the modules use among themselves.
  mangleProps: /^(reentered|wentOn|garbled|requeue|interrupted|greeted|resumed|narrowed|missed|waiting|restart|encoded|hidden|cutOff|suits|opened|answered|attempt|blocked|refused|position)$/,
  reserveProps: /^(attempt|narrowed)$/,
  sourcemap: true,
  sourceRoot: "client/",
  legalComments: "inline",
  charset: "utf8",
});
