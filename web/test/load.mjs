/**
 * Bundles TypeScript modules of the library and imports them, so that tests need no build. The wasm
 * module in it is the fake one.
 */
import { build } from "esbuild";
import { fileURLToPath } from "node:url";

const fakeModel = {
  name: "fake-model",
  setup: (bundle) =>
    bundle.onResolve({ filter: /\/deltamem\.js$/ }, () => ({
      path: fileURLToPath(new URL("fake-model.mjs", import.meta.url)),
    })),
};

/** All that the named modules export; what they share is there once. */
export async function load(...names) {
  const { outputFiles } = await build({
    stdin: {
      contents: names.map((name) => `export * from "./${name}.js";`).join("\n"),
      resolveDir: fileURLToPath(new URL("../lib", import.meta.url)),
    },
    bundle: true,
    format: "esm",
    target: "node20",
    write: false,
    sourcemap: "inline",
    logLevel: "error",
    plugins: [fakeModel],
  });
  const code = Buffer.from(outputFiles[0].contents).toString("base64");
  return import(`data:text/javascript;base64,${code}`);
}
