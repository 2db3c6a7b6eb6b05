/** What the package `deltamem` exports. */
export { DeltamemError, type ErrorCode } from "./errors.js";
export {
  LanguageModel,
  type Availability,
  type CreateMonitor,
  type CreateOptions,
  type PromptOptions,
  type TurnReport,
} from "./language-model.js";
export type { LedgerEntry, MemoryInfo, MemoryStates, Message, SnapshotInfo, Weights } from "./messages.js";
export type { SessionMemory } from "./session-memory.js";
export type { ModelInfo, StopReason } from "./wasm.js";
