/**
 * What page and worker say to each other: requests with ids, results, errors, notices on the way,
 * and events nobody asked for. Owns the order too: the worker runs one request after the other.
 */
import { DeltamemError, abortError, errorFromWire, errorToWire, type WireError } from "./errors.js";
import type { ModelInfo, ModelMemoryInfo, ModelTurn, PieceKind } from "./wasm.js";

export type Role = "system" | "user" | "assistant";

export interface Message {
  role: Role;
  content: string;
}

/** How the weights are kept on the GPU. */
export type Weights = "f32" | "f16" | "q8" | "q4";

export interface OpenRequest {
  /** What to call the model. */
  name: string;
  /** Folders in Hugging Face's layout, as absolute addresses that end with a slash. */
  modelUrl: string;
  adapterUrl: string | null;
  wasmUrl: string | null;
  weights: Weights | null;
  /** In tokens. */
  contextTokens: number | null;
  isThinking: boolean | null;
  /** Begins every context; the first may be a system message. */
  initialPrompts: Message[];
  profile: string;
  isEphemeral: boolean;
}

/** Bytes downloaded, or weights put on the GPU. */
export interface OpenProgress {
  stage: "download" | "load";
  done: number;
  total: number;
}

/** What the page keeps of the worker's state; sent whenever it changes. */
export interface SessionState {
  contextUsage: number;
  /** Counts the commits of this memory; 0 = nothing is stored. */
  generation: number;
  isReadOnly: boolean;
  isEphemeral: boolean;
  isPaused: boolean;
  /** Why nothing is kept, if the caller did not ask for that. */
  notice: string | null;
}

export interface Opened {
  model: ModelInfo;
  state: SessionState;
}

export interface TurnRequest {
  text: string;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: number;
  maxTokens?: number;
  stop?: string[];
}

export interface Piece {
  kind: PieceKind;
  text: string;
}

export interface TurnResult {
  turn: ModelTurn;
  /** True if the turn and the memory after it are in the store. */
  isCommitted: boolean;
}

/** A memory with its place in the store. */
export interface MemoryInfo extends ModelMemoryInfo {
  /** Counts the commits of this memory; 0 = nothing is stored. */
  generation: number;
}

/** The states of all layers: `[layers, stateHeads, rank, rank]`, row-major. */
export interface MemoryStates {
  layers: number[];
  stateHeads: number;
  rank: number;
  data: Float32Array;
}

export interface SnapshotInfo {
  generation: number;
  /** Unix milliseconds, UTC. */
  savedMs: number;
  norm: number;
}

/** A turn as the store keeps it, beside the memory that it led to. */
export interface LedgerEntry {
  generation: number;
  /** Unix milliseconds, UTC. */
  savedMs: number;
  prompt: string;
  reply: string;
  tokensWritten: number;
  normBefore: number;
  normAfter: number;
}

/** Every call with what it takes, gives and says meanwhile. */
export interface Calls {
  open: { payload: OpenRequest; result: Opened; notice: OpenProgress };
  turn: { payload: TurnRequest; result: TurnResult; notice: Piece };
  newContext: { payload: null; result: null; notice: never };
  measure: { payload: string; result: number; notice: never };
  memoryInfo: { payload: null; result: MemoryInfo; notice: never };
  memoryStates: { payload: null; result: MemoryStates; notice: never };
  exportMemory: { payload: null; result: Uint8Array; notice: never };
  importMemory: { payload: Uint8Array; result: null; notice: never };
  snapshots: { payload: null; result: SnapshotInfo[]; notice: never };
  ledger: { payload: null; result: LedgerEntry[]; notice: never };
  undo: { payload: null; result: null; notice: never };
  forget: { payload: null; result: null; notice: never };
  setPaused: { payload: boolean; result: null; notice: never };
}

export type CallName = keyof Calls;

type Request = {
  [K in CallName]: { kind: "request"; id: number; call: K; payload: Calls[K]["payload"] };
}[CallName];

/** From the page to the worker. */
export type ToWorker = Request | { kind: "cancel"; id: number };

/** From the worker to the page. */
export type ToPage =
  | { kind: "result"; id: number; result: unknown }
  | { kind: "error"; id: number; error: WireError }
  | { kind: "notice"; id: number; notice: unknown }
  | { kind: "state"; state: SessionState };

/** The part of `Worker`, `MessagePort` and a worker's global scope that is needed here. */
export interface Port<In, Out> {
  postMessage(message: Out): void;
  addEventListener(type: "message", listener: (event: MessageEvent<In>) => void): void;
}

interface Pending {
  resolve(value: unknown): void;
  reject(reason: unknown): void;
  onNotice(notice: unknown): void;
  signal: AbortSignal | undefined;
}

export interface CallOptions<K extends CallName> {
  /** Asks the worker to stop; the call settles when it has. */
  signal?: AbortSignal | undefined;
  onNotice?: (notice: Calls[K]["notice"]) => void;
}

/** The page's end. */
export class Caller {
  readonly #port: Port<ToPage, ToWorker>;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #closedBy: Error | null = null;

  constructor(port: Port<ToPage, ToWorker>, onState: (state: SessionState) => void) {
    this.#port = port;
    port.addEventListener("message", ({ data }) => {
      if (data.kind === "state") onState(data.state);
      else this.#receive(data);
    });
  }

  /** Sends a request and waits for its answer. */
  call<K extends CallName>(
    call: K,
    payload: Calls[K]["payload"],
    options: CallOptions<K> = {},
  ): Promise<Calls[K]["result"]> {
    const { signal, onNotice } = options;
    if (this.#closedBy) return Promise.reject(this.#closedBy);
    if (signal?.aborted) return Promise.reject(signal.reason);
    const id = this.#nextId++;
    return new Promise<Calls[K]["result"]>((resolve, reject) => {
      const cancel = () => this.#port.postMessage({ kind: "cancel", id });
      const settle = () => {
        this.#pending.delete(id);
        signal?.removeEventListener("abort", cancel);
      };
      this.#pending.set(id, {
        resolve: (value) => {
          settle();
          resolve(value as Calls[K]["result"]);
        },
        reject: (reason) => {
          settle();
          reject(reason);
        },
        onNotice: (notice) => onNotice?.(notice as Calls[K]["notice"]),
        signal,
      });
      signal?.addEventListener("abort", cancel);
      this.#port.postMessage({ kind: "request", id, call, payload } as Request);
    });
  }

  /** Ends all calls under way, and all later ones, with `reason`. */
  close(reason: Error): void {
    this.#closedBy ??= reason;
    for (const pending of [...this.#pending.values()]) pending.reject(this.#closedBy);
  }

  #receive(message: Exclude<ToPage, { kind: "state" }>): void {
    const pending = this.#pending.get(message.id);
    if (!pending) return; // the call was closed meanwhile
    if (message.kind === "notice") {
      pending.onNotice(message.notice);
    } else if (message.kind === "result") {
      pending.resolve(message.result);
    } else {
      const isOurAbort = message.error.name === "AbortError" && pending.signal?.aborted;
      pending.reject(isOurAbort ? pending.signal?.reason : errorFromWire(message.error));
    }
  }
}

/** What a handler gets beside the payload. */
export interface CallContext<K extends CallName> {
  signal: AbortSignal;
  notify(notice: Calls[K]["notice"]): void;
}

export type Handlers = {
  [K in CallName]: (
    payload: Calls[K]["payload"],
    context: CallContext<K>,
  ) => Promise<Calls[K]["result"]>;
};

/** Runs jobs one after the other, each whether or not the one before failed. */
export class Queue {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(job: () => Promise<T>): Promise<T> {
    const result = this.#last.then(job);
    this.#last = result.catch(() => undefined);
    return result;
  }
}

/** The worker's end: answers requests in the order in which they came. */
export function serve(port: Port<ToWorker, ToPage>, handlers: Handlers, queue: Queue): void {
  const controllers = new Map<number, AbortController>();
  const answer = async <K extends CallName>(
    id: number,
    call: K,
    payload: Calls[K]["payload"],
  ): Promise<void> => {
    const controller = new AbortController();
    controllers.set(id, controller);
    try {
      const handler = handlers[call];
      if (!handler) throw new DeltamemError("worker", `the worker knows no call \`${call}\``);
      const result = await queue.run(() => {
        if (controller.signal.aborted) throw abortError("The call was given up before it began.");
        return handler(payload, {
          signal: controller.signal,
          notify: (notice) => port.postMessage({ kind: "notice", id, notice }),
        });
      });
      port.postMessage({ kind: "result", id, result });
    } catch (error) {
      port.postMessage({ kind: "error", id, error: errorToWire(error) });
    } finally {
      controllers.delete(id);
    }
  };
  port.addEventListener("message", ({ data }) => {
    if (data.kind === "cancel") controllers.get(data.id)?.abort();
    else void answer(data.id, data.call, data.payload);
  });
}
