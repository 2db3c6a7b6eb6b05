/**
 * The session inside the worker: one model, its memory in the store, and the place in the line of
 * writers. Owns the rule that the model's memory and the last commit are the same thing: a turn that
 * cannot be committed is taken out of the model again.
 */
import { DeltamemError } from "./errors.js";
import { ProfileChannel, ProfileLock } from "./lock.js";
import { MemoryStore, type MemoryContent, type MemoryKey } from "./memory-store.js";
import type {
  CallContext,
  Handlers,
  MemoryInfo,
  MemoryStates,
  Message,
  OpenRequest,
  Opened,
  Queue,
  SessionState,
  TurnRequest,
  TurnResult,
} from "./messages.js";
import { openModelFiles } from "./model-files.js";
import type {
  LoadModel,
  ModelInfo,
  ModelMemoryInfo,
  ModelTurn,
  WebModel,
  WebSha256,
} from "./wasm.js";

export interface WorkerSessionOptions {
  /** Work that no request asked for joins the requests' queue. */
  queue: Queue;
  /** Gets the wasm module ready; `wasmUrl` is null where it lies beside the worker. */
  prepare(wasmUrl: string | null): Promise<void>;
  loadModel: LoadModel;
  /** May be called once the module is ready. */
  newHash: () => WebSha256;
  onState(state: SessionState): void;
  /** The browser's, unless a test brings its own. */
  locks?: LockManager;
}

/** Where the memory is kept; absent for an ephemeral session. */
interface Home {
  store: MemoryStore;
  key: MemoryKey;
  lock: ProfileLock;
  channel: ProfileChannel;
}

export class WorkerSession {
  readonly handlers: Handlers;
  readonly #options: WorkerSessionOptions;
  #model: WebModel | null = null;
  #info: ModelInfo | null = null;
  #home: Home | null = null;
  #initialPrompts: Message[] = [];
  #generation = 0;
  #isPaused = false;
  #notice: string | null = null;

  constructor(options: WorkerSessionOptions) {
    this.#options = options;
    this.handlers = {
      open: (request, context) => this.#open(request, context),
      turn: (request, context) => this.#changing(() => this.#turn(request, context)),
      newContext: () => this.#changing(() => this.#newContext()),
      measure: async (text) => this.#loaded().measure(text),
      memoryInfo: () => this.#memoryInfo(),
      memoryStates: () => this.#memoryStates(),
      exportMemory: () => this.#withMemory().exportMemory(Date.now()),
      importMemory: (bytes) => this.#changing(() => this.#importMemory(bytes)),
      snapshots: () => this.#snapshots(),
      ledger: async () => (this.#home ? this.#home.store.turns(this.#home.key) : []),
      undo: () => this.#changing(() => this.#undo()),
      forget: () => this.#changing(() => this.#forget()),
      setPaused: (isPaused) => this.#changing(async () => this.#setPaused(isPaused)),
    };
  }

  // ---- opening ------------------------------------------------------------------------------------

  async #open(request: OpenRequest, context: CallContext<"open">): Promise<Opened> {
    if (this.#model) throw new DeltamemError("worker", "this worker has a model already");
    await this.#options.prepare(request.wasmUrl);
    const opened = await openModelFiles({
      modelUrl: request.modelUrl,
      adapterUrl: request.adapterUrl,
      store: "opfs",
      sha256: {},
      signal: context.signal,
      onProgress: (done, total) => context.notify({ stage: "download", done, total }),
      hash: this.#options.newHash,
    });
    const first = request.initialPrompts[0];
    const options = {
      name: request.name,
      weights: request.weights ?? undefined,
      context: request.contextTokens ?? undefined,
      thinking: request.isThinking ?? undefined,
      system: first?.role === "system" ? first.content : undefined,
      date: localDate(new Date()),
    };
    const model = await this.#options
      .loadModel(
        opened.files,
        JSON.stringify(options),
        (done, total) => context.notify({ stage: "load", done, total }),
        () => undefined,
      )
      .finally(() => opened.close());
    context.signal.throwIfAborted();
    this.#model = model;
    this.#info = JSON.parse(model.info()) as ModelInfo;
    this.#initialPrompts = request.initialPrompts;
    await this.#feedInitialPrompts();
    await this.#moveIn(request, this.#info.identity);
    return { model: this.#info, state: this.#state() };
  }

  async #moveIn(request: OpenRequest, identity: string | null): Promise<void> {
    if (request.isEphemeral) return;
    if (identity === null) {
      this.#notice = "This model has no δ-mem adapter, so there is no memory to keep.";
      return;
    }
    let store: MemoryStore;
    try {
      store = await MemoryStore.open();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#notice = `The memory lasts only until this page closes. ${reason}`;
      return;
    }
    const { profile } = request;
    const lock = await ProfileLock.acquire(profile, {
      ...(this.#options.locks && { locks: this.#options.locks }),
      onTakeOver: () => this.#refresh(),
    });
    const channel = new ProfileChannel(profile, (notice) => {
      if (notice.kind === "forgotten" || notice.identity === identity) this.#refresh();
    });
    this.#home = { store, key: { profile, identity }, lock, channel };
    await this.#restoreCommitted();
  }

  /** Frees the model and everything held; the page ends the worker instead. */
  close(): void {
    this.#home?.lock.release();
    this.#home?.channel.close();
    this.#home?.store.close();
    this.#model?.free();
    this.#home = null;
    this.#model = null;
  }

  // ---- conversation -------------------------------------------------------------------------------

  async #turn(request: TurnRequest, context: CallContext<"turn">): Promise<TurnResult> {
    const model = this.#loaded();
    const { text, ...options } = request;
    const isWriting = this.#canWrite();
    const before = this.#info?.identity ? await this.#modelMemory() : null;
    let turn: ModelTurn;
    try {
      const json = await model.turn(
        text,
        JSON.stringify({ ...options, write: isWriting }),
        (kind, piece) => {
          context.notify({ kind, text: piece });
          return !context.signal.aborted;
        },
      );
      turn = JSON.parse(json) as ModelTurn;
    } catch (error) {
      await this.#restoreCommitted();
      throw error;
    }
    const home = this.#home;
    if (!home || !before || !isWriting) return { turn, isCommitted: false };
    await this.#commit(home, async () => {
      const after = await this.#modelMemory();
      const content = await this.#content(after);
      return home.store.commitTurn(home.key, this.#generation, content, {
        savedMs: content.savedMs,
        prompt: text,
        reply: turn.answer,
        tokensWritten: after.counters.tokensWritten - before.counters.tokensWritten,
        normBefore: before.norm,
        normAfter: after.norm,
      });
    });
    return { turn, isCommitted: true };
  }

  async #newContext(): Promise<null> {
    await this.#loaded().newContext();
    await this.#feedInitialPrompts();
    return null;
  }

  /** The model knows the system message since load; what follows it is fed as history. */
  async #feedInitialPrompts(): Promise<void> {
    if (this.#initialPrompts.some(({ role }) => role !== "system")) {
      await this.#loaded().resume(JSON.stringify(this.#initialPrompts));
    }
  }

  // ---- memory -------------------------------------------------------------------------------------

  async #memoryInfo(): Promise<MemoryInfo> {
    return { ...(await this.#modelMemory()), generation: this.#generation };
  }

  async #modelMemory(): Promise<ModelMemoryInfo> {
    return JSON.parse(await this.#withMemory().memoryInfo(Date.now())) as ModelMemoryInfo;
  }

  async #memoryStates(): Promise<MemoryStates> {
    const info = await this.#modelMemory();
    const data = await this.#withMemory().memoryStates();
    const layers = info.layers.map(({ layer }) => layer);
    return { layers, stateHeads: info.stateHeads, rank: info.rank, data };
  }

  async #importMemory(bytes: Uint8Array): Promise<null> {
    const model = this.#withMemory();
    this.#requireWritable();
    await model.importMemory(bytes);
    const home = this.#home;
    if (home) {
      await this.#commit(home, async () => {
        const content = await this.#content(await this.#modelMemory());
        return home.store.commitMemory(home.key, this.#generation, content);
      });
    }
    return null;
  }

  async #snapshots() {
    const snapshots = this.#home ? await this.#home.store.snapshots(this.#home.key) : [];
    return snapshots.map(({ generation, savedMs, norm }) => ({ generation, savedMs, norm }));
  }

  async #undo(): Promise<null> {
    const model = this.#withMemory();
    this.#requireWritable();
    const home = this.#home;
    const newest = home ? (await home.store.snapshots(home.key))[0] : undefined;
    if (home && !newest) throw nothingToUndo();
    // A turn of this context leaves the context too; an older one is only in the ring.
    const isInContext = await model.undoTurn();
    if (!home || !newest) {
      if (!isInContext) throw nothingToUndo();
      return null;
    }
    await this.#commit(home, async () => {
      if (!isInContext) await this.#write(newest.bytes);
      const content = await this.#content(await this.#modelMemory());
      return home.store.undo(home.key, this.#generation, content);
    });
    return null;
  }

  /** Storage first: if the page dies in between, nothing can come back. */
  async #forget(): Promise<null> {
    const model = this.#withMemory();
    this.#requireWritable();
    await this.#home?.store.forget(this.#home.key.profile);
    this.#generation = 0;
    await model.forget();
    this.#home?.channel.post({ kind: "forgotten" });
    return this.#newContext();
  }

  #setPaused(isPaused: boolean): null {
    this.#withMemory().setWritePaused(isPaused);
    this.#isPaused = isPaused;
    return null;
  }

  // ---- store and model in step --------------------------------------------------------------------

  /** Makes a commit; if it fails, the model goes back to what is stored. */
  async #commit(home: Home, make: () => Promise<number>): Promise<void> {
    try {
      this.#generation = await make();
    } catch (error) {
      await this.#restoreCommitted();
      throw error;
    }
    home.channel.post({ kind: "committed", identity: home.key.identity });
  }

  async #content(info: ModelMemoryInfo): Promise<MemoryContent> {
    const savedMs = Date.now();
    const bytes = await this.#withMemory().exportMemory(savedMs);
    return { bytes, savedMs, norm: info.norm };
  }

  /** Puts the stored memory, or the empty one, into the model. */
  async #restoreCommitted(): Promise<void> {
    if (!this.#home) return;
    const record = await this.#home.store.read(this.#home.key);
    await this.#write(record?.bytes ?? null);
    this.#generation = record?.generation ?? 0;
  }

  async #write(bytes: Uint8Array | null): Promise<void> {
    const model = this.#withMemory();
    await (bytes ? model.importMemory(bytes) : model.forget());
  }

  /** Another tab has committed, or this one may write from now on. */
  #refresh(): void {
    void this.#options.queue.run(async () => {
      try {
        await this.#restoreCommitted();
      } catch (error) {
        this.#notice = `The memory could not be read again: ${String(error)}`;
      }
      this.#options.onState(this.#state());
    });
  }

  async #changing<T>(job: () => Promise<T>): Promise<T> {
    try {
      return await job();
    } finally {
      if (this.#model) this.#options.onState(this.#state());
    }
  }

  #state(): SessionState {
    return {
      contextUsage: this.#model?.contextUsage() ?? 0,
      generation: this.#generation,
      isReadOnly: !this.#canWrite(),
      isEphemeral: this.#home === null,
      isPaused: this.#isPaused,
      notice: this.#notice,
    };
  }

  #canWrite(): boolean {
    return this.#home === null || this.#home.lock.isHeld;
  }

  #requireWritable(): void {
    if (this.#canWrite()) return;
    throw new DeltamemError(
      "read_only",
      "Another tab writes to this memory. Close it, and this tab takes over.",
    );
  }

  #loaded(): WebModel {
    if (!this.#model) throw new DeltamemError("worker", "no model is loaded");
    return this.#model;
  }

  #withMemory(): WebModel {
    if (this.#info && this.#info.identity === null) {
      throw new DeltamemError("no_memory", "The model was loaded without a δ-mem adapter.");
    }
    return this.#loaded();
  }
}

function nothingToUndo(): DeltamemError {
  return new DeltamemError("nothing_to_undo", "There is nothing to undo.");
}

/** YYYY-MM-DD where the person is. */
function localDate(date: Date): string {
  const month = String(date.getMonth() + 1).padStart(2, "0");
  return `${date.getFullYear()}-${month}-${String(date.getDate()).padStart(2, "0")}`;
}
