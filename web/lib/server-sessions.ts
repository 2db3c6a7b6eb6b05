/**
 * Sessions whose model runs in `deltamem serve` instead of in a worker. They answer the same calls, so
 * that `LanguageModel` and everything above it need not know the difference. The server keeps the
 * memories and recognises histories; owned here is what a session is between two requests: its
 * messages, its profile, and what can be taken back.
 */
import { DeltamemError, codeOf } from "./errors.js";
import { begunIn } from "./input.js";
import type { CallContext, Handlers } from "./messages.js";
import type {
  CallName,
  Calls,
  LedgerEntry,
  MemoryInfo,
  MemoryStates,
  Message,
  MessageToolCall,
  OpenRequest,
  Opened,
  Piece,
  ProfileInfo,
  SessionEvent,
  SessionState,
  SnapshotInfo,
  ToolDescription,
  TurnRequest,
  TurnResult,
} from "./protocol.js";
import type { Ask, ServerApi, ServerMemory, ServerModel } from "./server-api.js";
import { Reply, requestBody } from "./server-turn.js";
import { Steps, memoryStep, questionIn } from "./steps.js";
import { isSealedFile, openFile, sealFile } from "./vault.js";
import type { ModelInfo, ModelTurn, ToolFormat } from "./wasm.js";

/** What the server allows as a profile's name. */
const PROFILE = /^[a-z0-9_-]{1,64}$/;

export class ServerSessions {
  readonly handlers: Handlers;
  readonly #api: ServerApi;
  readonly #onEvent: (session: number, event: SessionEvent) => void;
  readonly #sessions = new Map<number, ServerSession>();

  constructor(api: ServerApi, onEvent: (session: number, event: SessionEvent) => void) {
    this.#api = api;
    this.#onEvent = onEvent;
    this.handlers = {
      inspect: () => Promise.reject(unsupported("inspecting a model")),
      open: (request, { session, signal }) => this.#open(request, session, signal),
      clone: ({ session, profile }, context) => this.#clone(session, profile, context.session),
      close: async (_, { session }) => done(this.#sessions.delete(session)),
      turn: this.#changing((session, request, { signal, notify }) => session.turn(request, signal, notify)),
      compare: this.#reading(async (session, request, { signal, notify }) => ({
        on: await session.look(request, true, signal, (piece) => notify({ side: "on", ...piece })),
        off: await session.look(request, false, signal, (piece) => notify({ side: "off", ...piece })),
      })),
      takeBack: this.#changing((session) => session.takeBack()),
      append: this.#changing(async (session, messages) => session.append(messages)),
      newContext: this.#changing(async (session) => done(session.newContext())),
      history: this.#reading(async (session) => session.history),
      measure: this.#reading((session, texts) => session.measure(texts)),
      memoryInfo: this.#reading((session) => session.memoryInfo()),
      memoryStates: this.#reading((session) => session.memoryStates()),
      exportMemory: this.#reading((session, { passphrase }) => session.exportMemory(passphrase)),
      importMemory: this.#changing(async (session, { bytes, passphrase }) =>
        done(await session.importMemory(bytes, passphrase)),
      ),
      snapshots: this.#reading((session) => session.snapshots()),
      restore: this.#changing(async (session, generation) => done(await session.restore(generation))),
      ledger: this.#reading((session) => session.ledger()),
      writeMemory: this.#changing((session, text, { signal }) => session.writeMemory(text, signal)),
      undo: this.#changing(async (session) => done(await session.undo())),
      forget: this.#changing(async (session) => done(await session.forget())),
      setPaused: this.#changing(async (session, isPaused) => done((session.isPaused = isPaused))),
      setPassphrase: () => Promise.reject(unsupported("a passphrase for what the server stores")),
      profiles: () => this.#profiles(),
      forgetProfile: async (profile) =>
        done(await api.json("POST", "v1/memory/forget", { profile: checked(profile) })),
    };
  }

  async #open(request: OpenRequest, id: number, signal: AbortSignal): Promise<Opened> {
    const { data } = await this.#api.json<{ data: ServerModel[] }>("GET", "v1/models", { signal });
    const model = data[0];
    if (!model?.deltamem) throw new DeltamemError("unsupported", "This is no server of deltamem.");
    const session = new ServerSession(this.#api, model, {
      profile: checked(request.profile),
      initialPrompts: request.initialPrompts,
      tools: request.tools,
      isThinking: request.isThinking,
    });
    if (request.isEphemeral) session.beEphemeral(false);
    await session.refresh();
    this.#sessions.set(id, session);
    return { model: session.info, state: session.state(), weightsNotice: null };
  }

  async #clone(source: number, profile: string | null, id: number): Promise<SessionState> {
    const clone = this.#session(source).copy();
    if (profile === null) clone.beEphemeral(true);
    else await clone.branch(checked(profile));
    this.#sessions.set(id, clone);
    return clone.state();
  }

  async #profiles(): Promise<ProfileInfo[]> {
    type Listed = {
      profile: string;
      bytes: number;
      header: { identity: string; counters: { generation: number }; updated_ms: number; error?: object };
    };
    const { data } = await this.#api.json<{ data: Listed[] }>("GET", "v1/memory/profiles");
    return data
      .filter(({ header }) => !header.error)
      .map(({ profile, bytes, header }) => ({
        profile,
        identity: header.identity,
        generation: header.counters.generation,
        savedMs: header.updated_ms,
        norm: null,
        isEncrypted: false,
        bytes,
      }));
  }

  #session(id: number): ServerSession {
    const session = this.#sessions.get(id);
    if (!session) throw new DeltamemError("worker", "no model is loaded");
    return session;
  }

  #reading<K extends CallName>(
    job: (
      session: ServerSession,
      payload: Calls[K]["payload"],
      context: CallContext<K>,
    ) => Promise<Calls[K]["result"]>,
  ): Handlers[K] {
    const handler = async (payload: Calls[K]["payload"], context: CallContext<K>) =>
      job(this.#session(context.session), payload, context);
    return handler as Handlers[K];
  }

  /** As `#reading`, and tells the page of the state after it. */
  #changing<K extends CallName>(
    job: (
      session: ServerSession,
      payload: Calls[K]["payload"],
      context: CallContext<K>,
    ) => Promise<Calls[K]["result"]>,
  ): Handlers[K] {
    return this.#reading<K>(async (session, payload, context) => {
      try {
        return await job(session, payload, context);
      } finally {
        this.#onEvent(context.session, { kind: "state", state: session.state() });
      }
    });
  }
}

interface Begin {
  profile: string;
  initialPrompts: Message[];
  tools: ToolDescription[];
  isThinking: boolean | null;
}

/** Which memory a session reads, and whether it is written. */
type Use = "kept" | "read" | "none";

class ServerSession {
  readonly info: ModelInfo;
  history: Message[];
  isPaused = false;
  readonly #api: ServerApi;
  readonly #model: ServerModel;
  #begin: Begin;
  #steps = new Steps();
  #use: Use = "kept";
  #isThinking: boolean | null;
  #toolFormat: ToolFormat = "template";
  #usage = 0;
  #generation = 0;

  constructor(api: ServerApi, model: ServerModel, begin: Begin) {
    this.#api = api;
    this.#model = model;
    this.#begin = begin;
    this.#isThinking = begin.isThinking;
    this.history = begin.initialPrompts;
    const { adapter, identity, weights, kv, notice, thinking: canThink } = model.deltamem;
    const contextWindow = model.context_window;
    this.info = { name: model.id, identity, adapter, contextWindow, weights, kv, notice, canThink };
  }

  copy(): ServerSession {
    const copy = new ServerSession(this.#api, this.#model, this.#begin);
    copy.history = this.history;
    copy.isPaused = this.isPaused;
    copy.#use = this.#use;
    copy.#isThinking = this.#isThinking;
    copy.#toolFormat = this.#toolFormat;
    copy.#usage = this.#usage;
    copy.#generation = this.#generation;
    return copy;
  }

  /** Writes nothing from now on; it reads the profile's memory if `isReading`, or none. */
  beEphemeral(isReading: boolean): void {
    this.#use = isReading && this.#use !== "none" ? "read" : "none";
    this.#steps.clear();
  }

  /** Goes on in another profile, which takes a copy of the memory. */
  async branch(profile: string): Promise<void> {
    if (await this.#isStored()) {
      const ask = { profile: this.#begin.profile, body: { to: profile } };
      await this.#api.json("POST", "v1/memory/branch", ask);
    }
    this.#begin = { ...this.#begin, profile };
    await this.refresh();
  }

  /** Reads how far the memory is. */
  async refresh(): Promise<void> {
    this.#generation = (await this.#found<ServerLedger>("v1/memory/ledger"))?.generation ?? 0;
  }

  state(): SessionState {
    return {
      contextUsage: this.#usage,
      generation: this.#generation,
      isReadOnly: false,
      isEphemeral: this.info.identity === null || this.#use !== "kept",
      isPaused: this.isPaused,
      isEncrypted: false,
      notice: null,
    };
  }

  // ---- conversation -------------------------------------------------------------------------------

  async turn(
    request: TurnRequest,
    signal: AbortSignal,
    notify: (piece: Piece) => void,
  ): Promise<TurnResult> {
    const messages = this.#whole(request);
    const isWritten = this.#isWriting && request.settings.write !== false;
    const use = this.#use === "none" ? "none" : isWritten ? "kept" : "read";
    const { turn, generation, calls } = await this.#answer(messages, request, use, signal, notify);
    this.#isThinking = request.settings.thinking ?? this.#isThinking;
    this.#toolFormat = request.settings.toolFormat ?? this.#toolFormat;
    const question = request.isHistory ? questionIn(messages) : request.messages;
    this.#steps.push({
      kind: "turn",
      question,
      messagesBefore: messages.length - question.length,
      generation,
      isRolledBack: false,
    });
    const begun = begunIn(messages);
    const reply: Message = {
      role: "assistant",
      content: (begun ?? "") + turn.answer,
      ...(turn.thoughts && { reasoning: turn.thoughts }),
      ...(calls.length > 0 && { toolCalls: calls }),
    };
    this.history = [...(begun === null ? messages : messages.slice(0, -1)), reply];
    this.#usage = turn.promptTokens + turn.generatedTokens;
    this.#generation = generation ?? this.#generation;
    return { turn, isCommitted: generation !== null };
  }

  /** A reply that leaves no trace, with the memory or without it. */
  async look(
    request: TurnRequest,
    hasMemory: boolean,
    signal: AbortSignal,
    notify: (piece: Piece) => void,
  ): Promise<ModelTurn> {
    const use = hasMemory && this.#use !== "none" ? "read" : "none";
    return (await this.#answer(this.#whole(request), request, use, signal, notify)).turn;
  }

  async takeBack(): Promise<Message[]> {
    const steps = this.#steps.sinceLastQuestion();
    if (!steps) {
      throw new DeltamemError(
        "nothing_to_undo",
        "The last thing in this context is no reply that could be given again.",
      );
    }
    for (const _ of steps) await this.undo();
    return steps[0]?.question ?? [];
  }

  /** The server reads them with the turn that comes next. */
  append(messages: Message[]): { evictedMessages: number } {
    const messagesBefore = this.history.length;
    const step = { kind: "append" as const, question: messages, messagesBefore };
    this.#steps.push({ ...step, generation: null, isRolledBack: false });
    this.history = [...this.history, ...messages];
    return { evictedMessages: 0 };
  }

  newContext(): void {
    this.history = this.#begin.initialPrompts;
    this.#steps.clear();
    this.#usage = 0;
  }

  async measure(texts: string[]): Promise<number> {
    const counts = texts.map((text) =>
      this.#api.json<{ count: number }>("POST", "v1/tokens", { body: { text } }),
    );
    return (await Promise.all(counts)).reduce((sum, { count }) => sum + count, 0);
  }

  // ---- memory -------------------------------------------------------------------------------------

  async memoryInfo(): Promise<MemoryInfo> {
    this.#requireMemory();
    const { layers, num_state_heads: stateHeads, rank } = this.#model.deltamem;
    const memory = await this.#memory();
    if (!memory) {
      const counters = { generation: 0, turns: 0, tokensSeen: 0, tokensWritten: 0, writes: 0 };
      const empty = { norm: 0, layers: layers.map((layer) => ({ layer, norm: 0 })), counters };
      return { ...empty, createdMs: 0, updatedMs: 0, rank, stateHeads, generation: 0, lastCommitBytes: null };
    }
    const { generation, turns, writes, tokens_seen, tokens_written } = memory.counters;
    this.#generation = generation;
    return {
      norm: memory.norm,
      layers: memory.layer_norms,
      counters: { generation, turns, writes, tokensSeen: tokens_seen, tokensWritten: tokens_written },
      createdMs: memory.created_ms,
      updatedMs: memory.updated_ms,
      rank,
      stateHeads,
      generation,
      lastCommitBytes: null,
    };
  }

  async memoryStates(): Promise<MemoryStates> {
    this.#requireMemory();
    const { layers, num_state_heads: stateHeads, rank } = this.#model.deltamem;
    const found = (await this.#isStored()) ? await this.#found<{ data: number[] }>("v1/memory/states") : null;
    const data = Float32Array.from(found?.data ?? []);
    const size = layers.length * stateHeads * rank * rank;
    return { layers, stateHeads, rank, data: data.length === size ? data : new Float32Array(size) };
  }

  async exportMemory(passphrase: string | null): Promise<Uint8Array> {
    this.#requireMemory();
    const file = await this.#api.bytes("v1/memory/export", { profile: this.#begin.profile });
    return passphrase === null ? file : sealFile(file, passphrase);
  }

  async importMemory(bytes: Uint8Array, passphrase: string | null): Promise<void> {
    this.#requireKept();
    if (isSealedFile(bytes) && passphrase === null) {
      throw new DeltamemError("passphrase", "This file is encrypted and needs its passphrase.");
    }
    const file = isSealedFile(bytes) ? await openFile(bytes, passphrase ?? "") : bytes;
    await this.#change("v1/memory/import", file);
    this.#steps.push({ ...memoryStep(), generation: this.#generation });
  }

  /** Without the newest, which is the memory itself. */
  async snapshots(): Promise<SnapshotInfo[]> {
    type Kept = { generation: number; norm: number | null; header: { updated_ms?: number } };
    const found = await this.#found<{ data: Kept[] }>("v1/memory/snapshots");
    const older = (found?.data ?? []).slice(0, -1).reverse();
    return older.flatMap(({ generation, norm, header }) =>
      norm === null ? [] : [{ generation, norm, savedMs: header.updated_ms ?? 0 }],
    );
  }

  async restore(generation: number): Promise<void> {
    this.#requireKept();
    await this.#change("v1/memory/undo", { to: generation });
    this.#steps.push({ ...memoryStep(), generation: this.#generation });
  }

  async ledger(): Promise<LedgerEntry[]> {
    return (await this.#ledger()).map((entry) => ({
      kind: entry.kind,
      generation: entry.generation,
      savedMs: entry.saved_ms,
      prompt: entry.prompt ?? "",
      promptRole: entry.prompt_role ?? "user",
      reply: entry.reply ?? "",
      thoughts: entry.thoughts ?? "",
      toolCalls: [],
      tokensWritten: entry.tokens_written,
      normBefore: entry.norm_before,
      normAfter: entry.norm_after,
    }));
  }

  async writeMemory(text: string, signal: AbortSignal): Promise<{ tokensWritten: number }> {
    this.#requireKept();
    if (this.isPaused) throw new DeltamemError("read_only", "Writing is paused. Resume it first.");
    const ask = { profile: this.#begin.profile, body: { text }, signal };
    const written = await this.#api.json<ServerMemory & { tokens_written: number }>(
      "POST",
      "v1/memory/write",
      ask,
    );
    this.#generation = written.counters.generation;
    this.#steps.push({ ...memoryStep(), generation: this.#generation });
    return { tokensWritten: written.tokens_written };
  }

  /** The last change of the memory, and with it what it was of the context. */
  async undo(): Promise<void> {
    this.#requireMemory();
    const step = this.#steps.last;
    if (step && step.generation === null) return this.#leave();
    this.#requireKept();
    const last = (await this.#ledger()).at(-1);
    if (!last || last.before === null) {
      throw new DeltamemError("nothing_to_undo", "There is nothing to undo.");
    }
    await this.#change("v1/memory/undo", { to: last.before });
    // Others may have written since: then this context's steps are not the newest changes.
    if (step?.generation === last.generation) this.#leave();
    else this.#steps.clear();
  }

  async forget(): Promise<void> {
    this.#requireMemory();
    if (this.#use === "kept") {
      await this.#api.json("POST", "v1/memory/forget", { profile: this.#begin.profile });
    } else {
      this.#use = "none";
    }
    this.#generation = 0;
    this.newContext();
  }

  // ---- requests -----------------------------------------------------------------------------------

  get #isWriting(): boolean {
    return this.#use === "kept" && !this.isPaused;
  }

  #whole({ messages, isHistory }: TurnRequest): Message[] {
    return isHistory ? messages : [...this.history, ...messages];
  }

  async #answer(
    messages: Message[],
    { settings, tools }: TurnRequest,
    use: Use,
    signal: AbortSignal,
    notify: (piece: Piece) => void,
  ): Promise<{ turn: ModelTurn; generation: number | null; calls: MessageToolCall[] }> {
    const body = requestBody(messages, settings, {
      model: this.#model.id,
      tools: tools ?? this.#begin.tools,
      thinking: settings.thinking ?? this.#isThinking,
      toolFormat: settings.toolFormat ?? this.#toolFormat,
      hasMemory: use !== "none",
    });
    const ask: Ask = { body, signal, isWritten: use === "kept" };
    if (use !== "none") ask.profile = this.#begin.profile;
    const reply = new Reply(notify);
    for await (const chunk of this.#api.stream("v1/chat/completions", ask)) reply.add(chunk);
    return reply.finish();
  }

  async #change(path: string, body: object | Uint8Array): Promise<void> {
    const { profile } = this.#begin;
    const memory = await this.#api.json<ServerMemory>("POST", path, { profile, body });
    this.#generation = memory.counters.generation;
  }

  /** What is stored of the profile's memory; null if there is none, or this session has none. */
  async #found<T>(path: string): Promise<T | null> {
    if (this.#use === "none" || this.info.identity === null) return null;
    try {
      return await this.#api.json<T>("GET", path, { profile: this.#begin.profile });
    } catch (error) {
      if (codeOf(error) === "memory_not_found") return null;
      throw error;
    }
  }

  /** Whether there is something to ask for: a browser shows every refusal as an error. */
  async #isStored(): Promise<boolean> {
    if (this.#generation === 0) await this.refresh();
    return this.#generation > 0;
  }

  async #memory(): Promise<ServerMemory | null> {
    return (await this.#isStored()) ? this.#found<ServerMemory>("v1/memory") : null;
  }

  async #ledger(): Promise<ServerEntry[]> {
    return (await this.#found<ServerLedger>("v1/memory/ledger"))?.data ?? [];
  }

  /** Takes the newest step out of the context. */
  #leave(): void {
    const step = this.#steps.pop();
    if (typeof step?.messagesBefore !== "number") return;
    this.history = this.history.slice(0, step.messagesBefore);
    if (this.history.length === this.#begin.initialPrompts.length) this.#usage = 0;
  }

  #requireMemory(): void {
    if (this.info.identity !== null) return;
    throw new DeltamemError("no_memory", "The model was loaded without a δ-mem adapter.");
  }

  #requireKept(): void {
    this.#requireMemory();
    if (this.#use === "kept") return;
    throw unsupported("changing the memory of a session that stores nothing");
  }
}

interface ServerLedger {
  /** The newest; 0 if nothing is stored. */
  generation: number;
  data: ServerEntry[];
}

/** A line of the server's ledger. */
interface ServerEntry {
  kind: "turn" | "write" | "import";
  generation: number;
  /** What undoing it restores: 0 is the empty memory, null that it is not kept. */
  before: number | null;
  saved_ms: number;
  prompt: string | null;
  prompt_role: "user" | "tool" | null;
  reply: string | null;
  thoughts: string | null;
  tokens_written: number;
  norm_before: number;
  norm_after: number;
}

function checked(profile: string): string {
  if (PROFILE.test(profile)) return profile;
  const message = `The server keeps profiles under 1 to 64 of a-z, 0-9, - and _; "${profile}" is none.`;
  throw new DeltamemError("setting", message);
}

function unsupported(what: string): DeltamemError {
  return new DeltamemError("unsupported", `With a model on a server there is no ${what}.`);
}

/** Nothing to tell but that it is done. */
const done = (_: unknown): null => null;
