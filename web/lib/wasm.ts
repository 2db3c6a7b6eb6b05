/**
 * The surface of the wasm module (src/web.rs) in types. The module itself is `deltamem.js`, made by
 * wasm-bindgen, and stays outside the bundle.
 */

/** What a loaded model says about itself. */
export interface ModelInfo {
  name: string;
  /** SHA-256 of what a memory belongs to, 64 hex digits; null for a model without δ-mem. */
  identity: string | null;
  /** The GPU adapter's name. */
  adapter: string;
  /** In tokens. */
  contextWindow: number;
  weights: string;
  kv: string;
  /** Something a person should know, such as how little a small model knows. */
  notice: string | null;
  /** Whether thinking can be switched, where the model itself says so. */
  canThink?: boolean;
}

/** What was done to a memory since it was empty. */
export interface MemoryCounters {
  generation: number;
  turns: number;
  tokensSeen: number;
  tokensWritten: number;
  writes: number;
}

/** A memory without its states. */
export interface ModelMemoryInfo {
  /** Frobenius norm over all layers. */
  norm: number;
  layers: { layer: number; norm: number }[];
  counters: MemoryCounters;
  /** Unix milliseconds, UTC. */
  createdMs: number;
  updatedMs: number;
  rank: number;
  stateHeads: number;
}

export type StopReason =
  | "end_of_sequence"
  | "stop_string"
  | "max_tokens"
  | "cancelled"
  | "context_full";

/** A finished turn as the wasm module reports it. */
export interface ModelTurn {
  answer: string;
  thoughts: string;
  stopReason: StopReason;
  generatedTokens: number;
  /** Of the whole conversation up to the reply, `prefixTokens` included. */
  promptTokens: number;
  promptSeconds: number;
  decodeSeconds: number;
  /** Tokens of the prompt that context and memory had already; they were not fed again. */
  prefixTokens: number;
  /** Frobenius norm of the memory before and after. */
  memoryNorms: [number, number];
  /** Set if the history differed from what was processed. */
  rollback: { commonTokens: number; droppedTokens: number; memory: "restored" | "kept" } | null;
  /** Messages that left the context, oldest first, because the window was full. */
  evictedMessages: number;
  /** What the reply asks the caller to do; empty without tools. */
  toolCalls: ToolCall[];
  /** How much the memory had its say in the reply's last token; null unless asked for. */
  gauges: Gauge[] | null;
}

/** A call of a tool as the model wrote it. */
export interface ToolCall {
  name: string;
  /** JSON object. */
  arguments: Record<string, unknown>;
}

/** One wrapped layer at one token. */
export interface Gauge {
  layer: number;
  /** Mean of the write gate β over the state's rows, 0 to 1. */
  beta: number;
  /** ‖Δo‖ / ‖o‖; null if the adapter does not correct o. */
  outputRatio: number | null;
}

export type PieceKind = "answer" | "thought";

/** What a reply must match. */
export type Constraint =
  | { kind: "json_schema"; schema: unknown }
  | { kind: "json_object" }
  | { kind: "regex"; pattern: string }
  /** Calls of these tools (OpenAI's descriptions or bare ones), one to `most`. */
  | { kind: "tool_calls"; tools: unknown[]; most: number };

/** How a turn is sampled and what else it is to do; what is missing comes from the model's files. */
export interface TurnSettings {
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  seed?: number;
  maxTokens?: number;
  /** The reply ends before the first of these. */
  stop?: string[];
  /** False reads the memory and leaves it as it is. */
  write?: boolean;
  /** Reports `ModelTurn.gauges`. */
  gauges?: boolean;
  /** What a full window does: forget the oldest turns of the context (default), or fail. */
  overflow?: "evict" | "error";
  /** Switches thinking for this turn and the following. */
  thinking?: boolean;
  /** How the model is told of tools, and calls them; for this turn and the following. */
  toolFormat?: ToolFormat;
}

/**
 * As the model's template does it by itself, as JSON in `<tool_call>` (SmolLM3's `xml_tools`), or as
 * Python in `<code>` (`python_tools`), which is refused where the template does not know it.
 */
export type ToolFormat = "template" | "xml" | "python";

/** The options of a turn, as JSON. */
export interface ModelTurnOptions extends TurnSettings {
  constraint?: Constraint;
  /** The reply ends with so many calls of tools. */
  maxToolCalls?: number;
  /** The last message is the assistant's, and the reply goes on in it. */
  continueFinalMessage?: boolean;
}

/** A conversation taken out of a model: messages, KV cache, memory, checkpoints. */
export interface WebConversation {
  free(): void;
}

/** Ends what runs; may be called while a call of the model is under way. */
export interface WebCanceller {
  cancel(): void;
  free(): void;
}

/**
 * A place for files of kept contexts, one read or written at a time, from the beginning on. `problem` says
 * why a file is no good: it is removed then, or never takes its place.
 */
export interface PrefixStore {
  /** Bytes of the file; null if there is none. */
  open(name: string): Promise<number | null>;
  /** Fills `into` with the next bytes; throws if there are not so many. */
  read(into: Uint8Array): void;
  close(problem?: string): Promise<void>;
  /** False if a file of this size is not kept, or not now. */
  create(name: string, bytes: number): Promise<boolean>;
  write(bytes: Uint8Array): void;
  finish(problem?: string): Promise<void>;
  /** Removes all files. */
  clear(): Promise<void>;
}

/** A loaded model; one asynchronous call at a time. JSON travels as strings. */
export interface WebModel {
  info(): string;
  /**
   * Answers. `messages` is a JSON array of `Message` that is added to the conversation; the last is
   * from the user or a tool.
   */
  turn(
    messages: string,
    options: string,
    onPiece: (kind: PieceKind, text: string) => boolean,
  ): Promise<string>;
  /** Answers a whole history (system message included): what was processed already is not fed again. */
  turnFrom(
    history: string,
    options: string,
    onPiece: (kind: PieceKind, text: string) => boolean,
  ): Promise<string>;
  /** Adds messages without answering them. Resolves to `{ fedTokens, evictedMessages }` as JSON. */
  append(messages: string, options: string): Promise<string>;
  /** Writes a text into the memory; the context stays as it is. Resolves to `{ tokensWritten }` as JSON. */
  write(text: string): Promise<string>;
  /** Ends the turn, append or write under way: rejects with code `cancelled`, or ends the reply. */
  canceller(): WebCanceller;
  /** Keeps what conversations begin with in files, from the first call on. */
  storePrefixes(store: PrefixStore): Promise<void>;
  /** JSON array of function descriptions (OpenAI's `tools` or bare functions); empty = none. */
  setTools(tools: string): void;
  /** A copy of the conversation; the model goes on with its own. */
  park(): Promise<WebConversation>;
  /** Puts a conversation in the place of the present one, which is dropped. Consumes it. */
  adopt(conversation: WebConversation): Promise<void>;
  messages(): string;
  /**
   * Continues a conversation of before without writing it. The first `pinned` messages never leave
   * the context, also not in a new one; if not given, the system messages at the beginning.
   */
  resume(messages: string, pinned?: number): Promise<string>;
  newContext(): Promise<void>;
  undoTurn(): Promise<boolean>;
  setWritePaused(paused: boolean): void;
  exportMemory(nowMs: number): Promise<Uint8Array>;
  importMemory(bytes: Uint8Array): Promise<void>;
  forget(): Promise<void>;
  memoryInfo(nowMs: number): Promise<string>;
  memoryStates(): Promise<Float32Array>;
  /**
   * The logits `[vocabulary]` of the token that would begin the answer to `text`, given the memory
   * and an empty context. Nothing is written.
   */
  probe(text: string): Promise<Float32Array>;
  contextUsage(): number;
  contextWindow(): number;
  measure(text: string): number;
  free(): void;
}

/** A file that is read in pieces, synchronously (an OPFS access handle, or bytes in memory). */
export interface ByteFile {
  /** Bytes. */
  readonly size: number;
  /** Fills `into` from byte `offset` on; returns how many bytes were read. */
  read(into: Uint8Array, offset: number): number;
}

/** Small files come as bytes, weights as files to read from; never both in one. */
export type ModelFile = Uint8Array | ByteFile;

/**
 * Loads a model from its files, by their names in a Hugging Face folder; with shards, each under its
 * own name beside `model.safetensors.index.json`. `onLost` is told if the GPU device is lost; later
 * calls reject with code `device_lost`.
 */
export type LoadModel = (
  files: Map<string, ModelFile>,
  options: string,
  onProgress: (done: number, total: number) => void,
  onLost: (reason: string) => void,
) => Promise<WebModel>;

/** What a model takes, and what this GPU allows; bytes. */
export interface Footprint {
  weightBytes: number;
  kvBytes: number;
  /** Activations, memory state, staging. */
  otherBytes: number;
  /** The largest buffer that is made, and the largest that can be. */
  largestBufferBytes: number;
  maxBufferBytes: number;
  maxBindingBytes: number;
  parameters: number;
  contextWindow: number;
  weights: string;
  kv: string;
  fits: boolean;
  /** Why not, with numbers and advice; null if it fits as far as can be told beforehand. */
  reason: string | null;
}

/**
 * Reckons a model from its `config.json` alone, against this GPU; `options` are those of `LoadModel`
 * and `deltaConfig`, the text of its adapter's configuration. Resolves to a `Footprint` as JSON.
 */
export type Inspect = (config: string, options: string) => Promise<string>;

/** `inspect_gguf`: the same of a GGUF file or all its shards by name, of which the headers are read. */
export type InspectGguf = (files: Map<string, ModelFile>, options: string) => Promise<string>;

/** SHA-256 of bytes as they come. */
export interface WebSha256 {
  update(bytes: Uint8Array): void;
  /** 64 hex digits; ends this object. */
  digest(): string;
  free(): void;
}

/** How far this GPU's results are from the expected ones. */
export interface SelfTestReport {
  name: string;
  /** The GPU adapter's name. */
  adapter: string;
  /** True if the shaders use 16-bit floats of this GPU. */
  hasF16: boolean;
  /** null where weights or keys are not `f32`: the errors are reported then, not judged. */
  passed: boolean | null;
  /**
   * Largest absolute error after division by the largest expected magnitude of its tensor; 0 if the
   * case records none of the kind, null if a result is not finite.
   */
  logitsError: number | null;
  readsError: number | null;
  statesError: number | null;
  greedyTokens: number;
  greedyMatching: number;
  seconds: number;
  /** What fell short; null unless `passed` is false. */
  reason: string | null;
}

/** The options of a self test, as JSON. */
export interface SelfTestOptions {
  /** `f32` if not given. */
  weights?: "f32" | "f16" | "q8" | "q4";
  /** `f32` if not given. */
  kv?: "f32" | "f16" | "q8";
  /** Uses nothing beyond plain WebGPU. */
  baseTier?: boolean;
}

/** Replays a parity case, given as its files by name, on this GPU; a `SelfTestReport` as JSON. */
export type SelfTest = (
  files: Map<string, Uint8Array>,
  options: string,
) => Promise<string>;

/** What is measured, as JSON; what is not given is as in `deltamem bench`. */
export interface BenchOptions {
  /** What to call the model. */
  name?: string;
  /** `f16` if not given; a GGUF file's matrices stay as they are. */
  weights?: "f32" | "f16" | "q8" | "q4";
  /** `f16` if not given. */
  kv?: "f32" | "f16";
  /** Tokens that are read together. */
  chunk?: number;
  /** Uses nothing beyond plain WebGPU. */
  baseTier?: boolean;
  /** Tokens of the prompts. */
  prefill?: number[];
  /** Tokens in the context before decoding. */
  contexts?: number[];
  decodeTokens?: number;
  /** Rounds of which the median is taken. */
  runs?: number;
  /** About how long prefill and decode may take; 60 if not given. */
  budgetSeconds?: number;
  /** Write modes; those that the adapter is not of are measured with a generated one. */
  delta?: ("off" | "tsw" | "msw" | "ssw")[];
}

/** Another engine that is measured in the same rounds; both calls resolve to seconds. */
export interface BenchPeer {
  about: { name: string; version: string; engine: string };
  /** Reads `n` tokens, from an empty context to the next token. */
  prefill(n: number): Promise<number>;
  /** Decodes `n` tokens behind a context of `context`, whose reading is no part of the time. */
  decode(n: number, context: number): Promise<number>;
}

/**
 * Measures a model, given as its files by name, on this GPU: the JSON of `deltamem bench --json`.
 * `onProgress` hears what is being done.
 */
export type Bench = (
  files: Map<string, Uint8Array>,
  options: string,
  onProgress: (what: string) => void,
  peer?: BenchPeer,
) => Promise<string>;
