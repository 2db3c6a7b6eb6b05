/**
 * Memories in IndexedDB: one database, versioned with stepwise upgrades (memory-schema.ts). Owns what
 * is committed together: the memory's bytes (the `.dmem` file, docs/memory-format.md), the ledger
 * entry of what led to it, the snapshot of what it replaced, and the generation counter – all of it
 * or nothing.
 *
 * A memory is found by profile and identity (digest of backbone, adapter, quantisation and
 * dimensions), so that models never read each other's. States and entries lie here as they come,
 * plain or sealed: encryption is memory-home.ts's, before a transaction begins.
 */
import { DeltamemError } from "./errors.js";
import {
  ALL_STORES,
  DATABASE_NAME,
  type EntryRecord,
  KEYS,
  MEMORIES,
  type MemoryKey,
  type MemoryRecord,
  SNAPSHOTS,
  type SnapshotRecord,
  type StoredEntry,
  type StoredState,
  TURNS,
  UPGRADE_STEPS,
  type UpgradeStep,
} from "./memory-schema.js";
import type { ProfileInfo } from "./protocol.js";
import type { KeyRecord } from "./vault.js";

/** Snapshots kept per memory. */
export const SNAPSHOT_RING = 8;

export interface StoreOptions {
  name?: string;
  factory?: IDBFactory;
  steps?: readonly UpgradeStep[];
}

/** All that is stored of a profile, or of one of its memories. */
export interface StoredContents {
  memories: MemoryRecord[];
  snapshots: SnapshotRecord[];
  entries: EntryRecord[];
}

export interface Committed {
  generation: number;
  /** What the commit put into the database. */
  bytes: number;
}

/** The open database. */
export class MemoryStore {
  readonly #database: IDBDatabase;
  #closedBy: DeltamemError | null = null;

  private constructor(database: IDBDatabase) {
    this.#database = database;
    // A page with a newer version of this library must be able to upgrade: step aside.
    database.onversionchange = () => {
      database.close();
      this.#closedBy = new DeltamemError(
        "storage_outdated",
        "Another tab uses a newer version of this page. Reload this tab.",
      );
    };
    database.onclose = () => {
      this.#closedBy ??= new DeltamemError(
        "storage",
        "The browser closed the memory's database. Reload this tab.",
      );
    };
  }

  /** Opens the database and upgrades it if need be. */
  static async open(options: StoreOptions = {}): Promise<MemoryStore> {
    const { name = DATABASE_NAME, steps = UPGRADE_STEPS } = options;
    const factory = options.factory ?? globalThis.indexedDB;
    if (!factory) throw new DeltamemError("storage", "This browser has no IndexedDB.");
    const database = await new Promise<IDBDatabase>((resolve, reject) => {
      const request = factory.open(name, steps.length);
      request.onupgradeneeded = ({ oldVersion }) => {
        const transaction = request.transaction;
        if (!transaction) return;
        for (const step of steps.slice(oldVersion)) step(request.result, transaction);
      };
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(storageError(request.error));
      // Other tabs close on `versionchange`; `blocked` only means that one has not yet.
    });
    return new MemoryStore(database);
  }

  close(): void {
    this.#database.close();
    this.#closedBy ??= new DeltamemError("storage", "The memory's database is closed.");
  }

  /** The memory that is valid now, if any. */
  async read(key: MemoryKey): Promise<MemoryRecord | undefined> {
    return this.#read(MEMORIES, (store) => store.get([key.profile, key.identity]));
  }

  /** What was replaced, newest first. */
  async snapshots(key: MemoryKey): Promise<SnapshotRecord[]> {
    const all: SnapshotRecord[] = await this.#read(SNAPSHOTS, (store) => store.getAll(rangeOf(key)));
    return all.reverse();
  }

  /** What is behind the memory, oldest first. */
  async entries(key: MemoryKey): Promise<EntryRecord[]> {
    return this.#read(TURNS, (store) => store.getAll(rangeOf(key)));
  }

  /** How to open what a profile has encrypted; undefined if it has not. */
  async key(profile: string): Promise<KeyRecord | undefined> {
    return this.#read(KEYS, (store) => store.get(profile));
  }

  /** All of a profile, whatever model it belongs to. */
  async contents(profile: string): Promise<StoredContents> {
    const all = <T>(name: string): Promise<T[]> =>
      this.#read(name, (store) => store.getAll(rangeOfProfile(profile)));
    const [memories, snapshots, entries] = await Promise.all([
      all<MemoryRecord>(MEMORIES),
      all<SnapshotRecord>(SNAPSHOTS),
      all<EntryRecord>(TURNS),
    ]);
    return { memories, snapshots, entries };
  }

  /** Every memory of every profile, with its size. */
  async profiles(): Promise<ProfileInfo[]> {
    const all = <T>(name: string): Promise<T[]> => this.#read(name, (store) => store.getAll());
    const [memories, snapshots, entries] = await Promise.all([
      all<MemoryRecord>(MEMORIES),
      all<SnapshotRecord>(SNAPSHOTS),
      all<EntryRecord>(TURNS),
    ]);
    return memories.map((memory) => {
      const { profile, identity, generation, savedMs } = memory;
      const isOfIt = (other: MemoryKey) =>
        other.profile === profile && other.identity === identity;
      const records = [memory, ...snapshots.filter(isOfIt), ...entries.filter(isOfIt)];
      return {
        profile,
        identity,
        generation,
        savedMs,
        norm: "sealed" in memory ? null : memory.norm,
        isEncrypted: "sealed" in memory,
        bytes: records.reduce((sum, record) => sum + bytesOf(record), 0),
      };
    });
  }

  /**
   * Commits a memory and the entry of what led to it. `expected` is the generation that the memory
   * was made from, 0 if none was stored; throws `memory_conflict` if the store has moved on, and
   * changes nothing then.
   */
  commit(
    key: MemoryKey,
    expected: number,
    state: StoredState,
    entry: StoredEntry | null,
  ): Promise<Committed> {
    return this.#write(async (transaction) => {
      const current = await checkGeneration(transaction, key, expected);
      const generation = expected + 1;
      const snapshots = transaction.objectStore(SNAPSHOTS);
      const replaced: SnapshotRecord = {
        ...(current ?? { ...key, bytes: null, savedMs: state.savedMs, norm: 0 }),
        generation: expected,
        replacedBy: generation,
      };
      snapshots.put(replaced);
      const kept = await settled(snapshots.getAllKeys(rangeOf(key)));
      for (const old of kept.slice(0, -SNAPSHOT_RING)) snapshots.delete(old);
      const record = { ...key, ...state, generation };
      transaction.objectStore(MEMORIES).put(record);
      let bytes = bytesOf(record) + bytesOf(replaced);
      if (entry) {
        const stored = { ...key, ...entry, generation };
        transaction.objectStore(TURNS).put(stored);
        bytes += bytesOf(stored);
      }
      return { generation, bytes };
    });
  }

  /**
   * Takes the last commit back: `state`, which is that of the newest snapshot, becomes the memory,
   * and snapshot and entry are gone. The generation still rises.
   */
  undo(key: MemoryKey, expected: number, state: StoredState): Promise<Committed> {
    return this.#write(async (transaction) => {
      await checkGeneration(transaction, key, expected);
      const snapshots = transaction.objectStore(SNAPSHOTS);
      const all: SnapshotRecord[] = await settled(snapshots.getAll(rangeOf(key)));
      const newest = all.at(-1);
      if (!newest) throw new DeltamemError("nothing_to_undo", "There is nothing to undo.");
      snapshots.delete([key.profile, key.identity, newest.generation]);
      transaction.objectStore(TURNS).delete([key.profile, key.identity, newest.replacedBy]);
      const record = { ...key, ...state, generation: expected + 1 };
      transaction.objectStore(MEMORIES).put(record);
      return { generation: record.generation, bytes: bytesOf(record) };
    });
  }

  /**
   * Deletes every memory, snapshot, entry and key of a profile, whatever model they belong to. `key`
   * takes the old key's place, if the profile is to stay encrypted.
   */
  forget(profile: string, key: KeyRecord | null = null): Promise<void> {
    return this.#write(async (transaction) => {
      const range = rangeOfProfile(profile);
      for (const name of [MEMORIES, SNAPSHOTS, TURNS]) transaction.objectStore(name).delete(range);
      putKey(transaction, profile, key);
    });
  }

  /**
   * Puts other records in the places of `before`, which is all that the profile had when it was read.
   * Throws `memory_conflict` if something was committed since, and changes nothing then.
   */
  rewrite(
    profile: string,
    before: StoredContents,
    after: StoredContents,
    key: KeyRecord | null,
  ): Promise<void> {
    return this.#write(async (transaction) => {
      const memories = transaction.objectStore(MEMORIES);
      const found: MemoryRecord[] = await settled(memories.getAll(rangeOfProfile(profile)));
      const places = (records: MemoryRecord[]) =>
        JSON.stringify(records.map(({ identity, generation }) => [identity, generation]));
      if (places(found) !== places(before.memories)) {
        throw new DeltamemError("memory_conflict", "The memory was changed meanwhile; try again.");
      }
      putAll(transaction, after);
      putKey(transaction, profile, key);
    });
  }

  /** Fills a profile that has no memories. Throws `profile_exists` if it has, and changes nothing. */
  fill(profile: string, contents: StoredContents, key: KeyRecord | null): Promise<void> {
    return this.#write(async (transaction) => {
      const memories = transaction.objectStore(MEMORIES);
      if ((await settled(memories.count(rangeOfProfile(profile)))) > 0) {
        throw new DeltamemError("profile_exists", `The profile "${profile}" has a memory already.`);
      }
      putAll(transaction, contents);
      putKey(transaction, profile, key);
    });
  }

  async #read<T>(name: string, ask: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
    if (this.#closedBy) throw this.#closedBy;
    try {
      return await settled(ask(this.#database.transaction(name).objectStore(name)));
    } catch (error) {
      throw storageError(error);
    }
  }

  /** Runs `body` in one transaction; resolves when the browser says that it is on the disk. */
  async #write<T>(body: (transaction: IDBTransaction) => Promise<T>): Promise<T> {
    if (this.#closedBy) throw this.#closedBy;
    try {
      const transaction = this.#database.transaction(ALL_STORES, "readwrite", {
        durability: "strict",
      });
      const completed = new Promise<void>((resolve, reject) => {
        transaction.oncomplete = () => resolve();
        transaction.onabort = () => reject(transaction.error ?? new Error("aborted"));
      });
      completed.catch(() => undefined); // reported below, unless `body` failed first
      let result: T;
      try {
        result = await body(transaction);
      } catch (error) {
        abort(transaction);
        throw error;
      }
      await completed;
      return result;
    } catch (error) {
      throw storageError(error);
    }
  }
}

async function checkGeneration(
  transaction: IDBTransaction,
  key: MemoryKey,
  expected: number,
): Promise<MemoryRecord | undefined> {
  const request = transaction.objectStore(MEMORIES).get([key.profile, key.identity]);
  const current: MemoryRecord | undefined = await settled(request);
  const found = current?.generation ?? 0;
  if (found !== expected) {
    throw new DeltamemError(
      "memory_conflict",
      `The stored memory is at generation ${found}, this tab expected ${expected}; nothing was changed.`,
    );
  }
  return current;
}

function putAll(transaction: IDBTransaction, contents: StoredContents): void {
  const put = (name: string, records: object[]) => {
    for (const record of records) transaction.objectStore(name).put(record);
  };
  put(MEMORIES, contents.memories);
  put(SNAPSHOTS, contents.snapshots);
  put(TURNS, contents.entries);
}

function putKey(transaction: IDBTransaction, profile: string, key: KeyRecord | null): void {
  const keys = transaction.objectStore(KEYS);
  if (key) keys.put(key);
  else keys.delete(profile);
}

/** All generations of a memory. */
function rangeOf(key: MemoryKey): IDBKeyRange {
  return IDBKeyRange.bound([key.profile, key.identity], [key.profile, key.identity, []]);
}

/** An array sorts after every string, so this covers all keys that begin with the profile. */
function rangeOfProfile(profile: string): IDBKeyRange {
  return IDBKeyRange.bound([profile], [profile, []]);
}

/** What a record takes: its byte arrays, and the rest as JSON. */
function bytesOf(record: object): number {
  let bytes = 0;
  const json = JSON.stringify(record, (_, value: unknown) => {
    if (!(value instanceof Uint8Array)) return value;
    bytes += value.length;
    return undefined;
  });
  return bytes + new TextEncoder().encode(json).length;
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function abort(transaction: IDBTransaction): void {
  try {
    transaction.abort();
  } catch {
    // it has ended already, which is what was wanted
  }
}

function storageError(error: unknown): DeltamemError {
  if (error instanceof DeltamemError) return error;
  if (error instanceof Error && error.name === "VersionError") {
    return new DeltamemError(
      "storage_outdated",
      "The memory was written by a newer version of this page. Reload; if that does not help, clear the cache.",
      { cause: error },
    );
  }
  const reason = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  if (error instanceof Error && error.name === "QuotaExceededError") {
    const { requested, quota } = error as { requested?: number | null; quota?: number | null };
    return new DeltamemError("quota", `There is no room left for the memory (${reason}).`, {
      cause: error,
      requested: requested ?? null,
      quota: quota ?? null,
    });
  }
  return new DeltamemError("storage", `The browser refused to store the memory (${reason}).`, {
    cause: error,
  });
}
