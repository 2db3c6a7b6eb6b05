/** What the package `deltamem` exports. */
export { DeltamemError, type ErrorCode } from "./errors.js";
export type { PromptInput, PromptMessage, Tool } from "./input.js";
export {
  LanguageModel,
  type CloneOptions,
  type CompareOptions,
  type CompleteOptions,
  type ConnectOptions,
  type CreateMonitor,
  type CreateOptions,
  type InspectOptions,
  type PromptOptions,
  type TurnReport,
} from "./language-model.js";
export type {
  Availability,
  CompareSide,
  Inspection,
  LedgerEntry,
  LedgerKind,
  MemoryInfo,
  MemoryStates,
  Message,
  MessageToolCall,
  ProfileInfo,
  Role,
  SnapshotInfo,
  ToolDescription,
  Weights,
} from "./protocol.js";
export type { FileOptions, SessionMemory } from "./session-memory.js";
export type { Footprint, Gauge, ModelInfo, StopReason, ToolCall, ToolFormat, TurnSettings } from "./wasm.js";
export type { StoredModel } from "./weight-store.js";
