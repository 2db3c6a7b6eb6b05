/** Where a model's files come from, and which of them are on this device. */
import { DeltamemError } from "./errors.js";
import { fetchModelFiles } from "./model-files.js";
import type { ModelFile, WebSha256 } from "./wasm.js";

/** A model whose weights are on this device. */
export interface StoredModel {
  url: string;
  name: string;
  bytes: number;
  files: { name: string; bytes: number; sha256: string }[];
  isComplete: boolean;
  savedMs: number;
}

export interface OpenFilesOptions {
  modelUrl: string;
  adapterUrl: string | null;
  store: "opfs" | "none";
  sha256: Record<string, string>;
  signal: AbortSignal;
  onProgress(done: number, total: number): void;
  hash: () => WebSha256;
}

export interface OpenFiles {
  files: Map<string, ModelFile>;
  notice: string | null;
  close(): void;
}

export interface ModelProbe {
  config: string;
  downloadBytes: number;
  storedBytes: number;
  state: "absent" | "downloading" | "partial" | "complete";
}

/** All files that a model needs, ready to be loaded. */
export async function openModelFiles(options: OpenFilesOptions): Promise<OpenFiles> {
  const files = new Map<string, ModelFile>(await fetchModelFiles(options));
  return { files, notice: null, close: () => undefined };
}

/** What there is to know of a model's files without loading them. */
export async function probeModel(options: {
  modelUrl: string;
  adapterUrl: string | null;
  signal?: AbortSignal;
}): Promise<ModelProbe> {
  const url = new URL("config.json", options.modelUrl).href;
  const response = await fetch(url, { signal: options.signal ?? null });
  if (!response.ok) throw new DeltamemError("network", `${url} answered ${response.status}.`);
  return { config: await response.text(), downloadBytes: 0, storedBytes: 0, state: "absent" };
}

/** The models on this device. */
export async function listStoredModels(): Promise<StoredModel[]> {
  return [];
}

/** Deletes the weights of the model with this address. */
export async function removeStoredModel(url: string): Promise<void> {
  void url;
}
