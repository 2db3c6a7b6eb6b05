/**
 * Models' files in the origin private file system. Owns the layout and what may be used:
 *
 *   deltamem/blobs/SHA256            complete files, named by their content
 *   deltamem/parts/ID.{data,journal} files in the making (part.ts)
 *   deltamem/models/ID.json          which files make up a complete model
 *   deltamem/models/ID.new.json      the same for one that is on its way
 *
 * A blob gets its name only after its hash is known, and a model its entry after all its blobs: what
 * a crash leaves is a part to go on with, or a file that no entry names and that is deleted later.
 */
import { DeltamemError } from "./errors.js";
import type { Remote } from "./http.js";
import {
  type OpenFile,
  fileAt,
  move,
  names,
  openForReading,
  remove,
  textAt,
  writeText,
} from "./opfs.js";
import { Part, partBytes, partDataName, partIds, removePart } from "./part.js";
import type { WebSha256 } from "./wasm.js";
import { downloadLock, tryHold, useLock, withIndex } from "./weight-locks.js";

/** A model on this device. */
export interface StoredModel {
  /** The folder that it came from. */
  url: string;
  name: string;
  bytes: number;
  files: { name: string; bytes: number; sha256: string }[];
  /** False for a download that was interrupted or is on its way. */
  isComplete: boolean;
  /** Unix milliseconds, UTC. */
  savedMs: number;
}

/** One file of a model as the index has it. */
export interface EntryFile {
  name: string;
  url: string;
  /** Null until it is complete, if the server does not say. */
  bytes: number | null;
  etag: string | null;
  lastModified: string | null;
  /** Null until it is complete. */
  sha256: string | null;
}

/** A model as the index has it. */
export interface Entry {
  format: 1;
  url: string;
  savedMs: number;
  files: EntryFile[];
}

/** The browser gives less room than a model takes; some promise more than they give. */
export class QuotaError extends DeltamemError {
  constructor(requested: number, quota: number) {
    const mb = (bytes: number) => `${Math.ceil(bytes / 1e6)} MB`;
    const room =
      quota < requested
        ? `this browser has room for ${mb(quota)}`
        : "this browser's storage was full before that";
    super(
      "quota",
      `The model takes ${mb(requested)}, ${room}; free space on the disk or remove a stored model.`,
      { requested, quota },
    );
  }
}

const HASHED_AT_A_TIME = 1 << 20;

/** A revision that never changes: the URL has a full commit hash in its path. */
export function isPinned(url: string): boolean {
  return /\/[0-9a-f]{40}(\/|$)/i.test(new URL(url).pathname);
}

export class WeightStore {
  readonly #blobs: FileSystemDirectoryHandle;
  readonly #parts: FileSystemDirectoryHandle;
  readonly #models: FileSystemDirectoryHandle;
  readonly #hash: () => WebSha256;

  private constructor(
    folders: Record<"blobs" | "parts" | "models", FileSystemDirectoryHandle>,
    hash: () => WebSha256,
  ) {
    this.#blobs = folders.blobs;
    this.#parts = folders.parts;
    this.#models = folders.models;
    this.#hash = hash;
  }

  /** Null where the browser refuses, as some do in private windows. */
  static async open(hash: () => WebSha256): Promise<WeightStore | null> {
    const { store } = await WeightStore.openOrReason(hash);
    return store;
  }

  /** As `open`, with the reason of a refusal in a few words. */
  static async openOrReason(
    hash: () => WebSha256,
  ): Promise<{ store: WeightStore; reason: null } | { store: null; reason: string }> {
    const refused = (reason: string) => ({ store: null, reason });
    const { storage, locks } = globalThis.navigator ?? {};
    if (!storage?.getDirectory || !locks) return refused("this browser has no file system for pages");
    try {
      const root = await storage.getDirectory();
      const create = { create: true };
      const top = await root.getDirectoryHandle("deltamem", create);
      const folders = {
        blobs: await top.getDirectoryHandle("blobs", create),
        parts: await top.getDirectoryHandle("parts", create),
        models: await top.getDirectoryHandle("models", create),
      };
      return { store: new WeightStore(folders, hash), reason: null };
    } catch (error) {
      return refused(error instanceof Error ? error.message || error.name : String(error));
    }
  }

  // ---- for people ---------------------------------------------------------------------------------

  /** All models, complete or on their way, by URL. */
  async list(): Promise<StoredModel[]> {
    const urls = new Map<string, StoredModel>();
    for (const { entry, isComplete } of await this.#entries()) {
      if (!isComplete && urls.has(entry.url)) continue;
      urls.set(entry.url, await this.#describe(entry, isComplete));
    }
    return [...urls.values()].sort((a, b) => (a.url < b.url ? -1 : 1));
  }

  /**
   * Deletes a model and every file that no other model has. Does nothing if there is none; throws
   * `busy` while a tab downloads or loads it.
   */
  async remove(url: string): Promise<void> {
    const inUse = () =>
      new DeltamemError("busy", `${url} is being downloaded or loaded; try again after that.`);
    const users = await tryHold(useLock(url), "exclusive");
    if (!users) throw inUse();
    try {
      const download = await tryHold(downloadLock(url), "exclusive");
      if (!download) throw inUse();
      try {
        await withIndex(async () => {
          const id = await idOf(url);
          await remove(this.#models, completeName(id));
          await remove(this.#models, pendingName(id));
          await this.#collect();
        });
      } finally {
        download();
      }
    } finally {
      users();
    }
  }

  /**
   * Reads a stored model again and compares it with its hashes. Returns the names of damaged files;
   * they are deleted, and the next use downloads them anew.
   */
  async verify(url: string): Promise<string[]> {
    const entry = await this.entry(url, true);
    const damaged: string[] = [];
    for (const file of entry?.files ?? []) {
      if (file.sha256 && (await this.#hashBlob(file.sha256)) === file.sha256) continue;
      damaged.push(file.name);
      if (file.sha256) await remove(this.#blobs, file.sha256);
    }
    return damaged;
  }

  // ---- for downloads ------------------------------------------------------------------------------

  /** A model's entry; null if there is none, or none that can be read. */
  async entry(url: string, isComplete: boolean): Promise<Entry | null> {
    const id = await idOf(url);
    const entry = await this.#readEntry(isComplete ? completeName(id) : pendingName(id));
    return entry?.url === url ? entry : null;
  }

  /** A complete model all of whose files are there; null if anything is amiss. */
  async usable(url: string): Promise<Entry | null> {
    const entry = await this.entry(url, true);
    if (!entry) return null;
    for (const { sha256, bytes } of entry.files) {
      if (!sha256 || bytes === null || !(await this.hasBlob(sha256, bytes))) return null;
    }
    return entry;
  }

  /** Notes what a download will consist of, before anything of it is stored. */
  async putPending(entry: Entry): Promise<void> {
    const name = pendingName(await idOf(entry.url));
    await withIndex(() => writeText(this.#models, name, JSON.stringify(entry)));
  }

  /** Makes a model complete, and deletes what nobody needs any more. */
  async putComplete(entry: Entry): Promise<void> {
    const id = await idOf(entry.url);
    await withIndex(async () => {
      await writeText(this.#models, completeName(id), JSON.stringify(entry));
      await remove(this.#models, pendingName(id));
      await this.#collect();
    });
  }

  /** Gives a download up, with all that came of it. */
  async dropPending(url: string): Promise<void> {
    const id = await idOf(url);
    await withIndex(async () => {
      await remove(this.#models, pendingName(id));
      await this.#collect();
    });
  }

  /** True if this content is there. `bytes` null takes any size. */
  async hasBlob(sha256: string, bytes: number | null): Promise<boolean> {
    const file = await fileAt(this.#blobs, sha256);
    return file !== null && (bytes === null || file.size === bytes);
  }

  openBlob(sha256: string): Promise<OpenFile> {
    return openForReading(this.#blobs, sha256);
  }

  /** Where a file is put together; goes on with what an earlier visit left. */
  async openPart(remote: Remote): Promise<Part> {
    return Part.open(this.#parts, await idOf(remote.url), remote, isPinned(remote.url));
  }

  /** The bytes of an unfinished download that need not come again, and those that it occupies. */
  async partBytes(url: string): Promise<{ finished: number; occupied: number }> {
    const id = await idOf(url);
    const data = await fileAt(this.#parts, partDataName(id));
    return { finished: await partBytes(this.#parts, id), occupied: data?.size ?? 0 };
  }

  async dropPart(url: string): Promise<void> {
    await removePart(this.#parts, await idOf(url));
  }

  /** Gives a finished and closed part its place as a blob; then `entry` is stored, which names it. */
  async adoptPart(url: string, sha256: string, entry: Entry): Promise<void> {
    const id = await idOf(url);
    await withIndex(async () => {
      if (await fileAt(this.#blobs, sha256)) {
        // the same content from elsewhere, or a damaged copy: what just came was checked
        await remove(this.#blobs, sha256);
      }
      if (!(await fileAt(this.#blobs, sha256))) {
        await move(this.#parts, partDataName(id), this.#blobs, sha256);
      }
      await writeText(this.#models, pendingName(await idOf(entry.url)), JSON.stringify(entry));
      await removePart(this.#parts, id);
    });
  }

  // ---- inside -------------------------------------------------------------------------------------

  /** Deletes blobs and parts that no entry names; those that are in use stay for another time. */
  async #collect(): Promise<void> {
    const entries = await this.#entries();
    const blobs = new Set<string>();
    const parts = new Set<string>();
    for (const { entry, isComplete } of entries) {
      for (const { sha256, url } of entry.files) {
        if (sha256) blobs.add(sha256);
        if (!isComplete) parts.add(await idOf(url));
      }
    }
    for (const name of await names(this.#blobs)) {
      if (!blobs.has(name)) await remove(this.#blobs, name);
    }
    for (const id of partIds(await names(this.#parts))) {
      if (!parts.has(id)) await removePart(this.#parts, id);
    }
  }

  async #entries(): Promise<{ entry: Entry; isComplete: boolean }[]> {
    const found: { entry: Entry; isComplete: boolean }[] = [];
    const all = await names(this.#models);
    // what is complete comes first
    for (const isComplete of [true, false]) {
      for (const name of all) {
        if (!name.endsWith(".json") || name.endsWith(".new.json") === isComplete) continue;
        const entry = await this.#readEntry(name);
        if (entry) found.push({ entry, isComplete });
      }
    }
    return found;
  }

  async #readEntry(name: string): Promise<Entry | null> {
    try {
      const text = await textAt(this.#models, name);
      if (text === null) return null;
      const entry = JSON.parse(text) as Partial<Entry> | null;
      const isEntry =
        entry?.format === 1 && typeof entry.url === "string" && Array.isArray(entry.files);
      return isEntry ? (entry as Entry) : null;
    } catch {
      return null; // what cannot be read names nothing
    }
  }

  async #describe(entry: Entry, isComplete: boolean): Promise<StoredModel> {
    const files: StoredModel["files"] = [];
    let bytes = 0;
    for (const { name, url, sha256, bytes: size } of entry.files) {
      if (sha256) files.push({ name, bytes: size ?? 0, sha256 });
      bytes += sha256 ? (size ?? 0) : (await this.partBytes(url)).finished;
    }
    const { url, savedMs } = entry;
    return { url, name: nameOf(url), bytes, files, isComplete, savedMs };
  }

  /** Null if it is not there. */
  async #hashBlob(name: string): Promise<string | null> {
    if (!(await fileAt(this.#blobs, name))) return null;
    const file = await this.openBlob(name);
    const hash = this.#hash();
    const buffer = new Uint8Array(HASHED_AT_A_TIME);
    try {
      for (let at = 0; at < file.size; ) {
        const n = file.read(buffer, at);
        if (n === 0) break;
        hash.update(buffer.subarray(0, n));
        at += n;
        if (at % (32 * HASHED_AT_A_TIME) === 0) await new Promise((resolve) => setTimeout(resolve));
      }
    } finally {
      file.close();
    }
    return hash.digest();
  }
}

const completeName = (id: string) => `${id}.json`;
const pendingName = (id: string) => `${id}.new.json`;

/** A file name for a URL. */
async function idOf(url: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
  return [...new Uint8Array(digest, 0, 16)].map((n) => n.toString(16).padStart(2, "0")).join("");
}

/** What people call it: the folder's name, without the hub's path to a revision. */
function nameOf(url: string): string {
  const { pathname, host } = new URL(url);
  const folders = pathname.split("/").filter((part) => part !== "");
  const resolve = folders.lastIndexOf("resolve");
  const name = resolve > 0 ? folders[resolve - 1] : folders.at(-1);
  return name === undefined ? host : decodeURIComponent(name);
}
