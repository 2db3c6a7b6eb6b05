/** The models that the page offers, out of the registry that the native program reads too. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { load } from "./load.mjs";

const { LISTED } = await load("../demo/src/registry");
const text = await readFile(new URL("../../models/registry.json", import.meta.url), "utf8");
const registry = JSON.parse(text);

test("every model of the registry that a page can load is offered, at its revision", () => {
  assert.deepEqual(LISTED.map(({ id }) => id), ["nano", "qwen3-4b", "smollm3-3b"]);
  assert.deepEqual(LISTED.filter(({ isBuiltIn }) => isBuiltIn).map(({ url }) => url), ["./models/nano/"]);
  for (const entry of LISTED.filter(({ isBuiltIn }) => !isBuiltIn)) {
    const known = registry.models.find(({ id }) => id === entry.id);
    const [source] = known.sources;
    const { pathname, hostname } = new URL(entry.url);
    assert.equal(hostname, "huggingface.co");
    const [file] = source.files;
    const name = source.format === "gguf" ? file.name : "";
    assert.equal(pathname, `/${source.repo}/resolve/${source.revision ?? "main"}/${name}`);
    assert.deepEqual(entry.sha256, file ? { [file.name]: file.sha256 } : {});
    if (source.format === "gguf") assert.equal(entry.weights, null);
    else assert.ok(["q4", "q8", "f16", "f32"].includes(entry.weights), entry.weights);
    assert.ok(entry.downloadBytes > 1e9);
    assert.equal(entry.adapter !== null, known.adapter !== null);
    if (entry.adapter) assert.ok(new URL(entry.adapter).pathname.startsWith(`/${known.adapter.repo}/resolve/`));
  }
});
