/**
 * How Vite builds the demo page (web/demo) into web/demo/dist: static files that work below any path.
 * Owns where the page's wasm module comes from, the built-in model's place, and the list of files that
 * the service worker keeps. The mode `fake` takes the tests' stand-in for the wasm module.
 */
import { createHash } from "node:crypto";
import { cp, readdir, readFile, writeFile } from "node:fs/promises";
import { join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { NANO_FILES } from "./nano-files.mjs";

const path = (relativePath) => fileURLToPath(new URL(relativePath, import.meta.url));

export default defineConfig(({ mode }) => ({
  root: path("demo"),
  base: "./",
  logLevel: "warn",
  plugins: [wasmModule(mode), siteFiles()],
  worker: { format: "es", plugins: () => [wasmModule(mode)] },
  build: {
    outDir: path("demo/dist"),
    emptyOutDir: true,
    target: "es2022",
    sourcemap: true,
    // The content security policy allows no `data:` addresses.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
}));

/** `./deltamem.js` of the library: what wasm-bindgen made, or the tests' stand-in. */
function wasmModule(mode) {
  const file = path(mode === "fake" ? "test/fake-model.mjs" : "../pkg/dist/deltamem.js");
  return {
    name: "deltamem-wasm-module",
    enforce: "pre",
    resolveId: (source) => (source.endsWith("/deltamem.js") ? file : null),
  };
}

/** Puts the built-in model beside the page, then writes the list of all files into the service worker. */
function siteFiles() {
  return {
    name: "deltamem-site-files",
    apply: "build",
    async writeBundle({ dir }) {
      for (const name of NANO_FILES) {
        await cp(path(`../models/nano/${name}`), join(dir, "models/nano", name));
      }
      const files = {};
      for (const entry of await readdir(dir, { recursive: true, withFileTypes: true })) {
        const file = join(entry.parentPath, entry.name);
        const name = relative(dir, file).split(sep).join("/");
        // Source maps are for whoever looks at the code, and a service worker does not keep itself.
        if (!entry.isFile() || name.endsWith(".map") || name === "sw.js") continue;
        files[name] = createHash("sha256").update(await readFile(file)).digest("hex").slice(0, 16);
      }
      const sorted = Object.fromEntries(Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)));
      const source = await readFile(path("demo/sw.js"), "utf8");
      const list = `const FILES = ${JSON.stringify(sorted, null, 1)};`;
      const filled = source.replace(/^const FILES = .*$/m, () => list);
      if (filled === source) throw new Error("demo/sw.js has no line for the list of files");
      await writeFile(join(dir, "sw.js"), filled);
    },
  };
}
