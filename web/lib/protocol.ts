/** What page and worker can ask of each other, in types; how it travels is in messages.ts. */
import type {
  Footprint,
  ModelInfo,
  ModelMemoryInfo,
  ModelTurn,
  ModelTurnOptions,
  PieceKind,
  ToolCall,
} from "./wasm.js";

export type Role = "system" | "user" | "assistant" | "tool";

export interface Message {
  role: Role;
  content: string;
  /** What was thought before an answer. */
  reasoning?: string;
  /** An assistant's calls. */
  toolCalls?: MessageToolCall[];
  /** Of a tool's result: the call that it answers. */
  toolCallId?: string;
  /** Of a tool's result: the tool. */
  name?: string;
}

export interface MessageToolCall extends ToolCall {
  id?: string;
}

/** A tool as the model is told of it. */
export interface ToolDescription {
  name: string;
  description: string;
  /** JSON Schema of its arguments. */
  inputSchema: object;
}

/** How the weights are kept on the GPU. */
export type Weights = "f32" | "f16" | "q8" | "q4";

/** Which model, and how it is to be loaded. */
export interface ModelRequest {
  /** Folders in Hugging Face's layout, as absolute addresses that end with a slash. */
  modelUrl: string;
  adapterUrl: string | null;
  wasmUrl: string | null;
  weights: Weights | null;
  /** In tokens. */
  contextTokens: number | null;
}

export interface OpenRequest extends ModelRequest {
  /** What to call the model. */
  name: string;
  isThinking: boolean | null;
  /** Begins every context; the first may be a system message. */
  initialPrompts: Message[];
  tools: ToolDescription[];
  profile: string;
  isEphemeral: boolean;
  /** Where the weights are kept. */
  store: "opfs" | "none";
  /** Bytes that kept contexts may take on the device; null keeps none. */
  prefixBytes: number | null;
  /** Expected hashes, 64 hex digits, by file name. */
  sha256: Record<string, string>;
  passphrase: string | null;
}

/** Bytes downloaded, or weights put on the GPU. */
export interface OpenProgress {
  stage: "download" | "load";
  done: number;
  total: number;
}

/** What the page keeps of a session's state; sent whenever it changes. */
export interface SessionState {
  /** Tokens. */
  contextUsage: number;
  /** Counts the commits of this memory; 0 = none yet. */
  generation: number;
  isReadOnly: boolean;
  isEphemeral: boolean;
  isPaused: boolean;
  isEncrypted: boolean;
  /** Why nothing is kept, if the caller did not ask for that. */
  notice: string | null;
}

export interface Opened {
  model: ModelInfo;
  state: SessionState;
  /** Why the weights are not kept on the device, if they are not. */
  weightsNotice: string | null;
}

export interface TurnRequest {
  /** What is added to the conversation, or the whole of it. */
  messages: Message[];
  isHistory: boolean;
  settings: ModelTurnOptions;
  /** In the place of the session's own. */
  tools?: ToolDescription[];
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

export type CompareSide = "on" | "off";

export interface CompareResult {
  on: ModelTurn;
  off: ModelTurn;
}

/** A memory with its place in the store. */
export interface MemoryInfo extends ModelMemoryInfo {
  /** Counts the commits of this memory; 0 = none yet. */
  generation: number;
  /**
   * Bytes that the last commit of this session put into the database: the memory, what was said, and
   * the snapshot that the replaced memory became. Null before the first, or if nothing is stored.
   */
  lastCommitBytes: number | null;
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

/**
 * What changed the memory: a turn; text that was read and not answered (`append`); text that went
 * past the context (`write`); or its replacement as a whole.
 */
export type LedgerKind = "turn" | "append" | "write" | "import" | "restore";

/** A commit as the store keeps it, beside the memory that it led to. */
export interface LedgerEntry {
  kind: LedgerKind;
  generation: number;
  /** Unix milliseconds, UTC. */
  savedMs: number;
  /** What was said to the model; empty for `import` and `restore`. */
  prompt: string;
  /** Whose words the prompt was. */
  promptRole: Role;
  reply: string;
  thoughts: string;
  /** What the reply asked the caller to do. */
  toolCalls: ToolCall[];
  tokensWritten: number;
  normBefore: number;
  normAfter: number;
}

/** One memory of one profile, as it lies in the database. */
export interface ProfileInfo {
  profile: string;
  /** The model it belongs to, 64 hex digits. */
  identity: string;
  generation: number;
  /** Unix milliseconds, UTC. */
  savedMs: number;
  /** Null if it is encrypted. */
  norm: number | null;
  isEncrypted: boolean;
  /** Of memory, snapshots and turns together. */
  bytes: number;
}

export type Availability = "unavailable" | "downloadable" | "downloading" | "available";

/** What is known of a model before it is loaded. */
export interface Inspection {
  availability: Availability;
  /** Why it is unavailable, or what a person should know beforehand. */
  reason: string | null;
  /** What is still to come, as far as the server says. */
  downloadBytes: number;
  /** What is on the device already. */
  storedBytes: number;
  /** Null where the browser does not say. */
  quotaBytes: number | null;
  usageBytes: number | null;
  /** Null if the GPU or the model could not be asked. */
  footprint: Footprint | null;
}

/** Every call with what it takes, gives and says meanwhile. */
export interface Calls {
  inspect: { payload: ModelRequest; result: Inspection; notice: never };
  open: { payload: OpenRequest; result: Opened; notice: OpenProgress };
  clone: {
    payload: { session: number; profile: string | null; passphrase: string | null };
    result: SessionState;
    notice: never;
  };
  close: { payload: null; result: null; notice: never };
  turn: { payload: TurnRequest; result: TurnResult; notice: Piece };
  compare: {
    payload: TurnRequest;
    result: CompareResult;
    notice: Piece & { side: CompareSide };
  };
  /** Takes the last question and all that followed back, and gives the question. */
  takeBack: { payload: null; result: Message[]; notice: never };
  append: { payload: Message[]; result: { evictedMessages: number }; notice: never };
  newContext: { payload: null; result: null; notice: never };
  history: { payload: null; result: Message[]; notice: never };
  measure: { payload: string[]; result: number; notice: never };
  memoryInfo: { payload: null; result: MemoryInfo; notice: never };
  memoryStates: { payload: null; result: MemoryStates; notice: never };
  exportMemory: { payload: { passphrase: string | null }; result: Uint8Array; notice: never };
  importMemory: {
    payload: { bytes: Uint8Array; passphrase: string | null };
    result: null;
    notice: never;
  };
  snapshots: { payload: null; result: SnapshotInfo[]; notice: never };
  restore: { payload: number; result: null; notice: never };
  ledger: { payload: null; result: LedgerEntry[]; notice: never };
  writeMemory: { payload: string; result: { tokensWritten: number }; notice: never };
  undo: { payload: null; result: null; notice: never };
  forget: { payload: null; result: null; notice: never };
  setPaused: { payload: boolean; result: null; notice: never };
  profiles: { payload: null; result: ProfileInfo[]; notice: never };
  forgetProfile: { payload: string; result: null; notice: never };
  setPassphrase: { payload: string | null; result: null; notice: never };
}

export type CallName = keyof Calls;

/** What the worker says to a session without being asked. */
export type SessionEvent =
  | { kind: "state"; state: SessionState }
  | { kind: "devicelost"; reason: string }
  | { kind: "devicerestored" };

type Request = {
  [K in CallName]: {
    kind: "request";
    id: number;
    session: number;
    call: K;
    payload: Calls[K]["payload"];
  };
}[CallName];

/** From the page to the worker. */
export type ToWorker = Request | { kind: "cancel"; id: number };

/** From the worker to the page. */
export type ToPage =
  | { kind: "result"; id: number; result: unknown }
  | { kind: "error"; id: number; error: WireError }
  | { kind: "notice"; id: number; notice: unknown }
  | { kind: "event"; session: number; event: SessionEvent };

/** An error in the form that `postMessage` carries. */
export interface WireError {
  name: string;
  code: string | null;
  message: string;
  /** Of `quota`: bytes. */
  requested: number | null;
  quota: number | null;
}
