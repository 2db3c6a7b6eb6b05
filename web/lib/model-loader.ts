/** From a model's address to a model on the GPU: what fits, the files, the loading, and its failures. */
import { DeltamemError, codeOf, reasonOf } from "./errors.js";
import { type Description, openModelFiles, probeModel } from "./model-files.js";
import { PrefixFiles } from "./prefix-store.js";
import type { Inspection, ModelRequest, OpenProgress, OpenRequest } from "./protocol.js";
import type { Footprint, Inspect, InspectGguf, LoadModel, WebModel, WebSha256 } from "./wasm.js";

/** What is used of the wasm module `deltamem.js`. */
export interface WasmModule {
  default(input?: { module_or_path: URL | string }): Promise<unknown>;
  WebModel: { load: LoadModel };
  WebSha256: new () => WebSha256;
  inspect: Inspect;
  inspect_gguf: InspectGguf;
}

export interface LoadedModel {
  model: WebModel;
  /** Where its kept contexts are, if any are kept. */
  prefixes: PrefixFiles | null;
  /** Why the weights are not kept on the device, if they are not. */
  weightsNotice: string | null;
}

export class ModelLoader {
  readonly #wasm: WasmModule;
  readonly #request: OpenRequest;
  /** The day in the system message stays that of the first load. */
  readonly #options: string;
  #footprint: Footprint | null = null;

  constructor(wasm: WasmModule, request: OpenRequest) {
    this.#wasm = wasm;
    this.#request = request;
    const first = request.initialPrompts[0];
    this.#options = JSON.stringify({
      name: request.name,
      weights: request.weights ?? undefined,
      context: request.contextTokens ?? undefined,
      thinking: request.isThinking ?? undefined,
      system: first?.role === "system" ? first.content : undefined,
      date: localDate(new Date()),
    });
  }

  /** Throws `does_not_fit` if the GPU cannot hold the model, before its files are fetched. */
  async checkFit(signal: AbortSignal): Promise<void> {
    const { modelUrl, adapterUrl } = this.#request;
    const ready = prepare(this.#wasm, this.#request);
    const [{ reckoned }] = await Promise.all([
      probeModel({ modelUrl, adapterUrl, signal }, async (description) => {
        await ready;
        return footprintOf(this.#wasm, description, this.#request);
      }),
      ready,
    ]);
    this.#footprint = reckoned;
    if (this.#footprint.fits) return;
    throw new DeltamemError("does_not_fit", doesNotFit(this.#footprint));
  }

  /** Fetches the files, from the device if they are there, and loads them; as often as need be. */
  async load(
    signal: AbortSignal,
    onProgress: (progress: OpenProgress) => void,
    onLost: (reason: string, model: WebModel | null) => void,
  ): Promise<LoadedModel> {
    const { modelUrl, adapterUrl, store, sha256 } = this.#request;
    const { files, notice, close } = await openModelFiles({
      modelUrl,
      adapterUrl,
      store,
      sha256,
      signal,
      onProgress: (done, total) => onProgress({ stage: "download", done, total }),
      hash: () => new this.#wasm.WebSha256(),
    });
    let model: WebModel | null = null;
    let prefixes: PrefixFiles | null = null;
    try {
      model = await this.#wasm.WebModel.load(
        files,
        this.#options,
        (done, total) => onProgress({ stage: "load", done, total }),
        (reason) => onLost(reason, model),
      );
      prefixes = await this.#storePrefixes(model);
    } catch (error) {
      throw this.#explained(error);
    } finally {
      close();
    }
    if (signal.aborted) {
      model.free();
      throw signal.reason;
    }
    return { model, prefixes, weightsNotice: notice };
  }

  async #storePrefixes(model: WebModel): Promise<PrefixFiles | null> {
    const { prefixBytes } = this.#request;
    const prefixes = prefixBytes === null ? null : await PrefixFiles.open(prefixBytes);
    if (prefixes) await model.storePrefixes(prefixes);
    return prefixes;
  }

  /** With the numbers, where the GPU ran out of memory. */
  #explained(error: unknown): unknown {
    if (codeOf(error) !== "out_of_memory" || !this.#footprint) return error;
    const message = `${reasonOf(error)} ${describe(this.#footprint)} ${ADVICE}`;
    return new DeltamemError("out_of_memory", message, { cause: error });
  }
}

/** What there is to know of a model before it is loaded; what cannot be known is null, with the reason. */
export async function inspectModel(
  wasm: WasmModule,
  request: ModelRequest,
  signal: AbortSignal,
): Promise<Inspection> {
  const { quota = null, usage = null } = (await estimate()) ?? {};
  const inspection: Inspection = {
    availability: "unavailable",
    reason: null,
    downloadBytes: 0,
    storedBytes: 0,
    quotaBytes: quota,
    usageBytes: usage,
    footprint: null,
  };
  try {
    const { modelUrl, adapterUrl } = request;
    const ready = prepare(wasm, request);
    const [probe] = await Promise.all([
      probeModel({ modelUrl, adapterUrl, signal }, async (description) => {
        await ready;
        return footprintOf(wasm, description, request);
      }),
      ready,
    ]);
    inspection.downloadBytes = probe.downloadBytes;
    inspection.storedBytes = probe.storedBytes;
    inspection.footprint = probe.reckoned;
    if (!inspection.footprint.fits) {
      inspection.reason = doesNotFit(inspection.footprint);
      return inspection;
    }
    const states = { complete: "available", downloading: "downloading" } as const;
    inspection.availability =
      probe.state in states ? states[probe.state as keyof typeof states] : "downloadable";
    const missing = probe.downloadBytes;
    const room = quota === null || usage === null ? null : quota - usage;
    if (probe.state !== "complete" && room !== null && missing > room) {
      inspection.reason = `The browser has room for ${mebibytes(room)} more; the ${mebibytes(missing)} that are missing could not be kept, and would be downloaded on every visit.`;
    }
  } catch (error) {
    signal.throwIfAborted();
    inspection.reason = reasonOf(error);
  }
  return inspection;
}

async function prepare(wasm: WasmModule, { wasmUrl }: ModelRequest): Promise<void> {
  await wasm.default(wasmUrl === null ? undefined : { module_or_path: wasmUrl });
}

async function footprintOf(
  wasm: WasmModule,
  { config, gguf, adapterConfig }: Description,
  { weights, contextTokens }: ModelRequest,
): Promise<Footprint> {
  const options = {
    weights: weights ?? undefined,
    context: contextTokens ?? undefined,
    deltaConfig: adapterConfig ?? undefined,
  };
  const settings = JSON.stringify(options);
  const told = gguf ? wasm.inspect_gguf(gguf, settings) : wasm.inspect(config ?? "", settings);
  return JSON.parse(await told) as Footprint;
}

async function estimate(): Promise<StorageEstimate | undefined> {
  return globalThis.navigator?.storage?.estimate?.().catch(() => undefined);
}

const ADVICE =
  'Try smaller weights ("q4"), a shorter context, or a smaller model, and close other tabs that use the GPU.';

function doesNotFit(footprint: Footprint): string {
  const reason = footprint.reason ? ` (${footprint.reason})` : "";
  return `This model does not fit on this GPU${reason}. ${describe(footprint)}`;
}

function describe(footprint: Footprint): string {
  const { weightBytes, kvBytes, otherBytes, largestBufferBytes, maxBufferBytes } = footprint;
  return (
    `It takes ${mebibytes(weightBytes)} of ${footprint.weights} weights, ${mebibytes(kvBytes)} of cache ` +
    `for ${footprint.contextWindow} tokens and ${mebibytes(otherBytes)} besides; its largest buffer has ` +
    `${mebibytes(largestBufferBytes)}, this GPU allows ${mebibytes(maxBufferBytes)}.`
  );
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MiB`;
}

/** YYYY-MM-DD where the person is. */
function localDate(date: Date): string {
  const month = String(date.getMonth() + 1).padStart(2, "0");
  return `${date.getFullYear()}-${month}-${String(date.getDate()).padStart(2, "0")}`;
}
