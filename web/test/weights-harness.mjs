/** What the tests of weights share: a server, a disk, and models that are opened and compared. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, beforeEach } from "node:test";
import { FakeDisk } from "./fake-opfs.mjs";
import { load } from "./load.mjs";
import { ModelServer, noise } from "./model-server.mjs";

const files = await load("model-files");
export const { openModelFiles } = files;
/** What is known of a model; `reckon` is by default given what describes it and gives that back. */
export const probeModel = (options, reckon = async (description) => description) =>
  files.probeModel(options, reckon);
const { WeightStore } = await load("weight-store");

export const PIECE = 8 << 20;
/** Three pieces, the last one short and odd. */
export const WEIGHTS = noise(2 * PIECE + 12_345);

class Hash {
  #hash = createHash("sha256");
  update(bytes) {
    this.#hash.update(bytes);
  }
  digest() {
    return this.#hash.digest("hex");
  }
  free() {}
}

export let server;
export let disk;
before(async () => (server = await new ModelServer().listen()));
after(() => server.close());
beforeEach(() => {
  server.files.clear();
  server.etags.clear();
  Object.assign(server, { hasRanges: true, hasEtags: true, headers: {}, rule: () => false });
  server.forget();
  freshDisk();
});

/** Another browser, with nothing on its disk. */
export function freshDisk() {
  disk = new FakeDisk();
  disk.install();
}

/** Opens a model; `told` gets its progress. */
export function open(modelUrl, options = {}) {
  const { told = [], ...rest } = options;
  return openModelFiles({
    modelUrl,
    adapterUrl: null,
    store: "opfs",
    sha256: {},
    signal: new AbortController().signal,
    onProgress: (done, total) => told.push([done, total]),
    hash: () => new Hash(),
    backoffMs: 1,
    ...rest,
  });
}

export const store = () => WeightStore.open(() => new Hash());

export function bytesOf(file) {
  if (file instanceof Uint8Array) return Buffer.from(file);
  const bytes = Buffer.alloc(file.size);
  for (let at = 0; at < bytes.length; ) at += file.read(bytes.subarray(at, at + 100_000), at);
  return bytes;
}

/** Opens, compares every byte with the server's, and closes. */
export async function openAndCompare(modelUrl, options = {}) {
  const opened = await open(modelUrl, options);
  try {
    const folder = new URL(modelUrl).pathname.slice(1).replace(/[^/]*$/, "");
    for (const [name, file] of opened.files) {
      const expected = server.files.get(folder + name);
      assert.ok(bytesOf(file).equals(expected), `${name} is not as the server has it`);
    }
    return [...opened.files.keys()].sort();
  } finally {
    opened.close();
  }
}

export async function failure(promise) {
  return promise.then(
    () => assert.fail("it should have failed"),
    (error) => error,
  );
}

export async function until(condition) {
  for (let tries = 0; tries < 500; tries += 1) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail("it never came");
}

/** Of the one large file that is on its way. */
export const journal = () =>
  [...disk.folder("parts")]
    .filter(([name]) => name.endsWith("journal"))
    .map(([, file]) => file)
    .find(({ bytes }) => Buffer.from(bytes).includes("model.safetensors"));
export const finishedPieces = () => Buffer.from(journal()?.bytes ?? []).toString().split("\n").length - 2;
