/**
 * What conversations begin with, as the model has read it, in the origin private file system: the files of
 * `session/prefix_store.rs`, whose contents and names are the engine's. Owns where they lie, that one is
 * whole or not there, and that all together stay within a size:
 *
 *   deltamem/prefixes/KEY.dmprefix       a kept context
 *   deltamem/prefixes/new.tmp            one that is being written, by whoever holds the lock
 *   deltamem/prefixes/used.json          when each was used last
 *
 * Nothing here may stop a conversation: what fails is reported, and read by the model instead.
 */
import { type Release, hold } from "./weight-locks.js";
import {
  type OpenFile,
  type SyncAccessHandle,
  canWriteInPlace,
  fileAt,
  move,
  names,
  openForReading,
  openForWriting,
  remove,
  textAt,
  writeAll,
  writeText,
} from "./opfs.js";
import { reasonOf } from "./errors.js";
import type { PrefixStore } from "./wasm.js";

/** Bytes of all files together, unless the caller says otherwise. */
export const DEFAULT_PREFIX_BYTES = 512 << 20;

const FOLDER = "prefixes";
const EXTENSION = ".dmprefix";
const TEMPORARY = "new.tmp";
const USED = "used.json";
/** Held while files are written or removed. */
const LOCK = "deltamem-prefixes";

/** As long as a lock that was just let go of may take to be free. */
const PATIENCE_MS = 200;

type Folder = FileSystemDirectoryHandle;
type Used = Record<string, number>;

export class PrefixFiles implements PrefixStore {
  readonly #folder: Folder;
  readonly #bytes: number;
  readonly #report: (problem: string) => void;
  #reading: { name: string; file: OpenFile; at: number } | null = null;
  #writing: { name: string; file: SyncAccessHandle; at: number; release: Release } | null = null;
  /** True while a session is in the model that promises to store nothing, or nothing in the clear. */
  isPaused = false;

  private constructor(folder: Folder, bytes: number, report: (problem: string) => void) {
    this.#folder = folder;
    this.#bytes = bytes;
    this.#report = report;
  }

  /** Null where the browser has no file system for pages, or lets them only read; workers can write. */
  static async open(
    bytes: number,
    report: (problem: string) => void = (problem) => console.warn(`deltamem: ${problem}`),
  ): Promise<PrefixFiles | null> {
    if (!canWriteInPlace() || !globalThis.navigator?.locks) return null;
    const folder = await prefixFolder(true);
    return folder && new PrefixFiles(folder, bytes, report);
  }

  async open(name: string): Promise<number | null> {
    if (this.isPaused || !(await fileAt(this.#folder, name))) return null;
    const file = await openForReading(this.#folder, name);
    this.#reading = { name, file, at: 0 };
    return file.size;
  }

  read(into: Uint8Array): void {
    const reading = this.#reading;
    if (!reading) throw new DOMException("no file is open", "InvalidStateError");
    for (let from = 0; from < into.length; ) {
      const n = reading.file.read(into.subarray(from), reading.at);
      if (n === 0) throw new DOMException("it is shorter than it says", "DataError");
      from += n;
      reading.at += n;
    }
  }

  async close(problem?: string): Promise<void> {
    const reading = this.#reading;
    this.#reading = null;
    try {
      reading?.file.close();
      if (problem !== undefined) this.#report(`a kept context is not used: ${problem}`);
      if (reading) {
        await locked(async () => {
          if (problem !== undefined) await remove(this.#folder, reading.name);
          else await this.#noteUse(reading.name);
        });
      }
    } catch (error) {
      this.#report(`a kept context cannot be let go of: ${reasonOf(error)}`);
    }
  }

  async create(name: string, bytes: number): Promise<boolean> {
    if (this.isPaused || bytes > this.#bytes) return false;
    // another tab that writes at this moment is not waited for
    const patience = new AbortController();
    const timer = setTimeout(() => patience.abort(), PATIENCE_MS);
    const release = await hold(LOCK, "exclusive", patience.signal).catch(() => null);
    clearTimeout(timer);
    if (!release) return false;
    try {
      await remove(this.#folder, TEMPORARY);
      await this.#makeRoom(bytes);
      const file = await openForWriting(this.#folder, TEMPORARY);
      this.#writing = { name, file, at: 0, release };
      return true;
    } catch (error) {
      release();
      throw error;
    }
  }

  write(bytes: Uint8Array): void {
    const writing = this.#writing;
    if (!writing) throw new DOMException("no file is begun", "InvalidStateError");
    writeAll(writing.file, bytes, writing.at);
    writing.at += bytes.length;
  }

  async finish(problem?: string): Promise<void> {
    const writing = this.#writing;
    this.#writing = null;
    try {
      if (writing) {
        if (problem === undefined) writing.file.flush();
        writing.file.close();
        if (problem === undefined) {
          await move(this.#folder, TEMPORARY, this.#folder, writing.name);
          await this.#noteUse(writing.name);
        } else {
          await remove(this.#folder, TEMPORARY);
        }
      }
      if (problem !== undefined) this.#report(`a context is not kept: ${problem}`);
    } catch (error) {
      this.#report(`a context is not kept: ${reasonOf(error)}`);
    } finally {
      writing?.release();
    }
  }

  clear(): Promise<void> {
    return clearPrefixes();
  }

  /** Removes what was used least recently until `wanted` more bytes fit. */
  async #makeRoom(wanted: number): Promise<void> {
    const used = await readUsed(this.#folder);
    const files = await sizes(this.#folder);
    files.sort((a, b) => (used[a.name] ?? 0) - (used[b.name] ?? 0));
    let total = files.reduce((sum, { bytes }) => sum + bytes, wanted);
    for (const { name, bytes } of files) {
      if (total <= this.#bytes) break;
      if (await remove(this.#folder, name)) total -= bytes;
    }
  }

  async #noteUse(name: string): Promise<void> {
    const [used, there] = [await readUsed(this.#folder), await sizes(this.#folder)];
    const kept = there.map((file) => [file.name, used[file.name] ?? 0] as const);
    // later than all others, also where clocks stand still or were put back
    const now = Math.max(Date.now(), 1 + Math.max(0, ...kept.map(([, ms]) => ms)));
    const next = Object.fromEntries([...kept, [name, now]]);
    await writeText(this.#folder, USED, JSON.stringify(next));
  }
}

/** Bytes that kept contexts take on this device. */
export async function prefixBytes(): Promise<number> {
  const folder = await prefixFolder(false);
  return folder ? (await sizes(folder)).reduce((sum, { bytes }) => sum + bytes, 0) : 0;
}

/** Removes all kept contexts. */
export async function clearPrefixes(): Promise<void> {
  const folder = await prefixFolder(false);
  if (!folder) return;
  await locked(async () => {
    for (const name of await names(folder)) {
      for (let tries = 1; !(await remove(folder, name)); tries += 1) {
        // a tab reads a file for a moment only
        if (tries === 50) throw new DOMException(`${name} is in use`, "NoModificationAllowedError");
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  });
}

async function prefixFolder(create: boolean): Promise<Folder | null> {
  try {
    const root = await globalThis.navigator.storage.getDirectory();
    const top = await root.getDirectoryHandle("deltamem", { create });
    return await top.getDirectoryHandle(FOLDER, { create });
  } catch {
    return null; // refused, or never made
  }
}

async function locked<T>(job: () => Promise<T>): Promise<T> {
  const release = await hold(LOCK, "exclusive", new AbortController().signal);
  try {
    return await job();
  } finally {
    release();
  }
}

async function sizes(folder: Folder): Promise<{ name: string; bytes: number }[]> {
  const files: { name: string; bytes: number }[] = [];
  for (const name of await names(folder)) {
    if (!name.endsWith(EXTENSION)) continue;
    const file = await fileAt(folder, name);
    if (file) files.push({ name, bytes: file.size });
  }
  return files;
}

async function readUsed(folder: Folder): Promise<Used> {
  try {
    const used = JSON.parse((await textAt(folder, USED)) ?? "{}") as unknown;
    const entries = Object.entries(used ?? {}).filter(([, ms]) => Number.isFinite(ms));
    return Object.fromEntries(entries) as Used;
  } catch {
    return {}; // then the next use counts
  }
}
