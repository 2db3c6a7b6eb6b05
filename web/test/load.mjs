/**
 * Bundles TypeScript modules of the library and imports them, so that tests need no build. The fake
 * model takes the place of the wasm module.
 */
import { build } from "esbuild";
import { fileURLToPath } from "node:url";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

const fakeModule = {
  name: "fake-model",
  setup({ onResolve }) {
    onResolve({ filter: /^\.\/deltamem\.js$/ }, () => ({ path: path("fake-model.mjs") }));
  },
};

/** All that the named modules export; what they share is there once. */
export async function load(...names) {
  const { outputFiles } = await build({
    stdin: {
      contents: names.map((name) => `export * from "./${name}.js";`).join("\n"),
      resolveDir: path("../lib"),
    },
    bundle: true,
    format: "esm",
    target: "node20",
    plugins: [fakeModule],
    write: false,
    sourcemap: "inline",
    logLevel: "error",
  });
  const code = Buffer.from(outputFiles[0].contents).toString("base64");
  return import(`data:text/javascript;base64,${code}`);
}
