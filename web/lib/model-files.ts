/** Fetches a model's files from a folder in Hugging Face's layout, with progress in bytes. */
import { DeltamemError } from "./errors.js";

const MODEL_FILES = ["config.json", "tokenizer.json", "model.safetensors"];
const OPTIONAL_MODEL_FILES = [
  "tokenizer_config.json",
  "chat_template.jinja",
  "generation_config.json",
];
const ADAPTER_CONFIG = "delta_mem_config.json";
/** In the order in which they are tried. */
const ADAPTER_WEIGHTS = ["delta_mem_adapter.safetensors", "delta_mem_adapter.pt"];

export interface FetchOptions {
  modelUrl: string;
  /** Where the adapter is; null looks for one beside the model. */
  adapterUrl: string | null;
  signal: AbortSignal;
  onProgress(doneBytes: number, totalBytes: number): void;
}

/**
 * Everything that a model needs, by file name. `onProgress` is called at the beginning and the end.
 * Throws `network` naming the file that is missing.
 */
export async function fetchModelFiles(options: FetchOptions): Promise<Map<string, Uint8Array>> {
  const { modelUrl, signal } = options;
  const adapterUrl = options.adapterUrl ?? modelUrl;
  const model = await Promise.all([
    ...MODEL_FILES.map((name) => begin(modelUrl, name, true, signal)),
    ...OPTIONAL_MODEL_FILES.map((name) => begin(modelUrl, name, false, signal)),
  ]);
  const adapter = await beginAdapter(adapterUrl, options.adapterUrl !== null, signal);
  const downloads = [...model, ...adapter].filter((download) => download !== null);
  const total = downloads.reduce((sum, download) => sum + download.expectedBytes, 0);
  let done = 0;
  options.onProgress(0, total);
  const files = new Map<string, Uint8Array>();
  await Promise.all(
    downloads.map(async (download) => {
      const bytes = await readAll(download, (n) => {
        done += n;
        options.onProgress(Math.min(done, total), total);
      });
      files.set(download.name, bytes);
    }),
  );
  // The end is announced even where no length was.
  const all = Math.max(total, 1);
  options.onProgress(all, all);
  return files;
}

interface Download {
  name: string;
  response: Response;
  /** As announced; 0 if it was not. */
  expectedBytes: number;
}

async function beginAdapter(
  url: string,
  isRequired: boolean,
  signal: AbortSignal,
): Promise<(Download | null)[]> {
  const config = await begin(url, ADAPTER_CONFIG, isRequired, signal);
  if (!config) return [];
  for (const name of ADAPTER_WEIGHTS) {
    const weights = await begin(url, name, false, signal);
    if (weights) return [config, weights];
  }
  throw new DeltamemError(
    "network",
    `${url} has ${ADAPTER_CONFIG}, but neither ${ADAPTER_WEIGHTS.join(" nor ")}.`,
  );
}

/** The response's head; null if an optional file is not there. */
async function begin(
  base: string,
  name: string,
  isRequired: boolean,
  signal: AbortSignal,
): Promise<Download | null> {
  const url = new URL(name, base).href;
  let response: Response;
  try {
    response = await fetch(url, { signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new DeltamemError("network", `${url} cannot be reached: ${String(error)}`, {
      cause: error,
    });
  }
  if (response.ok) {
    // With a content encoding the length is that of the compressed bytes: no use for progress.
    const length = response.headers.has("content-encoding")
      ? 0
      : Number(response.headers.get("content-length") ?? 0);
    return { name, response, expectedBytes: Number.isFinite(length) ? length : 0 };
  }
  await response.body?.cancel();
  if (!isRequired && (response.status === 404 || response.status === 410)) return null;
  throw new DeltamemError("network", `${url} answered ${response.status} ${response.statusText}.`);
}

async function readAll(download: Download, onBytes: (n: number) => void): Promise<Uint8Array> {
  const { name, response, expectedBytes } = download;
  const body = response.body;
  if (!body) return new Uint8Array(await response.arrayBuffer());
  // One buffer of the announced size, so that a large file is not held twice.
  let bytes = new Uint8Array(expectedBytes);
  let length = 0;
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (length + value.length > bytes.length) {
        const larger = new Uint8Array(Math.max(2 * bytes.length, length + value.length));
        larger.set(bytes.subarray(0, length));
        bytes = larger;
      }
      bytes.set(value, length);
      length += value.length;
      onBytes(value.length);
    }
  } catch (error) {
    if (error instanceof Error && error.name === "AbortError") throw error;
    throw new DeltamemError("network", `${response.url} broke off after ${length} bytes.`, {
      cause: error,
    });
  }
  if (expectedBytes > 0 && length !== expectedBytes) {
    throw new DeltamemError(
      "network",
      `${name}: ${length} bytes came, ${expectedBytes} were announced.`,
    );
  }
  return bytes.subarray(0, length);
}
