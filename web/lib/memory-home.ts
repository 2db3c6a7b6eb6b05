/**
 * Where a session's memory lives: in a profile of the database, or (ephemeral) nowhere but here. Both
 * keep the memory as it was last committed, the snapshots that it replaced, and the ledger.
 */
import { DeltamemError } from "./errors.js";
import { SNAPSHOT_RING } from "./memory-store.js";
import type { MemoryContent, NewEntry } from "./memory-schema.js";
import type { LedgerEntry } from "./protocol.js";

export interface HomeRecord extends MemoryContent {
  /** Rises by one with every commit, from 1. */
  generation: number;
}

/** A memory that was replaced; `bytes` is null for the empty one. */
export interface HomeSnapshot {
  generation: number;
  bytes: Uint8Array | null;
  savedMs: number;
  norm: number;
  /** The generation that replaced it. */
  replacedBy: number;
}

/** All that a home has. */
export interface HomeContents {
  record: HomeRecord | null;
  /** Newest first. */
  snapshots: HomeSnapshot[];
  /** Oldest first. */
  ledger: LedgerEntry[];
}

export interface MemoryHome {
  /** True if it is there again on the next visit. */
  readonly isDurable: boolean;
  /** False while another tab writes to the profile. */
  readonly isWritable: boolean;
  readonly isEncrypted: boolean;
  /** What the last commit put into the database; null before it, or if there is none. */
  readonly lastCommitBytes: number | null;
  /** The memory as it was last committed; null if nothing was. */
  read(): Promise<HomeRecord | null>;
  /** Newest first. */
  snapshots(): Promise<HomeSnapshot[]>;
  /** Oldest first. */
  ledger(): Promise<LedgerEntry[]>;
  /** Commits a memory made from generation `expected`; gives its generation. All or nothing. */
  commit(expected: number, content: MemoryContent, entry: NewEntry): Promise<number>;
  /** Takes the last commit back; `content` is that of the newest snapshot. */
  undo(expected: number, content: MemoryContent): Promise<number>;
  forget(): Promise<void>;
  setPassphrase(passphrase: string | null): Promise<void>;
  close(): void;
}

/** Everything of a home, for a copy. */
export async function contentsOf(home: MemoryHome): Promise<HomeContents> {
  const [record, snapshots, ledger] = [
    await home.read(),
    await home.snapshots(),
    await home.ledger(),
  ];
  return { record, snapshots, ledger };
}

/** Newest entries that the ledger of an ephemeral session has: it lies in the page's own memory. */
export const VOLATILE_LEDGER = 256;

/** The memory of an ephemeral session. */
export class VolatileHome implements MemoryHome {
  readonly isDurable = false;
  readonly isWritable = true;
  readonly isEncrypted = false;
  readonly lastCommitBytes = null;
  #record: HomeRecord | null;
  #snapshots: HomeSnapshot[];
  #ledger: LedgerEntry[];

  /** Empty, or a copy of another home's contents. */
  constructor(contents: HomeContents = { record: null, snapshots: [], ledger: [] }) {
    this.#record = contents.record;
    this.#snapshots = [...contents.snapshots];
    this.#ledger = [...contents.ledger];
  }

  async read(): Promise<HomeRecord | null> {
    return this.#record;
  }

  async snapshots(): Promise<HomeSnapshot[]> {
    return [...this.#snapshots];
  }

  async ledger(): Promise<LedgerEntry[]> {
    return [...this.#ledger];
  }

  async commit(expected: number, content: MemoryContent, entry: NewEntry): Promise<number> {
    const generation = expected + 1;
    const replaced = this.#record ?? { bytes: null, savedMs: content.savedMs, norm: 0 };
    const snapshot = { ...replaced, generation: expected, replacedBy: generation };
    this.#snapshots = [snapshot, ...this.#snapshots].slice(0, SNAPSHOT_RING);
    this.#ledger = [...this.#ledger, { ...entry, generation }].slice(-VOLATILE_LEDGER);
    this.#record = { ...content, generation };
    return generation;
  }

  async undo(expected: number, content: MemoryContent): Promise<number> {
    const newest = this.#snapshots.shift();
    if (!newest) throw new DeltamemError("nothing_to_undo", "There is nothing to undo.");
    this.#ledger = this.#ledger.filter(({ generation }) => generation !== newest.replacedBy);
    this.#record = { ...content, generation: expected + 1 };
    return expected + 1;
  }

  async forget(): Promise<void> {
    this.#record = null;
    this.#snapshots = [];
    this.#ledger = [];
  }

  async setPassphrase(): Promise<void> {
    throw new DeltamemError("unsupported", "An ephemeral session stores nothing to encrypt.");
  }

  close(): void {
    this.#record = null;
  }
}
