/**
 * All files of a model, ready to be loaded: from this device if they are there, else from the network
 * and then kept. Owns the decisions – what may be used without asking, who of several tabs downloads,
 * and what happens where nothing can be stored. The store is weight-store.ts, the transfer download.ts.
 */
import { type Place, MemoryPlace, download } from "./download.js";
import { DeltamemError } from "./errors.js";
import { type Net, type Remote, ChangedError, look, net, probe, readText } from "./http.js";
import { type NamedRemote, type Wanted, discover, isWeights } from "./model-layout.js";
import { canWriteInPlace, isQuota, readAll } from "./opfs.js";
import type { ByteFile, ModelFile, WebSha256 } from "./wasm.js";
import {
  ProgressTeller,
  downloadLock,
  hearProgress,
  hold,
  isDownloading,
  useLock,
} from "./weight-locks.js";
import { type Entry, type EntryFile, QuotaError, WeightStore, isPinned } from "./weight-store.js";

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

/** How long a stored copy waits for the server to say that it is still the newest. */
const REVALIDATION_MS = 3000;
/** Small files on their way at the same time. */
const PARALLEL_FILES = 4;
const SMALL_BYTES = 8 << 20;
/** How often a file may change while it is downloaded. */
const CHANGES = 3;
/** More than this is not put into a page's memory for want of storage. */
const MOST_IN_MEMORY_BYTES = 2 ** 31;

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

/** The files of one folder on their way to the caller. */
class Collection {
  readonly files = new Map<string, ModelFile>();
  /** Why nothing is kept although it should be. */
  refusal: string | null = null;
  readonly #url: string;
  readonly #wanted: Wanted;
  readonly #options: OpenModelOptions;
  readonly #net: Net;
  readonly #sum: Sum;
  #store: WeightStore | null;
  /** A complete copy that may be used; else what is to be downloaded is in `#remotes`. */
  #stored: Entry | null = null;
  #remotes: NamedRemote[] = [];
  readonly #closers: (() => void)[] = [];

  constructor(
    url: string,
    wanted: Wanted,
    store: WeightStore | null,
    options: OpenModelOptions,
    sum: Sum,
  ) {
    this.#url = url;
    this.#wanted = wanted;
    this.#store = store;
    this.#options = options;
    this.#net = net(options.signal, options.backoffMs);
    this.#sum = sum;
  }

  close(): void {
    for (const closer of this.#closers.splice(0)) closer();
  }

  /** Finds out what there is and how much is to come. */
  async prepare(): Promise<void> {
    const store = this.#store;
    if (store) {
      this.#closers.push(await hold(useLock(this.#url), "shared", this.#net.signal));
      const entry = await this.#usable(store);
      if (entry && (await this.#isCurrent(entry))) this.#stored = entry;
    }
    if (!this.#stored) this.#remotes = await discover(this.#url, this.#wanted, this.#net);
    this.#report(0);
  }

  /** Gets everything and fills `files`. */
  async open(): Promise<void> {
    const store = this.#store;
    if (!store) return this.#downloadToMemory();
    if (!this.#stored) {
      try {
        if (!canWriteInPlace()) throw new DOMException("only a worker can", "NotAllowedError");
        this.#stored = await this.#shareDownload(store);
      } catch (error) {
        if (!(error instanceof QuotaError) && !isRefusal(error)) throw error;
        if (this.#total() > MOST_IN_MEMORY_BYTES) throw error;
        this.refusal = error.message;
        this.close();
        this.#store = null;
        return this.#downloadToMemory();
      }
    }
    for (const { name, sha256, bytes } of this.#stored.files) {
      const file = await store.openBlob(sha256 ?? "");
      this.#closers.push(() => file.close());
      if (file.size !== bytes) throw damaged(name, "has another size than it was stored with");
      this.#deliver(name, file);
    }
  }

  #deliver(name: string, file: ByteFile): void {
    this.files.set(name, isWeights(name) ? file : readAll(file));
  }

  // ---- what is stored -----------------------------------------------------------------------------

  /** A complete copy with all files that are wanted and the hashes that the caller expects. */
  async #usable(store: WeightStore): Promise<Entry | null> {
    const entry = await store.usable(this.#url);
    if (!entry) return null;
    const has = (name: string) => entry.files.some((file) => file.name === name);
    const isEnough =
      (!this.#wanted.model || has("config.json")) &&
      (this.#wanted.adapter !== "required" || has("delta_mem_config.json"));
    const isExpected = entry.files.every(({ name, sha256 }) => {
      const expected = this.#expected(name);
      return expected === null || expected === sha256;
    });
    return isEnough && isExpected ? entry : null;
  }

  /** False only if the server is there and says that it has something else. */
  async #isCurrent(entry: Entry): Promise<boolean> {
    if (isPinned(this.#url)) return true;
    if (globalThis.navigator.onLine === false) return true;
    const answers = await Promise.all(
      entry.files.map(async (file) => {
        const now = await look(file.url, REVALIDATION_MS, this.#net.signal);
        return now === null || isSameFile(file, now);
      }),
    );
    return answers.every((isSame) => isSame);
  }

  // ---- downloading --------------------------------------------------------------------------------

  /** Downloads, or waits for the tab that does and takes what it stored. */
  async #shareDownload(store: WeightStore): Promise<Entry> {
    const stopHearing = hearProgress(this.#url, (done, total) => this.#sum.set(this, done, total));
    const release = await hold(downloadLock(this.#url), "exclusive", this.#net.signal).finally(
      stopHearing,
    );
    try {
      const entry = await this.#usable(store);
      const isNew = entry?.files.every((file) => {
        const remote = this.#remotes.find(({ url }) => url === file.url);
        return remote !== undefined && isSameFile(file, remote);
      });
      return entry && isNew ? entry : await this.#downloadToStore(store);
    } finally {
      release();
    }
  }

  async #downloadToStore(store: WeightStore): Promise<Entry> {
    const known = [await store.entry(this.#url, false), await store.entry(this.#url, true)];
    const entry: Entry = { format: 1, url: this.#url, savedMs: Date.now(), files: [] };
    entry.files = this.#remotes.map((remote) => pendingFile(remote, known));
    await this.#requireRoom(store, entry);
    await store.putPending(entry);
    const teller = new ProgressTeller(this.#url);
    try {
      await this.#each(async (remote, report) => {
        const file = entry.files.find(({ url }) => url === remote.url);
        if (file) await this.#storeFile(store, entry, file, remote, report);
      }, teller);
    } catch (error) {
      if (isQuota(error)) {
        // what was stored would take the room that conversations need
        await store.dropPending(this.#url);
        const { requested, room } = await this.#room(store, entry);
        throw new QuotaError(requested, room);
      }
      throw error;
    } finally {
      teller.close();
    }
    entry.savedMs = Date.now();
    await store.putComplete(entry);
    return entry;
  }

  async #storeFile(
    store: WeightStore,
    entry: Entry,
    file: EntryFile,
    first: NamedRemote,
    report: (n: number) => void,
  ): Promise<void> {
    const expected = this.#expected(file.name) ?? first.digest;
    const content = expected ?? file.sha256;
    if (content && (await store.hasBlob(content, first.size))) {
      const blob = await store.openBlob(content);
      file.bytes = blob.size;
      file.sha256 = content;
      blob.close();
      report(file.bytes);
      await store.putPending(entry);
      return;
    }
    await this.#unlessChanged(first, async (remote) => {
      file.sha256 = null;
      const part = await store.openPart(remote);
      const result = await this.#download(remote, part, report)
        .then((result) => {
          part.flush();
          return result;
        })
        .finally(() => part.close())
        .catch(async (error: unknown) => {
          const isWrong = error instanceof DeltamemError && error.code === "integrity";
          // of no use to anybody: the next attempt begins anew
          if (isWrong) await store.dropPart(remote.url);
          throw error;
        });
      Object.assign(file, { etag: remote.etag, lastModified: remote.lastModified }, result);
      await store.adoptPart(remote.url, result.sha256, entry);
    });
  }

  async #downloadToMemory(): Promise<void> {
    if (this.#remotes.length === 0) {
      this.#remotes = await discover(this.#url, this.#wanted, this.#net);
    }
    await this.#each((first, report) =>
      this.#unlessChanged(first, async (remote) => {
        const place = new MemoryPlace(remote.hasRanges ? remote.size : null);
        await this.#download(remote, place, report);
        this.#deliver(remote.name, place);
      }),
    );
  }

  async #download(remote: NamedRemote, place: Place, report: (n: number) => void) {
    const result = await download(remote, place, this.#net, this.#options.hash, report);
    const expected = this.#expected(remote.name) ?? remote.digest;
    if (expected !== null && expected !== result.sha256) {
      throw damaged(remote.url, `has SHA-256 ${result.sha256}, expected ${expected}`);
    }
    return result;
  }

  /** A file that the server replaced meanwhile begins again, a few times. */
  async #unlessChanged(
    first: NamedRemote,
    job: (remote: NamedRemote) => Promise<void>,
  ): Promise<void> {
    let remote = first;
    for (let changes = 0; ; changes += 1) {
      try {
        return await job(remote);
      } catch (error) {
        if (!(error instanceof ChangedError) || changes === CHANGES) throw error;
        const now = await probe(remote.url, this.#net);
        if (!now) throw error;
        remote = { ...now, name: first.name };
      }
    }
  }

  /** Small files together, then one large file after the other, which comes in parallel pieces. */
  async #each(
    job: (remote: NamedRemote, report: (n: number) => void) => Promise<void>,
    teller?: ProgressTeller,
  ): Promise<void> {
    let done = 0;
    const run = async (remote: NamedRemote) => {
      // Each file counts from its own start, so that one that begins again is not counted twice.
      let own = 0;
      const limit = remote.size ?? Infinity;
      await job(remote, (n) => {
        const before = Math.min(own, limit);
        own += n;
        done += Math.min(own, limit) - before;
        this.#report(done);
        teller?.tell(done, this.#total());
      });
    };
    const isSmall = ({ size }: Remote) => size !== null && size <= SMALL_BYTES;
    const small = this.#remotes.filter(isSmall);
    const lanes = Array.from({ length: Math.min(PARALLEL_FILES, small.length) }, async () => {
      for (let next = small.shift(); next; next = small.shift()) await run(next);
    });
    // those on their way may end even if one fails; a file that is left open could not be retried
    const failed = (error: unknown) => ({ error: small.splice(0) && error });
    const results = await Promise.all(lanes.map((lane) => lane.then(() => null, failed)));
    const failure = results.find((result) => result !== null);
    if (failure) throw failure.error;
    for (const remote of this.#remotes.filter((remote) => !isSmall(remote))) await run(remote);
  }

  /** Throws `QuotaError` if the browser says beforehand that there is too little room. */
  async #requireRoom(store: WeightStore, entry: Entry): Promise<void> {
    const { requested, room } = await this.#room(store, entry);
    if (requested > room) throw new QuotaError(requested, room);
  }

  /** Bytes that are still to be stored, and that can be. */
  async #room(store: WeightStore, entry: Entry): Promise<{ requested: number; room: number }> {
    let requested = 0;
    for (const { url, sha256, bytes } of entry.files) {
      if (sha256 && (await store.hasBlob(sha256, bytes))) continue;
      const size = this.#remotes.find((remote) => remote.url === url)?.size ?? 0;
      requested += Math.max(0, size - (await store.partBytes(url)).occupied);
    }
    const { quota = Infinity, usage = 0 } = await globalThis.navigator.storage.estimate();
    return { requested, room: Math.max(0, quota - usage) };
  }

  #expected(name: string): string | null {
    return this.#options.sha256[name]?.toLowerCase() ?? null;
  }

  #total(): number {
    if (this.#stored) return this.#stored.files.reduce((sum, { bytes }) => sum + (bytes ?? 0), 0);
    return this.#remotes.reduce((sum, { size }) => sum + (size ?? 0), 0);
  }

  #report(done: number): void {
    this.#sum.set(this, done, this.#total());
  }
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

/** A file to come; what earlier visits finished of the same version stays finished. */
function pendingFile(remote: NamedRemote, known: (Entry | null)[]): EntryFile {
  const { name, url, etag, lastModified, size } = remote;
  const files = known.flatMap((entry) => entry?.files ?? []);
  const same = files.find(
    (file) => file.url === url && file.sha256 !== null && isSameVersion(file, remote),
  );
  return { name, url, etag, lastModified, bytes: size, sha256: same?.sha256 ?? null };
}

type Version = Pick<EntryFile, "url" | "etag" | "lastModified" | "bytes">;

/** True unless the server says that the file is another one. */
function isSameFile(stored: Version, now: Remote): boolean {
  if (stored.etag !== null && now.etag !== null) return stored.etag === now.etag;
  if (now.size !== null && now.size !== stored.bytes) return false;
  if (stored.lastModified === null || now.lastModified === null) return true;
  return stored.lastModified === now.lastModified;
}

/** True only if it is certain. */
function isSameVersion(stored: Version, now: Remote): boolean {
  const isMarked = stored.etag !== null || stored.lastModified !== null || isPinned(stored.url);
  return isMarked && isSameFile(stored, now);
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

function damaged(what: string, reason: string): DeltamemError {
  return new DeltamemError("integrity", `${what} ${reason}; it is not used. Try again.`);
}

/** Errors of a file system that does not play along, as opposed to those of the network. */
function isRefusal(error: unknown): error is DOMException {
  const names = ["SecurityError", "NotAllowedError", "InvalidStateError", "UnknownError"];
  return error instanceof DOMException && [...names, "NoModificationAllowedError"].includes(error.name);
}
