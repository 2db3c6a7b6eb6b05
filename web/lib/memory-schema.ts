/** What lies in the memories' database, and how a database of before becomes one of now. */
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

/** What is kept of something encrypted; the time stays readable. */
export interface Sealed {
  /** Unix milliseconds, UTC. */
  savedMs: number;
  /** Initial vector, ciphertext, tag; vault.ts. */
  sealed: Uint8Array;
}

export type StoredState = MemoryContent | Sealed;

/** A ledger entry before the store has given it a generation. */
export type NewEntry = Omit<LedgerEntry, "generation">;
export type StoredEntry = NewEntry | Sealed;

interface Place extends MemoryKey {
  /** Rises by one with every commit, from 1. */
  generation: number;
}

/** The memory that is valid now. */
export type MemoryRecord = Place & StoredState;

/** A memory that was replaced; `bytes` is null for the empty one that nothing had been written to. */
export type SnapshotRecord = Place & {
  /** The generation that replaced it. */
  replacedBy: number;
} & (StoredState | { bytes: null; savedMs: number; norm: number });

export type EntryRecord = Place & StoredEntry;

export const DATABASE_NAME = "deltamem";
export const MEMORIES = "memories";
export const SNAPSHOTS = "snapshots";
/** The ledger; called so since version 1, when it held turns only. */
export const TURNS = "transcripts";
/** One wrapped key an encrypted profile. */
export const KEYS = "keys";
export const ALL_STORES = [MEMORIES, SNAPSHOTS, TURNS, KEYS];

/** Brings a database from the version that is its place in the list to the next. */
export type UpgradeStep = (database: IDBDatabase, transaction: IDBTransaction) => void;

/** Released steps never change; a new version is a new step at the end. */
export const UPGRADE_STEPS: readonly UpgradeStep[] = [
  (database) => {
    database.createObjectStore("memories", { keyPath: ["profile", "identity"] });
    database.createObjectStore("snapshots", { keyPath: ["profile", "identity", "generation"] });
    database.createObjectStore("transcripts", { keyPath: ["profile", "identity", "generation"] });
  },
  // Profiles can be encrypted, and the ledger tells turns from other commits.
  (database, transaction) => {
    database.createObjectStore("keys", { keyPath: "profile" });
    const request = transaction.objectStore("transcripts").openCursor();
    request.onsuccess = () => {
      const cursor = request.result;
      if (!cursor) return;
      const added = { kind: "turn", promptRole: "user", thoughts: "", toolCalls: [] };
      cursor.update({ ...added, ...cursor.value });
      cursor.continue();
    };
  },
];
