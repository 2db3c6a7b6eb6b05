/** `session.memory`: what a person can see of a memory and do with it. */
import { DeltamemError } from "./errors.js";
import type {
  Caller,
  LedgerEntry,
  MemoryInfo,
  MemoryStates,
  SessionState,
  SnapshotInfo,
} from "./messages.js";

/** The type of exported files; they are called `name.dmem`. */
export const MEMORY_FILE_TYPE = "application/octet-stream";
/** Largest memory file that is accepted, in bytes; docs/memory-format.md. */
const MAX_MEMORY_FILE_BYTES = 64 * 1024 * 1024;

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

  /** Counts the commits of this memory; 0 = nothing is stored. */
  get generation(): number {
    return this.#state().generation;
  }

  /** Why nothing is stored, if that was not asked for. */
  get notice(): string | null {
    return this.#state().notice;
  }

  /** Norms, counters, dimensions. */
  info(): Promise<MemoryInfo> {
    return this.#caller.call("memoryInfo", null);
  }

  /** The states themselves, for drawing. */
  states(): Promise<MemoryStates> {
    return this.#caller.call("memoryStates", null);
  }

  /** The memory as a `.dmem` file, the same as the native program's. */
  async export(): Promise<Blob> {
    const bytes = await this.#caller.call("exportMemory", null);
    return new Blob([bytes as Uint8Array<ArrayBuffer>], { type: MEMORY_FILE_TYPE });
  }

  /** Replaces the memory by a `.dmem` file; `undo` takes it back. A file that does not fit changes nothing. */
  async import(file: Blob): Promise<void> {
    if (file.size > MAX_MEMORY_FILE_BYTES) {
      throw new DeltamemError(
        "format",
        `This file has ${file.size} bytes; a memory has at most ${MAX_MEMORY_FILE_BYTES}.`,
      );
    }
    await this.#caller.call("importMemory", new Uint8Array(await file.arrayBuffer()));
  }

  /** The memories that `undo` goes back to, newest first. */
  snapshots(): Promise<SnapshotInfo[]> {
    return this.#caller.call("snapshots", null);
  }

  /** The turns that are behind the memory, oldest first. */
  ledger(): Promise<LedgerEntry[]> {
    return this.#caller.call("ledger", null);
  }

  /** Takes the last turn or import back, out of the memory and, if it is there, out of the context. */
  async undo(): Promise<void> {
    await this.#caller.call("undo", null);
  }

  /** Deletes the states, snapshots and turns of this profile and empties the context. */
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
}
