/**
 * All files of a model, ready to be loaded: from this device if they are there, else from the network
 * and then kept. Owns which folders a model comes from, and the progress over all of them; what
 * happens to the files of one folder is model-collection.ts.
 */
import { DeltamemError } from "./errors.js";
import { FileHead, withHeads } from "./file-head.js";
import { net, readText } from "./http.js";
import { folderUrl, modelUrl } from "./model-address.js";
import { Collection } from "./model-collection.js";
import { type Wanted, discover, isGguf } from "./model-layout.js";
import { readAll } from "./opfs.js";
import type { ByteFile, ModelFile, WebSha256 } from "./wasm.js";
import { isDownloading } from "./weight-locks.js";
import { WeightStore } from "./weight-store.js";

export interface OpenModelOptions {
  modelUrl: string;
  /** Where the adapter is; null looks for one beside the model. */
  adapterUrl: string | null;
  store: "opfs" | "none";
  /** Expected hashes by file name, 64 hex digits. */
  sha256: Record<string, string>;
  signal: AbortSignal;
  /** In bytes; called at the beginning and the end. */
  onProgress(done: number, total: number): void;
  hash: () => WebSha256;
  /** The first pause before a retry. */
  backoffMs?: number;
}

export interface OpenedModel {
  /** Small files as bytes, weights as files to read from. */
  files: Map<string, ModelFile>;
  /** Why the weights are not kept; null if they are, or were not to be. */
  notice: string | null;
  /** Lets go of the files; `files` cannot be read afterwards. */
  close(): void;
}

/** Everything that a model needs. Rejects with `network`, `integrity` or `quota`. */
export async function openModelFiles(options: OpenModelOptions): Promise<OpenedModel> {
  const wantsStore = options.store === "opfs";
  const { store, reason } = wantsStore
    ? await WeightStore.openOrReason(options.hash)
    : { store: null, reason: null };
  const sum = new Sum(options.onProgress);
  const siblings = new AbortController();
  const signal = AbortSignal.any([options.signal, siblings.signal]);
  const collections = sources(options).map(
    ({ url, wanted }) => new Collection(url, wanted, store, { ...options, signal }, sum),
  );
  const close = () => collections.forEach((collection) => collection.close());
  try {
    await together(
      collections.map((collection) => collection.prepare()),
      siblings,
    );
    sum.begin();
    await together(
      collections.map((collection) => collection.open()),
      siblings,
    );
  } catch (error) {
    close();
    options.signal.throwIfAborted();
    if (!(error instanceof DOMException)) throw error;
    throw new DeltamemError("storage", `The stored model cannot be used: ${error.message}`, {
      cause: error,
    });
  }
  sum.end();
  const refusals = [reason, ...collections.map((collection) => collection.refusal)];
  const refusal = refusals.find((text) => text !== null) ?? null;
  return {
    files: new Map(collections.flatMap((collection) => [...collection.files])),
    notice: refusal && `The model is not kept on this device and comes anew next time: ${refusal}`,
    close,
  };
}

/** What tells a model's size: the configurations, or what stands in front of a GGUF file's tensors. */
export interface Description {
  /** The text of `config.json`; null for a GGUF file. */
  config: string | null;
  /** The GGUF file, or its shards, by name; null for a folder. */
  gguf: Map<string, ByteFile> | null;
  /** The text of `delta_mem_config.json`; null without an adapter. */
  adapterConfig: string | null;
}

export interface Probe {
  /** What is still to come; files whose size the server does not say are not in it. */
  downloadBytes: number;
  storedBytes: number;
  state: "absent" | "downloading" | "partial" | "complete";
}

const CONFIGS = ["config.json", "delta_mem_config.json"];

/**
 * What is known of a model without downloading it, from this device if it is there. `reckon` makes of its
 * description what the caller wants to know; the beginning of a GGUF file that lies on a server may turn
 * out too short for it, and then it is called again with more.
 */
export async function probeModel<T>(
  options: { modelUrl: string; adapterUrl: string | null; signal?: AbortSignal },
  reckon: (description: Description) => Promise<T>,
): Promise<Probe & { reckoned: T }> {
  const connection = net(options.signal ?? new AbortController().signal);
  const store = await WeightStore.open(() => {
    throw new DeltamemError("storage", "nothing is hashed while looking");
  });
  const texts = new Map<string, string>();
  const gguf = new Map<string, ByteFile>();
  const heads: FileHead[] = [];
  const closers: (() => void)[] = [];
  let [downloadBytes, storedBytes] = [0, 0];
  const states: Probe["state"][] = [];
  try {
    for (const { url, wanted } of sources(options)) {
      const entry = await store?.usable(url);
      if (store && entry) {
        states.push("complete");
        for (const { name, sha256, bytes } of entry.files) {
          storedBytes += bytes ?? 0;
          if (!sha256 || !(isGguf(name) || CONFIGS.includes(name))) continue;
          const file = await store.openBlob(sha256);
          closers.push(() => file.close());
          if (isGguf(name)) gguf.set(name, file);
          else texts.set(name, new TextDecoder().decode(readAll(file)));
        }
        continue;
      }
      const pending = await store?.entry(url, false);
      for (const remote of await discover(url, wanted, connection)) {
        const stored = pending?.files.find((file) => file.url === remote.url);
        const isStored = stored?.sha256 && (await store?.hasBlob(stored.sha256, stored.bytes));
        const part = (await store?.partBytes(remote.url))?.finished ?? 0;
        const here = isStored ? (stored.bytes ?? 0) : part;
        storedBytes += here;
        if (!isStored) downloadBytes += Math.max(0, (remote.size ?? 0) - here);
        if (CONFIGS.includes(remote.name)) {
          texts.set(remote.name, await readText(remote, connection));
        } else if (isGguf(remote.name)) {
          const head = new FileHead(remote, connection);
          heads.push(head);
          gguf.set(remote.name, head);
        }
      }
      const isElsewhere = store !== null && (await isDownloading(url));
      states.push(isElsewhere ? "downloading" : pending ? "partial" : "absent");
    }
    const description = {
      config: gguf.size > 0 ? null : (texts.get("config.json") ?? ""),
      gguf: gguf.size > 0 ? gguf : null,
      adapterConfig: texts.get("delta_mem_config.json") ?? null,
    };
    const reckoned = await withHeads(heads, () => reckon(description));
    const [model = "absent", adapter = model] = states;
    // the adapter is small: what is told is the model's state, unless only the adapter is missing
    const state = model === "complete" ? adapter : model;
    return { reckoned, downloadBytes, storedBytes, state };
  } finally {
    for (const close of closers) close();
  }
}

/** The folders, or the GGUF file and a folder, that files come from. */
function sources(options: { modelUrl: string; adapterUrl: string | null }): {
  url: string;
  wanted: Wanted;
}[] {
  const url = modelUrl(options.modelUrl);
  const adapterUrl = options.adapterUrl === null ? null : folderUrl(options.adapterUrl);
  if (adapterUrl === null || adapterUrl === url) {
    const adapter = adapterUrl === null ? "optional" : "required";
    return [{ url, wanted: { model: true, adapter } }];
  }
  return [
    { url, wanted: { model: true, adapter: "none" } },
    { url: adapterUrl, wanted: { model: false, adapter: "required" } },
  ];
}

/** Adds up the progress of all folders. */
class Sum {
  readonly #onProgress: (done: number, total: number) => void;
  readonly #parts = new Map<object, { done: number; total: number }>();
  #isRunning = false;

  constructor(onProgress: (done: number, total: number) => void) {
    this.#onProgress = onProgress;
  }

  set(part: object, done: number, total: number): void {
    this.#parts.set(part, { done, total });
    if (!this.#isRunning) return;
    const all = this.#all();
    this.#onProgress(Math.min(all.done, all.total), all.total);
  }

  begin(): void {
    this.#isRunning = true;
    this.#onProgress(0, this.#all().total);
  }

  /** The end is told even where no length was. */
  end(): void {
    this.#isRunning = false;
    const total = Math.max(1, this.#all().total);
    this.#onProgress(total, total);
  }

  #all(): { done: number; total: number } {
    let [done, total] = [0, 0];
    for (const part of this.#parts.values()) {
      done += part.done;
      total += part.total;
    }
    return { done, total };
  }
}

/** All results. The first failure ends the others, and is thrown when nothing works on behind it. */
async function together(jobs: Promise<void>[], others: AbortController): Promise<void> {
  let failure: { error: unknown } | null = null;
  const fail = (error: unknown) => {
    failure ??= { error };
    others.abort();
  };
  await Promise.all(jobs.map((job) => job.catch(fail)));
  if (failure) throw (failure as { error: unknown }).error;
}
