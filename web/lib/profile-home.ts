/**
 * A profile in the database: the store, the place in the line of writers, and the key if it is
 * encrypted. Whatever is encrypted is so before a transaction begins, because IndexedDB ends a
 * transaction that waits for anything else.
 */
import { DeltamemError } from "./errors.js";
import { type LockOptions, ProfileChannel, ProfileLock, type ProfileNotice } from "./lock.js";
import type { HomeContents, HomeRecord, HomeSnapshot, MemoryHome } from "./memory-home.js";
import type {
  EntryRecord,
  MemoryContent,
  MemoryKey,
  MemoryRecord,
  NewEntry,
  Sealed,
  SnapshotRecord,
  StoredEntry,
  StoredState,
} from "./memory-schema.js";
import { type Committed, MemoryStore, type StoredContents } from "./memory-store.js";
import type { LedgerEntry } from "./protocol.js";
import { Vault } from "./vault.js";

export interface ProfileOptions {
  profile: string;
  passphrase: string | null;
  locks: LockManager | undefined;
  /** Refuses a profile that has a memory or a key already, before anything is changed. */
  mustBeEmpty?: boolean;
  /** Another tab has committed or forgotten, or this one may write from now on. */
  onChange(): void;
}

export class ProfileHome implements MemoryHome {
  readonly isDurable = true;
  readonly #store: MemoryStore;
  readonly #profile: string;
  readonly #channel: ProfileChannel;
  #lock: ProfileLock | null = null;
  #vault: Vault | null = null;
  /** True when another tab may have put another key, or none, in the old one's place. */
  #isKeyStale = false;
  #identity: string | null = null;
  #lastCommitBytes: number | null = null;

  private constructor(store: MemoryStore, options: ProfileOptions) {
    this.#store = store;
    this.#profile = options.profile;
    this.#channel = new ProfileChannel(options.profile, (notice) => {
      if (notice.kind === "committed" && notice.identity !== this.#identity) return;
      if (notice.kind !== "committed") this.#isKeyStale = true;
      options.onChange();
    });
  }

  /**
   * Opens the database, joins the line of writers, and unlocks what is encrypted. Throws `passphrase`,
   * or an error of the database.
   */
  static async open(options: ProfileOptions): Promise<ProfileHome> {
    const home = new ProfileHome(await MemoryStore.open(), options);
    try {
      const lockOptions: LockOptions = { onTakeOver: options.onChange };
      if (options.locks) lockOptions.locks = options.locks;
      home.#lock = await ProfileLock.acquire(options.profile, lockOptions);
      if (options.mustBeEmpty) await home.#requireEmpty();
      await home.#unlock(options.passphrase);
      return home;
    } catch (error) {
      home.close();
      throw error;
    }
  }

  async #requireEmpty(): Promise<void> {
    if (!this.isWritable) {
      throw new DeltamemError("busy", `Another tab has the profile "${this.#profile}" open.`);
    }
    const { memories } = await this.#store.contents(this.#profile);
    if (memories.length === 0 && !(await this.#store.key(this.#profile))) return;
    throw new DeltamemError(
      "profile_exists",
      `The profile "${this.#profile}" is in use; choose a new name.`,
    );
  }

  async #unlock(passphrase: string | null): Promise<void> {
    const record = await this.#store.key(this.#profile);
    if (record && passphrase === null) {
      throw new DeltamemError(
        "passphrase",
        `The profile "${this.#profile}" is encrypted and needs its passphrase.`,
      );
    }
    if (record && passphrase !== null) this.#vault = await Vault.unlock(record, passphrase);
    else if (passphrase !== null) await this.setPassphrase(passphrase);
  }

  /** Says which model's memory is meant; before that only the profile as a whole is at hand. */
  bind(identity: string): void {
    this.#identity = identity;
  }

  get isWritable(): boolean {
    return this.#lock?.isHeld ?? false;
  }

  get isEncrypted(): boolean {
    return this.#vault !== null;
  }

  get lastCommitBytes(): number | null {
    return this.#lastCommitBytes;
  }

  async read(): Promise<HomeRecord | null> {
    const vault = await this.#freshVault();
    const record = await this.#store.read(this.#key());
    if (!record) return null;
    return { ...(await openState(vault, record)), generation: record.generation };
  }

  async snapshots(): Promise<HomeSnapshot[]> {
    const vault = await this.#freshVault();
    const snapshots = await this.#store.snapshots(this.#key());
    return Promise.all(
      snapshots.map(async (snapshot) => {
        const { generation, replacedBy } = snapshot;
        return { ...(await openSnapshot(vault, snapshot)), generation, replacedBy };
      }),
    );
  }

  async ledger(): Promise<LedgerEntry[]> {
    const vault = await this.#freshVault();
    const entries = await this.#store.entries(this.#key());
    return Promise.all(entries.map((entry) => openEntry(vault, entry)));
  }

  async commit(expected: number, content: MemoryContent, entry: NewEntry): Promise<number> {
    const place = { ...this.#key(), generation: expected + 1 };
    const vault = await this.#freshVault();
    const state = await sealState(vault, place, content);
    const stored = await sealEntry(vault, place, entry);
    return this.#noteCommit(await this.#store.commit(this.#key(), expected, state, stored));
  }

  async undo(expected: number, content: MemoryContent): Promise<number> {
    const place = { ...this.#key(), generation: expected + 1 };
    const state = await sealState(await this.#freshVault(), place, content);
    return this.#noteCommit(await this.#store.undo(this.#key(), expected, state));
  }

  /** An encrypted profile gets another key: what the old one encrypted cannot be read any more. */
  async forget(): Promise<void> {
    const old = await this.#freshVault();
    const vault = old ? await old.renewed() : null;
    await this.#store.forget(this.#profile, vault?.record ?? null);
    this.#vault = vault;
    this.#post({ kind: "forgotten" });
  }

  /** Fills this profile with a copy. Throws `profile_exists` if it has a memory. */
  async fill({ record, snapshots, ledger }: HomeContents): Promise<void> {
    const vault = await this.#freshVault();
    const key = this.#key();
    const place = (generation: number) => ({ ...key, generation });
    const contents: StoredContents = {
      memories: record ? [await storedState(vault, place(record.generation), record)] : [],
      snapshots: await Promise.all(
        snapshots.map(async ({ generation, replacedBy, ...state }) => ({
          ...(await storedSnapshot(vault, place(generation), state)),
          replacedBy,
        })),
      ),
      entries: await Promise.all(
        ledger.map(async ({ generation, ...entry }) => ({
          ...place(generation),
          ...(await sealEntry(vault, place(generation), entry)),
        })),
      ),
    };
    await this.#store.fill(this.#profile, contents, vault?.record ?? null);
    this.#post({ kind: "committed", identity: key.identity });
  }

  /** Encrypts, decrypts (null), or wraps the key anew. */
  async setPassphrase(passphrase: string | null): Promise<void> {
    if (!this.isWritable) {
      throw new DeltamemError(
        "read_only",
        "Another tab writes to this profile; only that one can change its passphrase.",
      );
    }
    const old = await this.#freshVault();
    if (!old && passphrase === null) return;
    const before = await this.#store.contents(this.#profile);
    if (old && passphrase !== null) {
      const vault = await old.withPassphrase(passphrase);
      await this.#store.rewrite(this.#profile, before, NO_CONTENTS, vault.record);
      this.#vault = vault;
    } else {
      const vault = passphrase === null ? null : await Vault.create(this.#profile, passphrase);
      const after = await recoded(before, old, vault);
      await this.#store.rewrite(this.#profile, before, after, vault?.record ?? null);
      this.#vault = vault;
    }
    this.#post({ kind: "rekeyed" });
  }

  close(): void {
    this.#lock?.release();
    this.#channel.close();
    this.#store.close();
  }

  #key(): MemoryKey {
    if (this.#identity === null) throw new DeltamemError("worker", "no model is loaded");
    return { profile: this.#profile, identity: this.#identity };
  }

  async #freshVault(): Promise<Vault | null> {
    if (!this.#isKeyStale) return this.#vault;
    const record = await this.#store.key(this.#profile);
    if (!record) this.#vault = null;
    else if (this.#vault) this.#vault = await this.#vault.following(record);
    else {
      throw new DeltamemError(
        "passphrase",
        `Another tab has encrypted the profile "${this.#profile}". Open it again with the passphrase.`,
      );
    }
    this.#isKeyStale = false;
    return this.#vault;
  }

  #noteCommit({ generation, bytes }: Committed): number {
    this.#lastCommitBytes = bytes;
    this.#post({ kind: "committed", identity: this.#key().identity });
    return generation;
  }

  #post(notice: ProfileNotice): void {
    this.#channel.post(notice);
  }
}

// ---- plain and sealed -----------------------------------------------------------------------------

const NO_CONTENTS: StoredContents = { memories: [], snapshots: [], entries: [] };

type RecordPlace = MemoryKey & { generation: number };
type SnapshotState = { bytes: Uint8Array | null; savedMs: number; norm: number };

/** What a sealed record is bound to: it opens nowhere else. */
function binding(kind: "memory" | "entry", place: RecordPlace, savedMs: number): string {
  return JSON.stringify([kind, place.profile, place.identity, place.generation, savedMs]);
}

async function sealState(
  vault: Vault | null,
  place: RecordPlace,
  { bytes, savedMs, norm }: MemoryContent,
): Promise<StoredState> {
  if (!vault) return { bytes, savedMs, norm };
  // The norm, f64 little-endian, and the file.
  const payload = new Uint8Array(8 + bytes.length);
  new DataView(payload.buffer).setFloat64(0, norm, true);
  payload.set(bytes, 8);
  return { savedMs, sealed: await vault.seal(payload, binding("memory", place, savedMs)) };
}

async function openState(
  vault: Vault | null,
  record: RecordPlace & StoredState,
): Promise<MemoryContent> {
  const { savedMs } = record;
  if (!("sealed" in record)) {
    refusePlain(vault, record);
    return { bytes: record.bytes, savedMs, norm: record.norm };
  }
  const payload = await needed(vault, record).open(
    record.sealed,
    binding("memory", record, savedMs),
  );
  const norm = new DataView(payload.buffer).getFloat64(0, true);
  return { bytes: payload.slice(8), savedMs, norm };
}

/** The empty memory before the first commit has nothing to hide, and stays as it is. */
async function openSnapshot(vault: Vault | null, snapshot: SnapshotRecord): Promise<SnapshotState> {
  if ("sealed" in snapshot) return openState(vault, snapshot);
  const { bytes, savedMs, norm } = snapshot;
  if (bytes !== null) refusePlain(vault, snapshot);
  return { bytes, savedMs, norm };
}

async function sealEntry(
  vault: Vault | null,
  place: RecordPlace,
  entry: NewEntry,
): Promise<StoredEntry> {
  if (!vault) return entry;
  const { savedMs } = entry;
  const payload = new TextEncoder().encode(JSON.stringify(entry));
  return { savedMs, sealed: await vault.seal(payload, binding("entry", place, savedMs)) };
}

async function openEntry(vault: Vault | null, record: EntryRecord): Promise<LedgerEntry> {
  if (!("sealed" in record)) {
    refusePlain(vault, record);
    const { profile, identity, ...entry } = record;
    return entry;
  }
  const payload = await needed(vault, record).open(
    record.sealed,
    binding("entry", record, record.savedMs),
  );
  const entry = JSON.parse(new TextDecoder().decode(payload)) as NewEntry;
  return { ...entry, generation: record.generation };
}

async function storedState(
  vault: Vault | null,
  place: RecordPlace,
  content: MemoryContent,
): Promise<MemoryRecord> {
  return { ...place, ...(await sealState(vault, place, content)) };
}

async function storedSnapshot(vault: Vault | null, place: RecordPlace, state: SnapshotState) {
  const { bytes, savedMs, norm } = state;
  if (bytes === null) return { ...place, bytes, savedMs, norm };
  return { ...place, ...(await sealState(vault, place, { bytes, savedMs, norm })) };
}

/** All records of a profile, opened with one vault and sealed with another. */
async function recoded(
  { memories, snapshots, entries }: StoredContents,
  from: Vault | null,
  to: Vault | null,
): Promise<StoredContents> {
  return {
    memories: await Promise.all(
      memories.map(async (record) => storedState(to, placeOf(record), await openState(from, record))),
    ),
    snapshots: await Promise.all(
      snapshots.map(async (record) => ({
        ...(await storedSnapshot(to, placeOf(record), await openSnapshot(from, record))),
        replacedBy: record.replacedBy,
      })),
    ),
    entries: await Promise.all(
      entries.map(async (record) => {
        const { generation: _, ...entry } = await openEntry(from, record);
        return { ...placeOf(record), ...(await sealEntry(to, placeOf(record), entry)) };
      }),
    ),
  };
}

function placeOf({ profile, identity, generation }: RecordPlace): RecordPlace {
  return { profile, identity, generation };
}

function needed(vault: Vault | null, record: RecordPlace & Sealed): Vault {
  if (vault) return vault;
  throw new DeltamemError(
    "passphrase",
    `The profile "${record.profile}" is encrypted and needs its passphrase.`,
  );
}

/** Whoever can write to the database must not be able to slip something in past the key. */
function refusePlain(vault: Vault | null, { profile }: MemoryKey): void {
  if (!vault) return;
  throw new DeltamemError(
    "integrity",
    `A record of the profile "${profile}" is not encrypted, as it should be.`,
  );
}
