/**
 * `LanguageModel` in the shape of Chrome's Prompt API, and with a memory. It is an export of this
 * package and never touches `window.LanguageModel`; importing it touches no browser global.
 */
import { DeltamemError, abortError } from "./errors.js";
import {
  type PromptInput,
  type PromptMessage,
  type Tool,
  begunIn,
  constraintOf,
  describeTools,
  initialPromptsOf,
  messagesOf,
  questionOf,
} from "./input.js";
import type { Caller } from "./messages.js";
import { modelName } from "./model-address.js";
import {
  type CloneOptions,
  type CompareOptions,
  type CompleteOptions,
  type ConnectOptions,
  type CreateOptions,
  type InspectOptions,
  type PromptOptions,
  type SessionOptions,
  type TurnReport,
  modelRequest,
} from "./options.js";
import type {
  Availability,
  Inspection,
  Message,
  OpenProgress,
  Opened,
  SessionEvent,
  SessionState,
  ToolDescription,
  TurnRequest,
} from "./protocol.js";
import { DEFAULT_PREFIX_BYTES, clearPrefixes, prefixBytes } from "./prefix-store.js";
import { SessionMemory } from "./session-memory.js";
import { type WorkerHandle, hasGpu, startServer, startWorker } from "./start-worker.js";
import { runTools } from "./tools.js";
import { listStoredModels, removeStoredModel } from "./stored-models.js";
import type { ModelInfo, ModelTurnOptions } from "./wasm.js";

export type {
  CloneOptions,
  CompareOptions,
  CompleteOptions,
  ConnectOptions,
  CreateMonitor,
  CreateOptions,
  InspectOptions,
  PromptOptions,
  TurnReport,
} from "./options.js";

const DEFAULT_PROFILE = "default";
/** Rounds of tools within one prompt. */
const MAX_TOOL_ROUNDS = 8;

/**
 * A conversation with a model. Fires `turn` (a `CustomEvent<TurnReport>`) after each reply,
 * `memorychange` when the memory, who may write it, or the context has changed, `contextoverflow`
 * when messages had to leave the window, `devicelost` (a `CustomEvent<{ reason }>`) when the GPU was
 * lost, and `devicerestored` when model, memory and context are there again.
 */
export class LanguageModel extends EventTarget {
  /** The models whose weights are on this device. */
  static readonly weights = { list: listStoredModels, remove: removeStoredModel } as const;
  /** What `prefixCache` keeps on this device: the bytes of all models', and away with them. */
  static readonly prefixes = { bytes: prefixBytes, clear: clearPrefixes } as const;

  /** What can be seen of the memory, and done with it. */
  readonly memory: SessionMemory;
  /** The model as it was loaded. */
  readonly model: ModelInfo;
  /** Why the weights are not kept on the device, if they are not. */
  readonly weightsNotice: string | null;
  /** True if model and memory are on a server, not in this browser. */
  readonly isOnServer: boolean;
  /** Called when messages had to leave the window. */
  oncontextoverflow: ((event: Event) => void) | null = null;
  readonly #worker: WorkerHandle;
  readonly #caller: Caller;
  readonly #tools: Tool[];
  #state: SessionState;
  #isPersistenceAsked = false;
  #isPersisted: boolean | null = null;

  private constructor(worker: WorkerHandle, place: Place, opened: Opened, tools: Tool[]) {
    super();
    this.#worker = worker;
    this.#caller = place.caller;
    this.#tools = tools;
    this.#state = opened.state;
    this.model = opened.model;
    this.weightsNotice = opened.weightsNotice;
    this.isOnServer = worker.isServer ?? false;
    this.memory = new SessionMemory(place.caller, () => this.#state);
    place.onEvent = (event) => this.#receive(event);
  }

  /**
   * `unavailable` without WebGPU, or if the model does not fit; `available` if its files are on the
   * device. Without a model it only tells whether there is a GPU.
   */
  static async availability(options: Partial<InspectOptions> = {}): Promise<Availability> {
    const { model } = options;
    if (model !== undefined) return (await LanguageModel.inspect({ ...options, model })).availability;
    return (await hasGpu(options.worker ?? true)) ? "downloadable" : "unavailable";
  }

  /** What there is to know of a model before it is loaded: sizes, room, and whether it fits. */
  static async inspect(options: InspectOptions): Promise<Inspection> {
    if (!(await hasGpu(options.worker ?? true))) {
      return { ...NOTHING_KNOWN, reason: noGpu().message };
    }
    const worker = await startWorker(options);
    try {
      const caller = worker.connection.openSession(() => undefined);
      return await caller.call("inspect", modelRequest(options));
    } finally {
      worker.end();
    }
  }

  /**
   * Loads a model and its memory in a worker of its own. Rejects with a `DeltamemError`, or with the
   * signal's reason.
   */
  static async create(options: CreateOptions): Promise<LanguageModel> {
    const { signal, monitor, tools = [] } = options;
    signal?.throwIfAborted();
    const about = sessionRequest(options);
    if (!(await hasGpu(options.worker ?? true))) throw noGpu();
    signal?.throwIfAborted();
    const target = new EventTarget();
    monitor?.(target);
    const worker = await startWorker(options);
    const place = new Place(worker);
    // Loading does not look up in the middle of a step: an abort ends the worker.
    const giveUp = () => worker.connection.close(abortError("The model was given up while loading."));
    signal?.addEventListener("abort", giveUp);
    try {
      const request = modelRequest(options);
      const opened = await place.caller.call(
        "open",
        {
          ...request,
          ...about,
          name: options.name ?? modelName(request.modelUrl),
          store: options.store ?? "opfs",
          prefixBytes: prefixBytesOf(options.prefixCache),
          sha256: options.sha256 ?? {},
          passphrase: options.passphrase ?? null,
        },
        { signal, onNotice: (progress) => report(target, progress) },
      );
      return new LanguageModel(worker, place, opened, tools);
    } catch (error) {
      worker.end();
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", giveUp);
    }
  }

  /**
   * Converses with the model that a `deltamem serve` has loaded, and with the memories that it keeps;
   * no GPU is needed here. Rejects with a `DeltamemError`, with the code `network` if nobody answers
   * and `invalid_api_key` if the token is missing or wrong.
   */
  static async connect(options: ConnectOptions): Promise<LanguageModel> {
    const { signal, server, token, tools = [] } = options;
    signal?.throwIfAborted();
    const about = sessionRequest(options);
    const request = modelRequest({ model: server });
    const worker = await startServer(request.modelUrl, token ?? null);
    const place = new Place(worker);
    const others = {
      name: "",
      store: "none" as const,
      prefixBytes: null,
      sha256: {},
      passphrase: null,
    };
    const opened = await place.caller.call("open", { ...request, ...about, ...others }, { signal });
    return new LanguageModel(worker, place, opened, tools);
  }

  /** Tokens in the context window. */
  get contextUsage(): number {
    return this.#state.contextUsage;
  }

  /** Tokens that fit into the context window. */
  get contextWindow(): number {
    return this.model.contextWindow;
  }

  /** Whether the browser promised to keep the memory; null before it was asked. */
  get isPersisted(): boolean | null {
    return this.#isPersisted;
  }

  /**
   * The whole reply; what tools were called for on the way, they have done. Of one that was begun by the
   * prompt (`prefix`) it is what follows.
   */
  async prompt(input: PromptInput, options: PromptOptions = {}): Promise<string> {
    return this.#converse(questionOf(input), options, () => undefined);
  }

  /** The reply in pieces as they form. Cancelling the stream ends the reply, as an abort does. */
  promptStreaming(input: PromptInput, options: PromptOptions = {}): ReadableStream<string> {
    return streamOf(options, async (inner, onAnswer) =>
      this.#converse(questionOf(input), inner, onAnswer),
    );
  }

  /**
   * Answers a whole history, the system message included. What of it was processed already is
   * recognised and not fed, nor written into the memory, again. Tools are not executed: the calls
   * are in the report.
   */
  async complete(history: PromptMessage[], options: CompleteOptions = {}): Promise<TurnReport> {
    const { tools, toolChoice, parallelToolCalls, onAnswer, ...others } = options;
    const request = turnRequest(questionOf(history), others);
    request.isHistory = true;
    if (tools) request.tools = describeTools(tools);
    Object.assign(request.settings, callSettings(request.tools ?? [], options));
    return this.#turn(request, others, (text) => onAnswer?.(text));
  }

  /**
   * Answers the same prompt with the same seed twice: with the memory, and without it, in a context
   * that was read without it. Conversation, memory and store stay as they were.
   */
  async compare(
    input: PromptInput,
    options: CompareOptions = {},
  ): Promise<{ on: TurnReport; off: TurnReport }> {
    const { onPiece, signal, ...others } = options;
    const { on, off } = await this.#caller.call(
      "compare",
      turnRequest(questionOf(input), others),
      {
        signal,
        onNotice: ({ side, kind, text }) => {
          if (kind === "answer") onPiece?.(side, text);
        },
      },
    );
    return { on: { ...on, isCommitted: false }, off: { ...off, isCommitted: false } };
  }

  /** Takes the last question and its reply back, out of the memory too, and asks it again. */
  async regenerate(options: PromptOptions = {}): Promise<string> {
    return this.#converse(await this.#takeBack(options), options, () => undefined);
  }

  /** As `regenerate`, in pieces as they form. */
  regenerateStreaming(options: PromptOptions = {}): ReadableStream<string> {
    return streamOf(options, async (inner, onAnswer) =>
      this.#converse(await this.#takeBack(inner), inner, onAnswer),
    );
  }

  /** Adds messages without answering them; they are written into the memory as those of a turn. */
  async append(input: PromptInput, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    const messages = messagesOf(input);
    const { evictedMessages } = await this.#caller.call("append", messages, { signal });
    this.#noteOverflow(evictedMessages);
  }

  /** A second conversation on the same weights, with what context and memory are now. */
  async clone({ signal, profile, passphrase }: CloneOptions = {}): Promise<LanguageModel> {
    const place = new Place(this.#worker);
    try {
      const state = await place.caller.call(
        "clone",
        {
          session: this.#caller.session,
          profile: profile ?? null,
          passphrase: passphrase ?? null,
        },
        { signal },
      );
      const { model, weightsNotice } = this;
      const opened = { model, weightsNotice, state };
      const clone = new LanguageModel(this.#worker, place, opened, this.#tools);
      if (signal?.aborted) clone.destroy();
      signal?.throwIfAborted();
      return clone;
    } catch (error) {
      place.caller.close(abortError("The clone was not made."));
      throw error;
    }
  }

  /** Tokens that `input` would take, without what the chat template puts around it. */
  async measureContextUsage(input: PromptInput): Promise<number> {
    return this.#caller.call("measure", messagesOf(input).map(({ content }) => content));
  }

  /** The messages in the context, the initial prompts included. */
  history(): Promise<Message[]> {
    return this.#caller.call("history", null);
  }

  /** Empties the context but for the initial prompts; the memory stays. */
  async newContext(): Promise<void> {
    await this.#caller.call("newContext", null);
  }

  /**
   * Ends this session; the worker and its model end with the last of its sessions. A turn under way
   * is lost, what was committed stays.
   */
  destroy(): void {
    const { connection, session } = this.#caller;
    const isLast = this.#caller.close(abortError("The session was destroyed."));
    if (isLast) this.#worker.end();
    else connection.call(session, "close", null, {}).catch(() => undefined);
  }

  async #takeBack({ signal }: PromptOptions): Promise<Message[]> {
    return this.#caller.call("takeBack", null, { signal });
  }

  /** Turns until the model calls no more tools; all that it answered. */
  async #converse(
    messages: Message[],
    options: PromptOptions,
    onAnswer: (text: string) => void,
  ): Promise<string> {
    let answer = "";
    for (let round = 0; ; round += 1) {
      const turn = await this.#turn(turnRequest(messages, options), options, onAnswer);
      answer += turn.answer;
      if (round === MAX_TOOL_ROUNDS) return answer;
      const results = await runTools(this.#tools, turn.toolCalls);
      options.signal?.throwIfAborted();
      if (!results) return answer;
      messages = results;
    }
  }

  async #turn(
    request: TurnRequest,
    { signal, onThought }: PromptOptions,
    onAnswer: (text: string) => void,
  ): Promise<TurnReport> {
    const { turn, isCommitted } = await this.#caller.call("turn", request, {
      signal,
      onNotice: ({ kind, text }) => (kind === "answer" ? onAnswer(text) : onThought?.(text)),
    });
    if (isCommitted && !this.isOnServer) void this.#askForPersistence();
    const detail: TurnReport = { ...turn, isCommitted };
    this.#noteOverflow(turn.evictedMessages);
    this.dispatchEvent(new CustomEvent<TurnReport>("turn", { detail }));
    if (turn.stopReason === "cancelled") signal?.throwIfAborted();
    return detail;
  }

  #noteOverflow(evictedMessages: number): void {
    if (evictedMessages === 0) return;
    const event = new CustomEvent("contextoverflow", { detail: { evictedMessages } });
    this.dispatchEvent(event);
    this.oncontextoverflow?.(event);
  }

  /** Once there is something to lose, the browser is asked not to drop it. */
  async #askForPersistence(): Promise<void> {
    if (this.#isPersistenceAsked) return;
    this.#isPersistenceAsked = true;
    const storage = globalThis.navigator?.storage;
    this.#isPersisted = (await storage?.persist?.().catch(() => false)) ?? false;
    this.dispatchEvent(new Event("memorychange"));
  }

  #receive(event: SessionEvent): void {
    if (event.kind === "state") {
      this.#state = event.state;
      this.dispatchEvent(new Event("memorychange"));
    } else if (event.kind === "devicelost") {
      const detail = { reason: event.reason };
      this.dispatchEvent(new CustomEvent("devicelost", { detail }));
    } else {
      this.dispatchEvent(new Event("devicerestored"));
    }
  }
}

/** A session's place in the worker, before there is a `LanguageModel` to hear of it. */
class Place {
  onEvent: (event: SessionEvent) => void = () => undefined;
  readonly caller: Caller;

  constructor(worker: WorkerHandle) {
    this.caller = worker.connection.openSession((event) => this.onEvent(event));
  }
}

const NOTHING_KNOWN: Inspection = {
  availability: "unavailable",
  reason: null,
  downloadBytes: 0,
  storedBytes: 0,
  quotaBytes: null,
  usageBytes: null,
  footprint: null,
};

function noGpu(): DeltamemError {
  return new DeltamemError(
    "no_adapter",
    "This browser offers no WebGPU adapter. Use a current Chrome, Edge, Firefox or Safari, on https or localhost, with hardware acceleration on.",
  );
}

/** What a session is opened with, wherever its model is. */
function sessionRequest(options: SessionOptions) {
  return {
    isThinking: options.thinking ?? null,
    initialPrompts: initialPromptsOf(options.initialPrompts ?? []),
    tools: describeTools(options.tools ?? []),
    profile: options.profile ?? DEFAULT_PROFILE,
    isEphemeral: options.ephemeral ?? false,
  };
}

function turnRequest(messages: Message[], options: PromptOptions): TurnRequest {
  // What follows is everything that can be cloned into the worker.
  const { signal, onThought, responseConstraint, omitResponseConstraintInput, ...others } = options;
  const settings = {
    ...others,
    ...(begunIn(messages) !== null && { continueFinalMessage: true }),
  };
  return {
    messages,
    isHistory: false,
    settings:
      responseConstraint === undefined
        ? settings
        : { ...settings, constraint: constraintOf(responseConstraint) },
  };
}

/** Most calls that a reply is made to have at once. */
const MAX_CALLS = 16;

/** What makes a reply call tools, or only one. Throws `unsupported` and `setting`. */
function callSettings(
  tools: ToolDescription[],
  { toolChoice = "auto", parallelToolCalls = true, responseConstraint }: CompleteOptions,
): Pick<ModelTurnOptions, "constraint" | "maxToolCalls"> {
  const most = parallelToolCalls && typeof toolChoice === "string" ? MAX_CALLS : 1;
  const settings = most === 1 ? { maxToolCalls: 1 } : {};
  if (toolChoice === "auto") return settings;
  const named = typeof toolChoice === "string" ? null : toolChoice.name;
  const wanted = named === null ? tools : tools.filter(({ name }) => name === named);
  if (wanted.length === 0) {
    const what = named === null ? "there are no tools" : `there is no tool "${named}"`;
    throw new DeltamemError("setting", `toolChoice: a call is wanted, and ${what}.`);
  }
  if (responseConstraint !== undefined) {
    throw new DeltamemError("unsupported", "toolChoice: a reply that must be a call is held to no other constraint.");
  }
  return { ...settings, constraint: { kind: "tool_calls", tools: wanted, most } };
}

/** A stream of what `run` says; cancelling it aborts the signal that `run` gets. */
function streamOf<O extends PromptOptions>(
  options: O,
  run: (options: O, onAnswer: (text: string) => void) => Promise<unknown>,
): ReadableStream<string> {
  const cancelled = new AbortController();
  const signal = options.signal
    ? AbortSignal.any([options.signal, cancelled.signal])
    : cancelled.signal;
  return new ReadableStream<string>({
    start: (controller) => {
      run({ ...options, signal }, (text) => {
        if (!cancelled.signal.aborted) controller.enqueue(text);
      })
        .then(() => {
          if (!cancelled.signal.aborted) controller.close();
        })
        .catch((error: unknown) => {
          if (!cancelled.signal.aborted) controller.error(error);
        });
    },
    cancel: (reason) => cancelled.abort(reason),
  });
}

function report(target: EventTarget, { stage, done, total }: OpenProgress): void {
  const type = stage === "download" ? "downloadprogress" : "loadprogress";
  const loaded = total > 0 ? Math.min(done / total, 1) : 0;
  target.dispatchEvent(new ProgressEvent(type, { lengthComputable: true, loaded, total: 1 }));
}

/** The most bytes that kept contexts may take; null without them. */
function prefixBytesOf(option: CreateOptions["prefixCache"]): number | null {
  if (!option) return null;
  const { bytes = DEFAULT_PREFIX_BYTES } = option === true ? {} : option;
  if (!Number.isSafeInteger(bytes) || bytes < 0) {
    throw new RangeError(`prefixCache.bytes is ${bytes}, expected a number of bytes`);
  }
  return bytes;
}
