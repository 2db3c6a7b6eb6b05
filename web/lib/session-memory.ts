/** `session.memory`: what a person can see of a memory and do with it. */
import { DeltamemError } from "./errors.js";
import type { Caller } from "./messages.js";
import type {
  LedgerEntry,
  MemoryInfo,
  MemoryStates,
  ProfileInfo,
  SessionState,
  SnapshotInfo,
} from "./protocol.js";

/** The type of exported files; they are called `name.dmem`. */
export const MEMORY_FILE_TYPE = "application/octet-stream";
/** Largest memory file that is accepted, in bytes; docs/memory-format.md, with room for a wrapping. */
const MAX_MEMORY_FILE_BYTES = 64 * 1024 * 1024 + 1024;

export interface FileOptions {
  /** Encrypts the file, or decrypts it. */
  passphrase?: string;
}

export class SessionMemory {
  readonly #caller: Caller;
  readonly #state: () => SessionState;

  /** Made by the session. */
  constructor(caller: Caller, state: () => SessionState) {
    this.#caller = caller;
    this.#state = state;
  }

  /** True while another tab writes to this profile; turns read the memory then and leave it as it is. */
  get readOnly(): boolean {
    return this.#state().isReadOnly;
  }

  /** True if nothing is stored. */
  get ephemeral(): boolean {
    return this.#state().isEphemeral;
  }

  /** True between `pause()` and `resume()`. */
  get paused(): boolean {
    return this.#state().isPaused;
  }

  /** True if what is stored is encrypted with a passphrase. */
  get encrypted(): boolean {
    return this.#state().isEncrypted;
  }

  /** Counts the commits of this memory, those of an ephemeral session too; 0 = none yet. */
  get generation(): number {
    return this.#state().generation;
  }

  /** Why nothing is stored, if that was not asked for. */
  get notice(): string | null {
    return this.#state().notice;
  }

  /** Norms, counters, dimensions, and the bytes that the last commit stored. */
  info(): Promise<MemoryInfo> {
    return this.#caller.call("memoryInfo", null);
  }

  /** The states themselves, for drawing. */
  states(): Promise<MemoryStates> {
    return this.#caller.call("memoryStates", null);
  }

  /**
   * The memory as a `.dmem` file, the same as the native program's; with a passphrase it is
   * encrypted, which only this package reads (docs/memory-format.md).
   */
  async export({ passphrase }: FileOptions = {}): Promise<Blob> {
    const payload = { passphrase: passphrase ?? null };
    const bytes = await this.#caller.call("exportMemory", payload);
    return new Blob([bytes as Uint8Array<ArrayBuffer>], { type: MEMORY_FILE_TYPE });
  }

  /** Replaces the memory by a `.dmem` file; `undo` takes it back. A file that does not fit changes nothing. */
  async import(file: Blob, { passphrase }: FileOptions = {}): Promise<void> {
    if (file.size > MAX_MEMORY_FILE_BYTES) {
      throw new DeltamemError(
        "format",
        `This file has ${file.size} bytes; a memory has at most ${MAX_MEMORY_FILE_BYTES}.`,
      );
    }
    const bytes = new Uint8Array(await file.arrayBuffer());
    await this.#caller.call("importMemory", { bytes, passphrase: passphrase ?? null });
  }

  /** The memories that were replaced and can be had again, newest first. */
  snapshots(): Promise<SnapshotInfo[]> {
    return this.#caller.call("snapshots", null);
  }

  /**
   * What is behind the memory, oldest first: turns, and what else was written or replaced. The
   * turns among them are enough to show a conversation again after a reload.
   */
  ledger(): Promise<LedgerEntry[]> {
    return this.#caller.call("ledger", null);
  }

  /** Takes the last change back, out of the memory and, if it is there, out of the context. */
  async undo(): Promise<void> {
    await this.#caller.call("undo", null);
  }

  /**
   * Puts the snapshot of this generation in the memory's place; the context stays. It is a change
   * like any other: `undo` takes it back.
   */
  async restore(generation: number): Promise<void> {
    await this.#caller.call("restore", generation);
  }

  /** Writes a text into the memory without adding it to the context. */
  write(
    text: string,
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<{ tokensWritten: number }> {
    return this.#caller.call("writeMemory", text, { signal });
  }

  /** Deletes states, snapshots, turns and keys of this profile and empties the context. */
  async forget(): Promise<void> {
    await this.#caller.call("forget", null);
  }

  /** Turns no longer write; they still read. */
  async pause(): Promise<void> {
    await this.#caller.call("setPaused", true);
  }

  /** Turns write again. */
  async resume(): Promise<void> {
    await this.#caller.call("setPaused", false);
  }

  /** All memories in this browser's database, of all profiles and models. */
  profiles(): Promise<ProfileInfo[]> {
    return this.#caller.call("profiles", null);
  }

  /** Deletes another profile with all that is in it; no passphrase is needed. `busy` if a tab uses it. */
  async forgetProfile(profile: string): Promise<void> {
    await this.#caller.call("forgetProfile", profile);
  }

  /** Encrypts what this profile stores, changes its passphrase, or (null) decrypts it. */
  async setPassphrase(passphrase: string | null): Promise<void> {
    await this.#caller.call("setPassphrase", passphrase);
  }
}
