/**
 * One session inside the worker: a context and a memory. Owns the rule that the two and the store stay
 * in step: what cannot be committed is taken out of the model again, and what fails or is cancelled
 * leaves nothing behind.
 */
import { CommittedMemory, type EntryDraft } from "./committed-memory.js";
import { DeltamemError, reasonOf } from "./errors.js";
import { begunIn } from "./input.js";
import { type MemoryHome, VolatileHome, contentsOf } from "./memory-home.js";
import type { CallContext } from "./messages.js";
import { type ContextState, ModelContext } from "./model-context.js";
import type { Guest, ModelHost } from "./model-host.js";
import type {
  CompareResult,
  LedgerEntry,
  LedgerKind,
  MemoryInfo,
  MemoryStates,
  Message,
  SessionState,
  SnapshotInfo,
  ToolDescription,
  TurnRequest,
  TurnResult,
} from "./protocol.js";
import { clearPrefixes } from "./prefix-store.js";
import { memoryStep, questionIn } from "./steps.js";
import { isSealedFile, openFile, sealFile } from "./vault.js";
import type { ModelMemoryInfo, ModelTurn, PieceKind, ToolFormat } from "./wasm.js";

export interface ConversationOptions {
  host: ModelHost;
  /** Null for a model without δ-mem. */
  home: MemoryHome | null;
  /** Begins every context. */
  initialPrompts: Message[];
  tools: ToolDescription[];
  /** Why nothing is kept, if that was not asked for. */
  notice: string | null;
  onState(state: SessionState): void;
  /** Runs a job after what is under way. */
  enqueue(job: () => Promise<void>): void;
}

export class Conversation implements Guest {
  readonly #options: ConversationOptions;
  readonly #host: ModelHost;
  readonly #memory: CommittedMemory | null;
  /** JSON; what `tools` goes back to after a call that brought its own. */
  readonly #ownTools: string;
  tools: string;
  #context: ModelContext;
  #isPaused = false;
  #isThinking: boolean | null = null;
  #toolFormat: ToolFormat | undefined;
  #notice: string | null;
  /** Another tab has committed while another session was in the model. */
  #isStale = false;
  #isClosed = false;

  constructor(options: ConversationOptions, generation = 0) {
    this.#options = options;
    this.#host = options.host;
    this.#memory = options.home && new CommittedMemory(options.host, options.home, generation);
    this.#ownTools = JSON.stringify(options.tools);
    this.tools = this.#ownTools;
    this.#context = new ModelContext(options.host, options.initialPrompts);
    this.#notice = options.notice;
  }

  /** Puts the initial prompts and the stored memory into the model. */
  async open(): Promise<void> {
    await this.#host.use(this);
    this.#context.settle();
  }

  /** A second conversation that begins where this one is; without a home it is forgotten when it ends. */
  async clone(
    home: MemoryHome | null,
    onState: (state: SessionState) => void,
  ): Promise<Conversation> {
    await this.#use();
    const source = this.home;
    const place = source && (home ?? new VolatileHome(await contentsOf(source)));
    const clone = new Conversation(
      { ...this.#options, home: place, notice: null, onState },
      this.#memory?.generation,
    );
    clone.tools = this.tools;
    clone.#context = this.#context.copy();
    clone.#isPaused = this.#isPaused;
    clone.#isThinking = this.#isThinking;
    clone.#toolFormat = this.#toolFormat;
    await this.#host.branch(this, clone);
    return clone;
  }

  /** Leaves the model and the profile. */
  close(): void {
    this.#isClosed = true;
    this.#host.dismiss(this);
    this.home?.close();
  }

  get home(): MemoryHome | null {
    return this.#memory?.home ?? null;
  }

  get mayKeepPrefixes(): boolean {
    return this.home !== null && this.home.isDurable && !this.home.isEncrypted;
  }

  get isPaused(): boolean {
    return this.#isPaused;
  }

  async refill(): Promise<void> {
    await this.#memory?.restore();
    await this.#context.refill();
  }

  // ---- conversation -------------------------------------------------------------------------------

  async turn(request: TurnRequest, { signal, notify }: CallContext<"turn">): Promise<TurnResult> {
    await this.#use();
    const tools = request.tools ? JSON.stringify(request.tools) : this.#ownTools;
    this.#host.setTools(this, tools);
    const isWriting = this.#canWrite() && request.settings.write !== false;
    const before = await this.#memoryBefore();
    const turn = await this.#reversibly(before, () =>
      this.#answer(request, isWriting, signal, (kind, text) => notify({ kind, text })),
    );
    this.#isThinking = request.settings.thinking ?? this.#isThinking;
    this.#toolFormat = request.settings.toolFormat ?? this.#toolFormat;
    const question = questionIn(request.messages);
    const context = this.#context.addTurn(question, turn);
    const begun = begunIn(question);
    const asked = begun === null ? question : question.slice(0, -1);
    const isCommitted = await this.#commitStep(isWriting, before, context, {
      kind: "turn",
      prompt: textOf(asked),
      promptRole: asked.at(-1)?.role ?? "user",
      reply: (begun ?? "") + turn.answer,
      thoughts: turn.thoughts,
      toolCalls: turn.toolCalls,
    });
    return { turn, isCommitted };
  }

  async append(messages: Message[], signal: AbortSignal): Promise<{ evictedMessages: number }> {
    await this.#use();
    const isWriting = this.#canWrite();
    const before = await this.#memoryBefore();
    const options = JSON.stringify({ write: isWriting, overflow: "evict" });
    const json = await this.#reversibly(before, () =>
      this.#host.call((model) => model.append(JSON.stringify(messages), options), signal),
    );
    const { evictedMessages } = JSON.parse(json) as { evictedMessages: number };
    const context = this.#context.addMessages(messages, evictedMessages);
    await this.#commitStep(isWriting, before, context, {
      kind: "append",
      prompt: textOf(messages),
      promptRole: messages.at(-1)?.role ?? "user",
    });
    return { evictedMessages };
  }

  /**
   * The same turn with and without the memory, on copies of the conversation. Without means: an empty
   * memory, and a context that was read with it empty.
   */
  async compare(
    request: TurnRequest,
    { signal, notify }: CallContext<"compare">,
  ): Promise<CompareResult> {
    await this.#use();
    this.#host.setTools(this, this.#ownTools);
    const seed = request.settings.seed ?? Math.floor(Math.random() * 2 ** 32);
    const seeded = { ...request, settings: { ...request.settings, seed } };
    // Each side spoils the conversation in the model; whatever happens, the next call gets the copy.
    await this.#host.setAside(this);
    const on = await this.#answer(seeded, this.#canWrite(), signal, (kind, text) =>
      notify({ side: "on", kind, text }),
    );
    await this.#host.use(this);
    await this.#host.setAside(this);
    await this.#memory?.put(null);
    await this.#context.refill();
    const off = await this.#answer(seeded, false, signal, (kind, text) =>
      notify({ side: "off", kind, text }),
    );
    await this.#host.use(this);
    return { on, off };
  }

  /** The last question is taken back with all that followed it: the reply, and tools' results. */
  async takeBack(): Promise<Message[]> {
    await this.#use();
    const steps = this.#context.steps.sinceLastQuestion();
    if (!steps) {
      throw new DeltamemError(
        "nothing_to_undo",
        "The last thing in this context is no reply that could be given again.",
      );
    }
    if (steps.some(({ generation }) => generation !== null)) this.#requireWritable();
    for (const _ of steps) await this.#undoStep();
    return steps[0]?.question ?? [];
  }

  async newContext(): Promise<void> {
    await this.#use();
    this.#host.setTools(this, this.#ownTools);
    await this.#context.renew();
  }

  history(): Message[] {
    return this.#context.history();
  }

  async measure(texts: string[]): Promise<number> {
    await this.#use();
    return texts.reduce((sum, text) => sum + this.#host.model.measure(text), 0);
  }

  // ---- memory -------------------------------------------------------------------------------------

  async memoryInfo(): Promise<MemoryInfo> {
    const memory = await this.#useMemory();
    const { generation, home } = memory;
    return { ...(await memory.info()), generation, lastCommitBytes: home.lastCommitBytes };
  }

  async memoryStates(): Promise<MemoryStates> {
    const { layers, stateHeads, rank } = await (await this.#useMemory()).info();
    const data = await this.#host.call((model) => model.memoryStates());
    return { layers: layers.map(({ layer }) => layer), stateHeads, rank, data };
  }

  async exportMemory(passphrase: string | null): Promise<Uint8Array> {
    await this.#useMemory();
    const file = await this.#host.call((model) => model.exportMemory(Date.now()));
    return passphrase === null ? file : sealFile(file, passphrase);
  }

  async importMemory(bytes: Uint8Array, passphrase: string | null): Promise<void> {
    const memory = await this.#useMemory();
    this.#requireWritable();
    if (isSealedFile(bytes) && passphrase === null) {
      throw new DeltamemError("passphrase", "This file is encrypted and needs its passphrase.");
    }
    const file = isSealedFile(bytes) ? await openFile(bytes, passphrase ?? "") : bytes;
    await this.#replace(memory, "import", file);
  }

  async snapshots(): Promise<SnapshotInfo[]> {
    const snapshots = (await this.home?.snapshots()) ?? [];
    return snapshots.map(({ generation, savedMs, norm }) => ({ generation, savedMs, norm }));
  }

  async ledger(): Promise<LedgerEntry[]> {
    return (await this.home?.ledger()) ?? [];
  }

  async restore(generation: number): Promise<void> {
    const memory = await this.#useMemory();
    this.#requireWritable();
    const snapshots = await memory.home.snapshots();
    const wanted = snapshots.find((snapshot) => snapshot.generation === generation);
    if (!wanted) {
      throw new DeltamemError("no_snapshot", `There is no snapshot of generation ${generation}.`);
    }
    await this.#replace(memory, "restore", wanted.bytes);
  }

  async writeMemory(text: string, signal: AbortSignal): Promise<{ tokensWritten: number }> {
    const memory = await this.#useMemory();
    this.#requireWritable();
    if (this.#isPaused) {
      throw new DeltamemError("read_only", "Writing is paused. Resume it first.");
    }
    const before = await memory.info();
    const json = await this.#reversibly(before, () =>
      this.#host.call((model) => model.write(text), signal),
    );
    this.#context.steps.push(memoryStep());
    await this.#commitStep(true, before, this.#context.now(), { kind: "write", prompt: text });
    return JSON.parse(json) as { tokensWritten: number };
  }

  async undo(): Promise<void> {
    const memory = await this.#useMemory();
    this.#requireWritable();
    if (this.#context.steps.last) return this.#undoStep();
    const newest = (await memory.home.snapshots())[0];
    if (!newest) throw nothingToUndo();
    await memory.undo(newest, false);
  }

  async forget(): Promise<void> {
    const memory = await this.#useMemory();
    this.#requireWritable();
    await memory.forget();
    await this.newContext();
  }

  async setPaused(isPaused: boolean): Promise<void> {
    await this.#useMemory();
    this.#isPaused = isPaused;
    this.#host.model.setWritePaused(isPaused);
  }

  async setPassphrase(passphrase: string | null): Promise<void> {
    const { home } = await this.#useMemory();
    // kept contexts were read with the memory, and lie in the clear
    if (passphrase !== null) await clearPrefixes();
    await home.setPassphrase(passphrase);
  }

  // ---- what the page is told ----------------------------------------------------------------------

  /** Another tab has committed, or this one may write from now on. */
  refresh(): void {
    this.#options.enqueue(async () => {
      const memory = this.#memory;
      if (this.#isClosed || !memory) return;
      try {
        if (this.#host.isActive(this)) await memory.restore();
        else {
          this.#isStale = true;
          await memory.refreshGeneration();
        }
        this.#notice = this.#options.notice;
      } catch (error) {
        this.#isStale = true;
        this.#notice = `The memory could not be read again. ${reasonOf(error)}`;
      }
      this.postState();
    });
  }

  postState(): void {
    if (!this.#isClosed) this.#options.onState(this.state());
  }

  state(): SessionState {
    return {
      contextUsage: this.#context.state.usage,
      generation: this.#memory?.generation ?? 0,
      isReadOnly: !this.#canWrite(),
      isEphemeral: !(this.home?.isDurable ?? false),
      isPaused: this.#isPaused,
      isEncrypted: this.home?.isEncrypted ?? false,
      notice: this.#notice,
    };
  }

  // ---- model and store in step --------------------------------------------------------------------

  async #use(): Promise<void> {
    await this.#host.use(this);
    if (!this.#isStale) return;
    await this.#memory?.restore();
    this.#isStale = false;
  }

  async #useMemory(): Promise<CommittedMemory> {
    if (!this.#memory) {
      throw new DeltamemError("no_memory", "The model was loaded without a δ-mem adapter.");
    }
    await this.#use();
    return this.#memory;
  }

  async #answer(
    { messages, isHistory, settings }: TurnRequest,
    isWriting: boolean,
    signal: AbortSignal,
    onPiece: (kind: PieceKind, text: string) => void,
  ): Promise<ModelTurn> {
    const thinking = settings.thinking ?? this.#isThinking ?? undefined;
    const overflow = settings.overflow ?? "evict";
    const toolFormat = settings.toolFormat ?? this.#toolFormat;
    const options = JSON.stringify({ ...settings, overflow, thinking, toolFormat, write: isWriting });
    const input = JSON.stringify(messages);
    const hear = (kind: PieceKind, text: string) => {
      onPiece(kind, text);
      return !signal.aborted;
    };
    const json = await this.#host.call(
      (model) =>
        isHistory ? model.turnFrom(input, options, hear) : model.turn(input, options, hear),
      signal,
    );
    return JSON.parse(json) as ModelTurn;
  }

  async #memoryBefore(): Promise<ModelMemoryInfo | null> {
    return (await this.#memory?.info()) ?? null;
  }

  /** Runs a change; if it fails, context and memory are again what they were. */
  async #reversibly<T>(before: ModelMemoryInfo | null, change: () => Promise<T>): Promise<T> {
    try {
      return await change();
    } catch (error) {
      // The model takes back what it can. After the loss of the device it is refilled anyway.
      if (this.#host.isActive(this)) {
        if (before) await this.#memory?.restoreUnless(before);
        await this.#context.refillUnlessSame();
      }
      throw error;
    }
  }

  /** Commits the newest step if it wrote; if that fails, it is taken back. True if it is stored. */
  async #commitStep(
    isWriting: boolean,
    before: ModelMemoryInfo | null,
    context: ContextState,
    draft: EntryDraft,
  ): Promise<boolean> {
    const [memory, step] = [this.#memory, this.#context.steps.last];
    const isCommitting = memory && before && step && isWriting && !this.#isPaused;
    if (isCommitting) {
      try {
        step.generation = await memory.commit(before, draft);
      } catch (error) {
        if (this.#host.isActive(this)) {
          await this.#context.leave();
          await memory.restore();
        } else {
          this.#context.steps.pop();
        }
        throw error;
      }
    }
    this.#context.settle(context);
    return Boolean(isCommitting && memory.home.isDurable);
  }

  /** Puts another memory in the place of the present one, and commits that. */
  async #replace(
    memory: CommittedMemory,
    kind: LedgerKind,
    bytes: Uint8Array | null,
  ): Promise<void> {
    const before = await memory.info();
    await this.#reversibly(before, () => memory.put(bytes));
    this.#context.steps.push(memoryStep());
    await this.#commitStep(true, before, this.#context.now(), { kind });
  }

  /** Takes the newest step back: out of the context if it is there, and out of the store if it was committed. */
  async #undoStep(): Promise<void> {
    const memory = this.#memory;
    const { steps } = this.#context;
    const step = steps.last;
    if (!step) throw nothingToUndo();
    if (memory && step.generation !== null) {
      const newest = (await memory.home.snapshots())[0];
      if (!newest) throw nothingToUndo();
      if (newest.replacedBy === step.generation) {
        const isMemoryBack = await this.#context.leave();
        this.#context.settle();
        await memory.undo(newest, isMemoryBack);
      } else {
        // Another tab wrote since: the steps of this context are not the newest changes any more.
        steps.clear();
        await memory.undo(newest, false);
      }
    } else {
      await this.#context.leave();
      this.#context.settle();
    }
  }

  #canWrite(): boolean {
    return this.home?.isWritable ?? true;
  }

  #requireWritable(): void {
    if (this.#canWrite()) return;
    throw new DeltamemError(
      "read_only",
      "Another tab writes to this memory. Close it, and this tab takes over.",
    );
  }
}

function textOf(messages: Message[]): string {
  return messages.map(({ content }) => content).join("\n\n");
}

function nothingToUndo(): DeltamemError {
  return new DeltamemError("nothing_to_undo", "There is nothing to undo.");
}
