/**
 * Builds the app in a folder with one bundler each, as its users would: what stands here is all that
 * they have to write. Each resolves to the folder that is to be served.
 */
import assert from "node:assert/strict";
import { cp } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import * as vite from "vite";
import webpack from "webpack";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const esbuild = require("esbuild");

export async function buildWithVite(folder) {
  const problems = [];
  const logger = vite.createLogger("warn");
  for (const level of ["warn", "warnOnce", "error"]) logger[level] = (text) => problems.push(text);
  await vite.build({ root: folder, base: "./", configFile: false, logLevel: "warn", customLogger: logger });
  assert.deepEqual(problems, []);
  return join(folder, "dist");
}

/** The development server; resolves to its address and how to end it. */
export async function serveWithVite(folder) {
  const server = await vite.createServer({
    root: folder,
    configFile: false,
    logLevel: "warn",
    server: { port: 0, host: "localhost" },
  });
  await server.listen();
  return { address: `http://localhost:${server.httpServer.address().port}/`, end: () => server.close() };
}

export async function buildWithWebpack(folder) {
  const compiler = webpack({
    mode: "production",
    context: folder,
    entry: "./main.js",
    output: { path: join(folder, "dist"), filename: "main.js", module: true },
    experiments: { outputModule: true },
    performance: { hints: false },
  });
  const stats = await new Promise((resolve, reject) => {
    compiler.run((error, result) => (error ? reject(error) : resolve(result)));
  });
  await new Promise((resolve) => compiler.close(resolve));
  const { errors, warnings } = stats.toJson({ all: false, errors: true, warnings: true });
  assert.deepEqual([...errors, ...warnings].map(({ message }) => message), []);
  await cp(join(folder, "index.html"), join(folder, "dist/index.html"));
  return join(folder, "dist");
}

/** esbuild leaves `new URL(…, import.meta.url)` as it is: three files have to lie beside the bundle. */
export async function buildWithEsbuild(folder) {
  const { warnings } = await esbuild.build({
    absWorkingDir: folder,
    entryPoints: ["main.js"],
    outdir: "dist",
    bundle: true,
    splitting: true,
    format: "esm",
    minify: true,
    logLevel: "silent",
  });
  assert.deepEqual(warnings, []);
  for (const name of ["worker.js", "deltamem.js", "deltamem_bg.wasm"]) {
    await cp(join(folder, "node_modules/deltamem/dist", name), join(folder, "dist", name));
  }
  await cp(join(folder, "index.html"), join(folder, "dist/index.html"));
  return join(folder, "dist");
}
