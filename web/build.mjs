/**
 * Builds the npm package's JavaScript and types into pkg/dist and the demo page into web/demo/dist
 * (vite.config.mjs).
 *
 *   node build.mjs           all; the demo takes the wasm module from pkg/dist
 *   node build.mjs --fake    the demo gets the tests' stand-in for the wasm module instead
 *
 * The wasm module (deltamem.js, deltamem_bg.wasm) is made by the Rust build; the page brings it along.
 */
import { execFileSync } from "node:child_process";
import { cp, mkdir, readdir, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { build as buildSite } from "vite";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const isFake = process.argv.includes("--fake");
const dist = path("../pkg/dist");

const shared = {
  bundle: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  sourcemap: "linked",
  // stays beside the bundle, where its own `new URL("deltamem_bg.wasm", import.meta.url)` finds the wasm
  external: ["./deltamem.js"],
  logLevel: "warning",
};

await mkdir(dist, { recursive: true });
// All but the wasm module is made here; the names of shared pieces change with their content.
for (const name of await readdir(dist)) {
  if (!name.startsWith("deltamem")) await rm(`${dist}/${name}`);
}
// What the entries share is a file of its own, so that there is one class LanguageModel.
await build({
  ...shared,
  splitting: true,
  entryPoints: ["index", "openai", "ai-sdk"].map((name) => path(`lib/${name}.ts`)),
  outdir: dist,
});
// Whole in one file each: a worker is easier to host so, and the wasm module's face needs nothing else.
await build({
  ...shared,
  entryPoints: ["worker", "wasm-module"].map((name) => path(`lib/${name}.ts`)),
  outdir: dist,
});
for (const name of ["LICENSE-APACHE", "LICENSE-MIT"]) await cp(path(`../${name}`), path(`../pkg/${name}`));
const tsc = fileURLToPath(new URL("bin/tsc", import.meta.resolve("typescript/package.json")));
execFileSync(process.execPath, [tsc, "-p", path("../pkg/tsconfig.json")], { stdio: "inherit" });

if (isFake || existsSync(`${dist}/deltamem.js`)) {
  if (!isFake) {
    execFileSync(process.execPath, [tsc, "-p", path("wasm-contract.tsconfig.json")], { stdio: "inherit" });
  }
  await buildSite({ configFile: path("vite.config.mjs"), mode: isFake ? "fake" : "production" });
} else {
  console.warn("build: pkg/dist/deltamem.js is missing, so there is no demo page yet: build the wasm module first");
}
