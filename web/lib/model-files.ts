/**
 * All files of a model, ready to be loaded: from this device if they are there, else from the network
 * and then kept. Owns which folders a model comes from, and the progress over all of them; what
 * happens to the files of one folder is model-collection.ts.
 */
import { DeltamemError } from "./errors.js";
import { net, readText } from "./http.js";
import { Collection } from "./model-collection.js";
import { type Wanted, discover } from "./model-layout.js";
import { readAll } from "./opfs.js";
import type { ModelFile, WebSha256 } from "./wasm.js";
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

/**
 * What is known of a model without downloading it. `config` and `adapterConfig` are the texts of its
 * configurations, from this device if they are there.
 */
export async function probeModel(options: {
  modelUrl: string;
  adapterUrl: string | null;
  signal?: AbortSignal;
}): Promise<{
  config: string;
  /** Null without an adapter. */
  adapterConfig: string | null;
  /** What is still to come; files whose size the server does not say are not in it. */
  downloadBytes: number;
  storedBytes: number;
  state: "absent" | "downloading" | "partial" | "complete";
}> {
  const signal = options.signal ?? new AbortController().signal;
  const store = await WeightStore.open(() => {
    throw new DeltamemError("storage", "nothing is hashed while looking");
  });
  const texts = { "config.json": "", "delta_mem_config.json": null as string | null };
  let [downloadBytes, storedBytes] = [0, 0];
  const states: ("absent" | "downloading" | "partial" | "complete")[] = [];
  for (const { url, wanted } of sources(options)) {
    const entry = await store?.usable(url);
    if (store && entry) {
      states.push("complete");
      for (const { name, sha256, bytes } of entry.files) {
        storedBytes += bytes ?? 0;
        if (name in texts && sha256) {
          const file = await store.openBlob(sha256);
          texts[name as "config.json"] = new TextDecoder().decode(readAll(file));
          file.close();
        }
      }
      continue;
    }
    const connection = net(signal);
    const pending = await store?.entry(url, false);
    const remotes = await discover(url, wanted, connection);
    for (const remote of remotes) {
      const stored = pending?.files.find((file) => file.url === remote.url);
      const isStored = stored?.sha256 && (await store?.hasBlob(stored.sha256, stored.bytes));
      const part = (await store?.partBytes(remote.url))?.finished ?? 0;
      const here = isStored ? (stored.bytes ?? 0) : part;
      storedBytes += here;
      if (!isStored) downloadBytes += Math.max(0, (remote.size ?? 0) - here);
      if (remote.name in texts) {
        texts[remote.name as "config.json"] = await readText(remote, connection);
      }
    }
    const isElsewhere = store !== null && (await isDownloading(url));
    states.push(isElsewhere ? "downloading" : pending ? "partial" : "absent");
  }
  const [model = "absent", adapter = model] = states;
  return {
    config: texts["config.json"],
    adapterConfig: texts["delta_mem_config.json"],
    downloadBytes,
    storedBytes,
    // the adapter is small: what is told is the model's state, unless only the adapter is missing
    state: model === "complete" ? adapter : model,
  };
}

/** The folders that files come from. */
function sources(options: { modelUrl: string; adapterUrl: string | null }): {
  url: string;
  wanted: Wanted;
}[] {
  const modelUrl = folderUrl(options.modelUrl);
  const adapterUrl = options.adapterUrl === null ? null : folderUrl(options.adapterUrl);
  if (adapterUrl === null || adapterUrl === modelUrl) {
    const adapter = adapterUrl === null ? "optional" : "required";
    return [{ url: modelUrl, wanted: { model: true, adapter } }];
  }
  return [
    { url: modelUrl, wanted: { model: true, adapter: "none" } },
    { url: adapterUrl, wanted: { model: false, adapter: "required" } },
  ];
}

function folderUrl(url: string): string {
  return url.endsWith("/") ? url : `${url}/`;
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
