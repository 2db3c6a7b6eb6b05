/**
 * The worker of weights.test.mjs: the weight store and the wasm module without a session around them.
 * Every call is a function below; files that a call opens stay open until `close`.
 */
import { openModelFiles, probeModel } from "../../web/lib/model-files.ts";
import { WeightStore } from "../../web/lib/weight-store.ts";

const ready = (async () => {
  const module = await import(new URL("/site/deltamem.js", location.href).href);
  const exports = await module.default();
  return { ...module, memory: exports.memory };
})();

let opened = null;
let model = null;
let device = null;
const lost = [];
const progress = [];
const requestDevice = globalThis.GPUAdapter?.prototype.requestDevice;
if (requestDevice) {
  GPUAdapter.prototype.requestDevice = async function (...args) {
    return (device = await requestDevice.apply(this, args));
  };
}

async function hashOf(file) {
  const { WebSha256 } = await ready;
  const hash = new WebSha256();
  if (file instanceof Uint8Array) {
    hash.update(file);
  } else {
    const buffer = new Uint8Array(1_000_003);
    for (let at = 0, n; at < file.size; at += n) {
      n = file.read(buffer, at);
      if (n === 0) throw new Error("the file ends early");
      hash.update(buffer.subarray(0, n));
    }
  }
  return hash.digest();
}

const store = async () => {
  const { WebSha256 } = await ready;
  return WeightStore.open(() => new WebSha256());
};

const calls = {
  /** Opens a model's files. */
  async open(modelUrl, options = {}) {
    const { WebSha256 } = await ready;
    calls.close();
    progress.length = 0;
    opened = await openModelFiles({
      modelUrl,
      adapterUrl: null,
      store: "opfs",
      sha256: {},
      signal: new AbortController().signal,
      onProgress: (done, total) => progress.push([done, total]),
      hash: () => new WebSha256(),
      backoffMs: 10,
      ...options,
    });
    return { notice: opened.notice, names: [...opened.files.keys()], progress };
  },
  async hashes() {
    const entries = [...opened.files].map(async ([name, file]) => [name, await hashOf(file)]);
    return Object.fromEntries(await Promise.all(entries));
  },
  close() {
    opened?.close();
    opened = null;
  },
  progress: () => progress,
  /** As browsers that know one kind of access only, for one reader at a time. */
  knowOneMode() {
    const create = FileSystemFileHandle.prototype.createSyncAccessHandle;
    FileSystemFileHandle.prototype.createSyncAccessHandle = function () {
      return create.call(this);
    };
  },
  refuseStorage() {
    StorageManager.prototype.getDirectory = async () => {
      throw new DOMException("storage is refused here", "SecurityError");
    };
  },
  list: async () => (await store()).list(),
  remove: async (url) => (await store()).remove(url),
  verify: async (url) => (await store()).verify(url),
  /** With the footprint, if the model is one whose header can be read. */
  async probe(modelUrl, reckonsFootprint = false) {
    const { inspect, inspect_gguf } = await ready;
    return probeModel({ modelUrl, adapterUrl: null }, async ({ config, gguf, adapterConfig }) => {
      if (!reckonsFootprint) return null;
      const options = JSON.stringify({ deltaConfig: adapterConfig ?? undefined });
      return JSON.parse(await (gguf ? inspect_gguf(gguf, options) : inspect(config, options)));
    });
  },
  /** Loads what is open; says by how much the wasm memory is larger than before. */
  async load(options) {
    const { WebModel, memory } = await ready;
    const before = memory.buffer.byteLength;
    model?.free();
    const onLost = (reason) => lost.push(reason);
    model = await WebModel.load(opened.files, JSON.stringify(options), () => {}, onLost);
    return { info: JSON.parse(model.info()), grownBytes: memory.buffer.byteLength - before };
  },
  /** Reads a file of what is open with reads that fail in some way. */
  async loadBroken(read) {
    const { WebModel } = await ready;
    const files = new Map(opened.files);
    const whole = files.get("model.safetensors");
    const reads = {
      throws: () => {
        throw new TypeError("the disk is gone");
      },
      nothing: () => 0,
      nonsense: () => "many",
      tooMany: (into) => into.length + 1,
    };
    files.set("model.safetensors", { size: whole.size, read: reads[read] });
    await WebModel.load(files, "{}", () => {}, () => {});
  },
  async readBack() {
    return JSON.parse(await model.memoryInfo(0)).norm;
  },
  /** Takes the device away while the model works. */
  async loseDevice() {
    const reading = model.memoryInfo(0).then(
      () => "read",
      (error) => error.code,
    );
    device.destroy();
    const first = await reading;
    const later = await model.memoryInfo(0).catch((error) => error.code);
    return { first, later, lost: [...lost] };
  },
  async free() {
    model.free();
    model = null;
    await device.lost; // freeing gives the GPU's memory back at once
    await new Promise((resolve) => setTimeout(resolve, 50));
    return [...lost];
  },
  async inspect(config, options) {
    const { inspect } = await ready;
    return JSON.parse(await inspect(config, JSON.stringify(options)));
  },
};

addEventListener("message", async ({ data: { id, name, args } }) => {
  try {
    postMessage({ id, value: await calls[name](...args) });
  } catch (error) {
    const { name, code = null, message, requested, quota } = error;
    postMessage({ id, error: { name, code, message, requested, quota } });
  }
});
