/**
 * `LanguageModel` in the shape of Chrome's Prompt API, and with a memory. It is an export of this
 * package and never touches `window.LanguageModel`; importing it touches no browser global.
 */
import { DeltamemError, abortError } from "./errors.js";
import {
  Caller,
  type Message,
  type OpenProgress,
  type Opened,
  type Port,
  type SessionState,
  type ToPage,
  type ToWorker,
  type TurnRequest,
  type TurnResult,
  type Weights,
} from "./messages.js";
import { SessionMemory } from "./session-memory.js";
import type { ModelInfo, ModelTurn } from "./wasm.js";

export type Availability = "unavailable" | "downloadable" | "downloading" | "available";

/**
 * Fires `downloadprogress` while the files come and `loadprogress` while the weights go to the GPU;
 * both are `ProgressEvent`s with `loaded` from 0 to 1.
 */
export type CreateMonitor = EventTarget;

export interface CreateOptions {
  /** Address of a folder in Hugging Face's layout. */
  model: string | URL;
  /** What to call the model; by default the folder's name. */
  name?: string;
  /** Address of the δ-mem adapter's folder; by default it is looked for beside the model. */
  adapter?: string | URL;
  /** How the weights are kept on the GPU. */
  weights?: Weights;
  /** Context window in tokens; by default the model's. */
  contextTokens?: number;
  /** Whether the model thinks before it answers; by default what its name suggests. */
  thinking?: boolean;
  /** Begins every context: at most one system message, first, then user and assistant messages. */
  initialPrompts?: Message[];
  /** Whose memory it is; one per person or project. */
  profile?: string;
  /** Stores nothing and begins with an empty memory. */
  ephemeral?: boolean;
  signal?: AbortSignal;
  monitor?: (monitor: CreateMonitor) => void;
  /** Where `deltamem_bg.wasm` is; by default beside the worker. */
  wasmUrl?: string | URL;
  /** Where `worker.js` is; by default beside this module. */
  workerUrl?: string | URL;
}

export interface PromptOptions extends Omit<TurnRequest, "text"> {
  /**
   * Ends the reply; the call rejects when it has. What was said until then stays in context and
   * memory; `memory.undo()` takes it back.
   */
  signal?: AbortSignal;
  /** Gets the thoughts as they form; they are no part of the reply. */
  onThought?: (text: string) => void;
}

/** What the event `turn` carries. */
export interface TurnReport extends ModelTurn {
  /** True if the turn and the memory after it are in the store. */
  isCommitted: boolean;
}

const DEFAULT_PROFILE = "default";

/**
 * A conversation with a model. Fires `turn` (a `CustomEvent<TurnReport>`) after each reply, and
 * `memorychange` when the memory, who may write it, or the context has changed.
 */
export class LanguageModel extends EventTarget {
  /** What can be seen of the memory, and done with it. */
  readonly memory: SessionMemory;
  /** The model as it was loaded. */
  readonly model: ModelInfo;
  readonly #worker: Worker;
  readonly #caller: Caller;
  #state: SessionState;
  #isPersistenceAsked = false;
  #isPersisted: boolean | null = null;

  private constructor(worker: Worker, caller: Caller, opened: Opened) {
    super();
    this.#worker = worker;
    this.#caller = caller;
    this.#state = opened.state;
    this.model = opened.model;
    this.memory = new SessionMemory(caller, () => this.#state);
  }

  /**
   * `unavailable` without WebGPU or without an adapter, else `downloadable`: weights are not kept on
   * the device yet, only in the browser's HTTP cache.
   */
  static async availability(): Promise<Availability> {
    const gpu = (globalThis.navigator as NavigatorWithGpu | undefined)?.gpu;
    if (!gpu || typeof Worker === "undefined") return "unavailable";
    const adapter = await gpu.requestAdapter().catch(() => null);
    return adapter ? "downloadable" : "unavailable";
  }

  /**
   * Loads a model and its memory in a worker of its own. Rejects with a `DeltamemError`, or with the
   * signal's reason.
   */
  static async create(options: CreateOptions): Promise<LanguageModel> {
    const { signal, monitor } = options;
    signal?.throwIfAborted();
    const initialPrompts = options.initialPrompts ?? [];
    checkInitialPrompts(initialPrompts);
    if ((await LanguageModel.availability()) === "unavailable") {
      throw new DeltamemError(
        "no_adapter",
        "This browser offers no WebGPU adapter. Use a current Chrome, Edge, Firefox or Safari, on https or localhost, with hardware acceleration on.",
      );
    }
    signal?.throwIfAborted();
    const target = new EventTarget();
    monitor?.(target);
    // Bundlers recognise exactly this expression and bring the worker along.
    const worker = options.workerUrl
      ? new Worker(options.workerUrl, { type: "module" })
      : new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    const modelUrl = folderUrl(options.model);
    let session: LanguageModel | null = null;
    const caller = new Caller(worker as Port<ToPage, ToWorker>, (state) => {
      if (session) session.#update(state);
    });
    worker.addEventListener("error", (event) => {
      const reason = event.message || "it could not be loaded";
      caller.close(new DeltamemError("worker", `The worker failed: ${reason}.`));
    });
    // Loading does not look up in the middle of a step: an abort ends the worker.
    const giveUp = () => caller.close(abortError("The model was given up while loading."));
    signal?.addEventListener("abort", giveUp);
    try {
      const opened = await caller.call(
        "open",
        {
          name: options.name ?? folderName(modelUrl),
          modelUrl,
          adapterUrl: options.adapter === undefined ? null : folderUrl(options.adapter),
          wasmUrl: options.wasmUrl === undefined ? null : absoluteUrl(options.wasmUrl),
          weights: options.weights ?? null,
          contextTokens: options.contextTokens ?? null,
          isThinking: options.thinking ?? null,
          initialPrompts,
          profile: options.profile ?? DEFAULT_PROFILE,
          isEphemeral: options.ephemeral ?? false,
        },
        { onNotice: (progress) => report(target, progress) },
      );
      session = new LanguageModel(worker, caller, opened);
      return session;
    } catch (error) {
      worker.terminate();
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", giveUp);
    }
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

  /** The whole reply. */
  async prompt(input: string | Message[], options: PromptOptions = {}): Promise<string> {
    const result = await this.#turn(input, options, () => undefined);
    return result.turn.answer;
  }

  /** The reply in pieces as they form. Cancelling the stream ends the reply, as an abort does. */
  promptStreaming(input: string | Message[], options: PromptOptions = {}): ReadableStream<string> {
    const cancelled = new AbortController();
    const signal = options.signal
      ? AbortSignal.any([options.signal, cancelled.signal])
      : cancelled.signal;
    return new ReadableStream<string>({
      start: (controller) => {
        this.#turn(input, { ...options, signal }, (text) => {
          if (!cancelled.signal.aborted) controller.enqueue(text);
        })
          .then(() => controller.close())
          .catch((error: unknown) => {
            if (!cancelled.signal.aborted) controller.error(error);
          });
      },
      cancel: (reason) => cancelled.abort(reason),
    });
  }

  /** Tokens that `input` would take, without what the chat template puts around it. */
  measureContextUsage(input: string | Message[]): Promise<number> {
    return this.#caller.call("measure", textOf(input));
  }

  /** Empties the context but for the initial prompts; the memory stays. */
  async newContext(): Promise<void> {
    await this.#caller.call("newContext", null);
  }

  /** Ends the worker. A turn under way is lost, what was committed stays. */
  destroy(): void {
    this.#caller.close(abortError("The session was destroyed."));
    this.#worker.terminate();
  }

  async #turn(
    input: string | Message[],
    options: PromptOptions,
    onAnswer: (text: string) => void,
  ): Promise<TurnResult> {
    const { signal, onThought, ...sampling } = options;
    const result = await this.#caller.call(
      "turn",
      { text: textOf(input), ...sampling },
      {
        signal,
        onNotice: ({ kind, text }) => (kind === "answer" ? onAnswer(text) : onThought?.(text)),
      },
    );
    if (result.isCommitted) void this.#askForPersistence();
    const detail: TurnReport = { ...result.turn, isCommitted: result.isCommitted };
    this.dispatchEvent(new CustomEvent<TurnReport>("turn", { detail }));
    if (result.turn.stopReason === "cancelled") signal?.throwIfAborted();
    return result;
  }

  /** Once there is something to lose, the browser is asked not to drop it. */
  async #askForPersistence(): Promise<void> {
    if (this.#isPersistenceAsked) return;
    this.#isPersistenceAsked = true;
    this.#isPersisted = (await navigator.storage?.persist?.().catch(() => false)) ?? false;
    this.dispatchEvent(new Event("memorychange"));
  }

  #update(state: SessionState): void {
    this.#state = state;
    this.dispatchEvent(new Event("memorychange"));
  }
}

/** The little of WebGPU's types that is asked here. */
interface NavigatorWithGpu {
  gpu?: { requestAdapter(): Promise<unknown> };
}

function checkInitialPrompts(prompts: Message[]): void {
  prompts.forEach(({ role, content }, index) => {
    const isKnown = role === "system" || role === "user" || role === "assistant";
    if (!isKnown || typeof content !== "string" || (role === "system" && index > 0)) {
      throw new DeltamemError(
        "messages",
        `initialPrompts[${index}]: expected text from "user" or "assistant", or first of all from "system".`,
      );
    }
  });
}

/** The text of a prompt: a string or one user message. */
function textOf(input: string | Message[]): string {
  if (typeof input === "string") return input;
  const [message, ...others] = input;
  if (message?.role !== "user" || typeof message.content !== "string" || others.length > 0) {
    throw new DeltamemError("messages", "A prompt is a string or one message of the role `user`.");
  }
  return message.content;
}

function absoluteUrl(url: string | URL): string {
  return new URL(url, globalThis.location?.href).href;
}

/** With a slash at the end, so that file names are resolved inside it. */
function folderUrl(url: string | URL): string {
  const absolute = new URL(absoluteUrl(url));
  if (!absolute.pathname.endsWith("/")) absolute.pathname += "/";
  return absolute.href;
}

function folderName(url: string): string {
  return decodeURIComponent(new URL(url).pathname.split("/").at(-2) ?? "") || "model";
}

function report(target: EventTarget, { stage, done, total }: OpenProgress): void {
  const type = stage === "download" ? "downloadprogress" : "loadprogress";
  const loaded = total > 0 ? Math.min(done / total, 1) : 0;
  target.dispatchEvent(new ProgressEvent(type, { lengthComputable: true, loaded, total: 1 }));
}
