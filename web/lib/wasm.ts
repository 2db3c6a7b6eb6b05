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
  /** Something a person should know, such as random weights. */
  notice: string | null;
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
  promptTokens: number;
  promptSeconds: number;
  decodeSeconds: number;
  /** Frobenius norm of the memory before and after. */
  memoryNorms: [number, number];
}

export type PieceKind = "answer" | "thought";

/** A loaded model; one asynchronous call at a time. JSON travels as strings. */
export interface WebModel {
  info(): string;
  turn(
    text: string,
    options: string,
    onPiece: (kind: PieceKind, text: string) => boolean,
  ): Promise<string>;
  messages(): string;
  resume(messages: string): Promise<string>;
  newContext(): Promise<void>;
  undoTurn(): Promise<boolean>;
  setWritePaused(paused: boolean): void;
  exportMemory(nowMs: number): Promise<Uint8Array>;
  importMemory(bytes: Uint8Array): Promise<void>;
  forget(): Promise<void>;
  memoryInfo(nowMs: number): Promise<string>;
  memoryStates(): Promise<Float32Array>;
  contextUsage(): number;
  contextWindow(): number;
  measure(text: string): number;
  free(): void;
}

/** Loads a model from its files. */
export type LoadModel = (
  files: Map<string, Uint8Array>,
  options: string,
  onProgress: (done: number, total: number) => void,
) => Promise<WebModel>;
