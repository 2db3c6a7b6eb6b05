/**
 * Builds the npm package's JavaScript and types into pkg/dist and the demo into web/demo/dist.
 *
 *   node build.mjs           all; the demo takes the wasm module from pkg/dist
 *   node build.mjs --fake    the demo gets the tests' stand-in for the wasm module instead
 *
 * The wasm module (deltamem.js, deltamem_bg.wasm) is made by the Rust build and only copied here.
 */
import { execFileSync } from "node:child_process";
import { cp, mkdir, readdir, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const isFake = process.argv.includes("--fake");
const dist = path("../pkg/dist");
const demo = path("demo/dist");

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

await rm(demo, { recursive: true, force: true });
await mkdir(demo, { recursive: true });
await build({
  ...shared,
  minify: true,
  entryPoints: { demo: path("demo/demo.ts"), worker: path("lib/worker.ts") },
  outdir: demo,
});
for (const name of ["index.html", "style.css", "icon.svg"]) {
  await cp(path(`demo/${name}`), `${demo}/${name}`);
}
for (const name of [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
  "model.safetensors",
  "delta_mem_config.json",
  "delta_mem_adapter.safetensors",
]) {
  await cp(path(`../models/nano/${name}`), `${demo}/models/nano/${name}`);
}
if (isFake) {
  await cp(path("test/fake-model.mjs"), `${demo}/deltamem.js`);
} else if (existsSync(`${dist}/deltamem.js`)) {
  execFileSync(process.execPath, [tsc, "-p", path("wasm-contract.tsconfig.json")], { stdio: "inherit" });
  for (const name of ["deltamem.js", "deltamem_bg.wasm"]) await cp(`${dist}/${name}`, `${demo}/${name}`);
} else {
  console.warn("build: pkg/dist/deltamem.js is missing, so the demo has no model code yet: build the wasm module first");
}
