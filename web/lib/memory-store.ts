/**
 * Memories in IndexedDB: one database, versioned with stepwise upgrades. Owns what is committed
 * together: the memory's bytes (the `.dmem` file, docs/memory-format.md), the turn that led to it,
 * the snapshot of what it replaced, and the generation counter – all of it or nothing.
 *
 * A memory is found by profile and identity (digest of backbone, adapter, quantisation and
 * dimensions), so that models never read each other's.
 */
import { DeltamemError } from "./errors.js";
import type { LedgerEntry } from "./protocol.js";

/** What a memory belongs to. */
export interface MemoryKey {
  profile: string;
  /** 64 hex digits. */
  identity: string;
}

/** A memory's content at one moment. */
export interface MemoryContent {
  /** A `.dmem` file. */
  bytes: Uint8Array;
  /** Unix milliseconds, UTC. */
  savedMs: number;
  norm: number;
}

/** The memory that is valid now. */
export interface MemoryRecord extends MemoryKey, MemoryContent {
  /** Rises by one with every commit, from 1. */
  generation: number;
}

/** A memory that was replaced; `bytes` is null for the empty one that nothing had been written to. */
export interface Snapshot extends MemoryKey {
  generation: number;
  bytes: Uint8Array | null;
  savedMs: number;
  norm: number;
  /** The generation that replaced it. */
  replacedBy: number;
}

/** A turn before the store has given it a generation. */
export type NewTurn = Omit<LedgerEntry, "generation">;

/** Snapshots kept per memory. */
export const SNAPSHOT_RING = 8;
export const DATABASE_NAME = "deltamem";

const MEMORIES = "memories";
const SNAPSHOTS = "snapshots";
const TURNS = "transcripts";
const ALL_STORES = [MEMORIES, SNAPSHOTS, TURNS];

/** Brings a database from the version that is its place in the list to the next. */
export type UpgradeStep = (database: IDBDatabase, transaction: IDBTransaction) => void;

/** Released steps never change; a new version is a new step at the end. */
export const UPGRADE_STEPS: readonly UpgradeStep[] = [
  (database) => {
    database.createObjectStore(MEMORIES, { keyPath: ["profile", "identity"] });
    database.createObjectStore(SNAPSHOTS, { keyPath: ["profile", "identity", "generation"] });
    database.createObjectStore(TURNS, { keyPath: ["profile", "identity", "generation"] });
  },
];

export interface StoreOptions {
  name?: string;
  factory?: IDBFactory;
  steps?: readonly UpgradeStep[];
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
  async snapshots(key: MemoryKey): Promise<Snapshot[]> {
    const all: Snapshot[] = await this.#read(SNAPSHOTS, (store) => store.getAll(rangeOf(key)));
    return all.reverse();
  }

  /** The turns behind the memory, oldest first. */
  async turns(key: MemoryKey): Promise<LedgerEntry[]> {
    return this.#read(TURNS, (store) => store.getAll(rangeOf(key)));
  }

  /**
   * Commits a turn and the memory after it, and gives their generation. `expected` is the generation
   * that the memory was made from, 0 if none was stored; throws `memory_conflict` if the store has
   * moved on, and changes nothing then.
   */
  commitTurn(
    key: MemoryKey,
    expected: number,
    content: MemoryContent,
    turn: NewTurn,
  ): Promise<number> {
    return this.#write(async (transaction) => {
      const generation = await replace(transaction, key, expected, content);
      transaction.objectStore(TURNS).put({ ...key, ...turn, generation });
      return generation;
    });
  }

  /** Commits a memory that no turn led to, such as an import; otherwise as `commitTurn`. */
  commitMemory(key: MemoryKey, expected: number, content: MemoryContent): Promise<number> {
    return this.#write((transaction) => replace(transaction, key, expected, content));
  }

  /**
   * Takes the last commit back: `content`, which is that of the newest snapshot, becomes the memory,
   * and snapshot and turn are gone. The generation still rises.
   */
  undo(key: MemoryKey, expected: number, content: MemoryContent): Promise<number> {
    return this.#write(async (transaction) => {
      await checkGeneration(transaction, key, expected);
      const snapshots = transaction.objectStore(SNAPSHOTS);
      const newest: Snapshot | undefined = (await settled(snapshots.getAll(rangeOf(key)))).at(-1);
      if (!newest) throw new DeltamemError("nothing_to_undo", "There is nothing to undo.");
      snapshots.delete([key.profile, key.identity, newest.generation]);
      transaction.objectStore(TURNS).delete([key.profile, key.identity, newest.replacedBy]);
      const generation = expected + 1;
      transaction.objectStore(MEMORIES).put({ ...key, ...content, generation });
      return generation;
    });
  }

  /** Deletes every memory, snapshot and turn of a profile, whatever model they belong to. */
  forget(profile: string): Promise<void> {
    return this.#write(async (transaction) => {
      // An array sorts after every string, so this covers all keys that begin with the profile.
      const range = IDBKeyRange.bound([profile], [profile, []]);
      for (const name of ALL_STORES) transaction.objectStore(name).delete(range);
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

/** Puts `content` in place of the memory, which goes into the ring. */
async function replace(
  transaction: IDBTransaction,
  key: MemoryKey,
  expected: number,
  content: MemoryContent,
): Promise<number> {
  const current = await checkGeneration(transaction, key, expected);
  const generation = expected + 1;
  const snapshots = transaction.objectStore(SNAPSHOTS);
  const replaced: Snapshot = {
    ...key,
    generation: expected,
    bytes: current?.bytes ?? null,
    savedMs: current?.savedMs ?? content.savedMs,
    norm: current?.norm ?? 0,
    replacedBy: generation,
  };
  snapshots.put(replaced);
  const kept = await settled(snapshots.getAllKeys(rangeOf(key)));
  for (const old of kept.slice(0, -SNAPSHOT_RING)) snapshots.delete(old);
  transaction.objectStore(MEMORIES).put({ ...key, ...content, generation });
  return generation;
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

/** All generations of a memory. */
function rangeOf(key: MemoryKey): IDBKeyRange {
  return IDBKeyRange.bound([key.profile, key.identity], [key.profile, key.identity, []]);
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
  return new DeltamemError("storage", `The browser refused to store the memory (${reason}).`, {
    cause: error,
  });
}
