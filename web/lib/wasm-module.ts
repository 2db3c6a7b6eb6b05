/**
 * `deltamem/wasm`: the wasm module itself, without worker, store or conversation. Call `init` first;
 * JSON travels as strings, whose shapes are the types beside it. Its types are those of wasm.ts, to
 * which the built module is held (wasm-contract.ts), and not what wasm-bindgen writes.
 */
import start, * as wasm from "./deltamem.js";
import type * as types from "./wasm.js";

export type {
  BenchOptions,
  BenchPeer,
  ByteFile,
  Constraint,
  Footprint,
  Gauge,
  ModelFile,
  ModelInfo,
  ModelMemoryInfo,
  ModelTurn,
  ModelTurnOptions,
  PieceKind,
  SelfTestReport,
  StopReason,
  ToolCall,
  WebCanceller,
  WebConversation,
} from "./wasm.js";

/** Fetches and compiles the module; by default from beside this file. */
export const init: (input?: { module_or_path: URL | string }) => Promise<unknown> = start;
export default init;

export type WebModel = types.WebModel;
export const WebModel: { load: types.LoadModel } = wasm.WebModel;

export type WebSha256 = types.WebSha256;
export const WebSha256: new () => types.WebSha256 = wasm.WebSha256;

export const inspect: types.Inspect = wasm.inspect;
export const inspectGguf: types.InspectGguf = wasm.inspect_gguf;
export const selfTest: types.SelfTest = wasm.selfTest;
export const bench: types.Bench = wasm.bench;
