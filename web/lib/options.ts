/** What callers can ask for, in types, and the addresses in it made absolute. */
import type { PromptMessage, Tool } from "./input.js";
import { folderUrl, modelUrl } from "./model-address.js";
import type { CompareSide, ModelRequest, Weights } from "./protocol.js";
import type { ModelTurn, TurnSettings } from "./wasm.js";

/**
 * Fires `downloadprogress` while the files come and `loadprogress` while the weights go to the GPU;
 * both are `ProgressEvent`s with `loaded` from 0 to 1.
 */
export type CreateMonitor = EventTarget;

/** Which model, as far as it is known before it is loaded. */
export interface InspectOptions {
  /**
   * Address of a folder in Hugging Face's layout, or of a GGUF file; either may be sharded. Beside a GGUF
   * file a `tokenizer.json`, `chat_template.jinja` and `generation_config.json` come before what is in it.
   */
  model: string | URL;
  /** Address of the δ-mem adapter's folder; by default it is looked for beside the model. */
  adapter?: string | URL;
  /** How the weights are kept on the GPU; the matrices of a GGUF file stay as they are. */
  weights?: Weights;
  /** Context window in tokens; by default the model's. */
  contextTokens?: number;
  /** False runs on the page, where a long step makes it stutter. */
  worker?: boolean;
  /** Where `deltamem_bg.wasm` is; by default beside the worker. */
  wasmUrl?: string | URL;
  /** Where `worker.js` is; by default beside this module. */
  workerUrl?: string | URL;
}

/** What a session is, wherever its model runs. */
export interface SessionOptions {
  /** Whether the model thinks before it answers; by default what its name suggests. */
  thinking?: boolean;
  /** Begins every context: at most one system message, first, then the others. */
  initialPrompts?: PromptMessage[];
  /** What the model can call. */
  tools?: Tool[];
  /** Whose memory it is; one per person or project. */
  profile?: string;
  /** Stores nothing and begins with an empty memory. */
  ephemeral?: boolean;
  signal?: AbortSignal;
}

export interface ConnectOptions extends SessionOptions {
  /** Address of a running `deltamem serve`. */
  server: string | URL;
  /** The token that it wants, if it does. */
  token?: string;
}

export interface CreateOptions extends InspectOptions, SessionOptions {
  /** What to call the model; by default the folder's name. */
  name?: string;
  /** Encrypts what the profile stores; the wrong one is refused with the code `passphrase`. */
  passphrase?: string;
  /** Where the weights are kept: on the device (default), or nowhere. */
  store?: "opfs" | "none";
  /**
   * Keeps what contexts begin with (tools, initial prompts) on the device, as the model has read it, so
   * that it is not read again on the next visit: `true`, or with the most bytes that it may take (512 MiB
   * if not given). Off by default. Ephemeral sessions and profiles with a passphrase have no part in it,
   * and whatever forgets a memory empties it. In a worker only.
   */
  prefixCache?: boolean | { bytes?: number };
  /** Expected SHA-256 hashes by file name; another one is refused with the code `integrity`. */
  sha256?: Record<string, string>;
  monitor?: (monitor: CreateMonitor) => void;
}

export interface PromptOptions extends TurnSettings {
  /**
   * Ends the call, which rejects with the signal's reason. While the prompt is read, all is then as
   * it was before; once the reply has begun, what was said until then stays in context and memory,
   * and `memory.undo()` takes it back.
   */
  signal?: AbortSignal;
  /** Gets the thoughts as they form; they are no part of the reply. */
  onThought?: (text: string) => void;
  /** What the reply must match: a JSON Schema, or a RegExp for the whole reply (flag `i` only). */
  responseConstraint?: RegExp | object;
  /** Accepted for the Prompt API's sake: the constraint is never added to the prompt. */
  omitResponseConstraintInput?: boolean;
}

export interface CompleteOptions extends PromptOptions {
  /** In the place of the session's own, for this call; they are not executed. */
  tools?: Tool[];
  /** Whether the reply must call one of `tools`, or the named one; by default the model decides. */
  toolChoice?: "auto" | "required" | { name: string };
  /** False ends the reply with its first call. */
  parallelToolCalls?: boolean;
  /** Gets the reply as it forms. */
  onAnswer?: (text: string) => void;
}

export interface CompareOptions extends Omit<PromptOptions, "onThought" | "write"> {
  /** Gets both replies as they form, one after the other. */
  onPiece?: (side: CompareSide, text: string) => void;
}

export interface CloneOptions {
  signal?: AbortSignal;
  /** An empty profile that takes a copy of the memory with its history; without it the clone is ephemeral. */
  profile?: string;
  /** Encrypts what that profile stores; needed if this session's is encrypted. */
  passphrase?: string;
}

/** What the event `turn` carries. */
export interface TurnReport extends ModelTurn {
  /** True if the turn and the memory after it are in the store. */
  isCommitted: boolean;
}

/** What of the options the worker needs to find the model. */
export function modelRequest(options: InspectOptions): ModelRequest {
  return {
    modelUrl: modelUrl(absoluteUrl(options.model)),
    adapterUrl: options.adapter === undefined ? null : folderUrl(absoluteUrl(options.adapter)),
    wasmUrl: options.wasmUrl === undefined ? null : absoluteUrl(options.wasmUrl),
    weights: options.weights ?? null,
    contextTokens: options.contextTokens ?? null,
  };
}

function absoluteUrl(url: string | URL): string {
  return new URL(url, globalThis.location?.href).href;
}
