/**
 * A memory in the model and in its home, in step: what is committed is what the model had, and what
 * the model has after a failure is what was committed last.
 */
import { clearPrefixes } from "./prefix-store.js";
import type { HomeSnapshot, MemoryHome } from "./memory-home.js";
import type { MemoryContent, NewEntry } from "./memory-schema.js";
import type { ModelHost } from "./model-host.js";
import type { LedgerKind } from "./protocol.js";
import type { ModelMemoryInfo, WebModel } from "./wasm.js";

/** What is known of a ledger entry before the model was asked how it changed. */
export type EntryDraft = Partial<Omit<NewEntry, "kind">> & { kind: LedgerKind };

export class CommittedMemory {
  readonly home: MemoryHome;
  readonly #host: ModelHost;
  #generation: number;

  constructor(host: ModelHost, home: MemoryHome, generation = 0) {
    this.#host = host;
    this.home = home;
    this.#generation = generation;
  }

  /** Counts the commits; 0 = none yet. */
  get generation(): number {
    return this.#generation;
  }

  /** The memory as the model has it. */
  async info(): Promise<ModelMemoryInfo> {
    const json = await this.#host.call((model) => model.memoryInfo(Date.now()));
    return JSON.parse(json) as ModelMemoryInfo;
  }

  /** Commits what the model has; `before` is how it was before. Gives the generation. */
  async commit(before: ModelMemoryInfo, draft: EntryDraft): Promise<number> {
    const after = await this.info();
    const content = await this.#content(after);
    const isReplaced = draft.kind === "import" || draft.kind === "restore";
    const tokens = after.counters.tokensWritten - before.counters.tokensWritten;
    this.#generation = await this.home.commit(this.#generation, content, {
      prompt: "",
      promptRole: "user",
      reply: "",
      thoughts: "",
      toolCalls: [],
      savedMs: content.savedMs,
      // After a rollback the counters can be lower than before.
      tokensWritten: isReplaced ? 0 : Math.max(tokens, 0),
      normBefore: before.norm,
      normAfter: after.norm,
      ...draft,
    });
    return this.#generation;
  }

  /** Takes the last commit back; `isBack` says that the model's memory is that of `newest` already. */
  async undo(newest: HomeSnapshot, isBack: boolean): Promise<void> {
    const isSame = (norm: number) => Math.abs(norm - newest.norm) <= 1e-6 * Math.max(1, newest.norm);
    if (!isBack || !isSame((await this.info()).norm)) await this.put(newest.bytes);
    try {
      const content = await this.#content(await this.info());
      this.#generation = await this.home.undo(this.#generation, content);
    } catch (error) {
      await this.restore().catch(() => undefined); // the first error is the one to tell
      throw error;
    }
  }

  /** Storage first: if the page dies in between, nothing can come back. */
  async forget(): Promise<void> {
    await this.home.forget();
    // what was read with it can still encode something of it
    await clearPrefixes();
    this.#generation = 0;
    await this.put(null);
  }

  /** Puts what was committed, or the empty memory, into the model. */
  async restore(): Promise<void> {
    const record = await this.home.read();
    await this.put(record?.bytes ?? null);
    this.#generation = record?.generation ?? 0;
  }

  /** Asks the home how far it is, while the model is another session's. */
  async refreshGeneration(): Promise<void> {
    this.#generation = (await this.home.read())?.generation ?? 0;
  }

  /** As `restore`, if the model's memory is not that of `before`. */
  async restoreUnless(before: ModelMemoryInfo): Promise<void> {
    const after = await this.info();
    if (contentOf(after) !== contentOf(before)) await this.restore();
  }

  /** Puts a `.dmem` file, or the empty memory, into the model. */
  put(bytes: Uint8Array | null): Promise<void> {
    const change = (model: WebModel) => (bytes ? model.importMemory(bytes) : model.forget());
    return this.#host.call(change);
  }

  async #content(info: ModelMemoryInfo): Promise<MemoryContent> {
    const savedMs = Date.now();
    const bytes = await this.#host.call((model) => model.exportMemory(savedMs));
    return { bytes, savedMs, norm: info.norm };
  }
}

/** What tells whether a memory was written to. */
function contentOf({ norm, layers, counters }: ModelMemoryInfo): string {
  return JSON.stringify([norm, layers, counters]);
}
