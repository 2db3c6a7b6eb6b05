/**
 * The files of one folder, or of a GGUF file, from this device or from the network. Owns the decisions: what may be used
 * without asking, who of several tabs downloads, and what happens where nothing can be stored. The
 * store is weight-store.ts, the transfer download.ts.
 */
import { type Place, MemoryPlace, download } from "./download.js";
import { DeltamemError } from "./errors.js";
import { type Net, type Remote, ChangedError, look, net, probe } from "./http.js";
import { type NamedRemote, type Wanted, discover, isGguf, isWeights } from "./model-layout.js";
import { canWriteInPlace, isQuota, readAll } from "./opfs.js";
import type { ByteFile, ModelFile, WebSha256 } from "./wasm.js";
import { ProgressTeller, downloadLock, hearProgress, hold, useLock } from "./weight-locks.js";
import { type Entry, type EntryFile, QuotaError, WeightStore, isPinned } from "./weight-store.js";

export interface CollectionOptions {
  /** Expected hashes by file name, 64 hex digits. */
  sha256: Record<string, string>;
  signal: AbortSignal;
  hash: () => WebSha256;
  /** The first pause before a retry. */
  backoffMs?: number;
}

/** Takes the progress of every part, in bytes. */
export interface ProgressSum {
  set(part: object, done: number, total: number): void;
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

/** The files of one folder on their way to the caller. */
export class Collection {
  readonly files = new Map<string, ModelFile>();
  /** Why nothing is kept although it should be. */
  refusal: string | null = null;
  readonly #url: string;
  readonly #wanted: Wanted;
  readonly #options: CollectionOptions;
  readonly #net: Net;
  readonly #sum: ProgressSum;
  #store: WeightStore | null;
  /** A complete copy that may be used; else what is to be downloaded is in `#remotes`. */
  #stored: Entry | null = null;
  #remotes: NamedRemote[] = [];
  readonly #closers: (() => void)[] = [];

  constructor(
    url: string,
    wanted: Wanted,
    store: WeightStore | null,
    options: CollectionOptions,
    sum: ProgressSum,
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
    const hasModel = has("config.json") || entry.files.some(({ name }) => isGguf(name));
    const isEnough =
      (!this.#wanted.model || hasModel) &&
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

function damaged(what: string, reason: string): DeltamemError {
  return new DeltamemError("integrity", `${what} ${reason}; it is not used. Try again.`);
}

/** Errors of a file system that does not play along, as opposed to those of the network. */
function isRefusal(error: unknown): error is DOMException {
  const names = ["SecurityError", "NotAllowedError", "InvalidStateError", "UnknownError"];
  return error instanceof DOMException && [...names, "NoModificationAllowedError"].includes(error.name);
}
