/**
 * `deltamem/wasm`: the wasm module itself, without worker, store or conversation. Call `init` first;
 * JSON travels as strings, whose shapes are the types beside it.
 */
export { default, default as init, inspect, selfTest, WebModel, WebSha256 } from "./deltamem.js";
export type {
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
