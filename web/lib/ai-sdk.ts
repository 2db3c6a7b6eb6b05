/**
 * `deltamem/ai-sdk`: a provider for Vercel's AI SDK (`LanguageModelV4`). Calls bring the whole history
 * each time; the session recognises what it has seen and feeds only the rest.
 */
import type {
  JSONObject,
  LanguageModelV4,
  LanguageModelV4CallOptions,
  LanguageModelV4Content,
  LanguageModelV4FinishReason,
  LanguageModelV4GenerateResult,
  LanguageModelV4StreamPart,
  LanguageModelV4StreamResult,
  LanguageModelV4Usage,
  ProviderV4,
  SharedV4ProviderMetadata,
} from "@ai-sdk/provider";
import { readCall, type CompleteCall } from "./ai-sdk-prompt.js";
import {
  completeHistory,
  completionStream,
  freshId,
  isCutOff,
  type CompletionEvent,
} from "./completion.js";
import { DeltamemError } from "./errors.js";
import { LanguageModel, type CreateOptions, type TurnReport } from "./language-model.js";
import type { Availability } from "./protocol.js";

export type { DeltamemCallOptions } from "./ai-sdk-prompt.js";

/**
 * How a session is made when it is first needed. The model's address is the model id; what begins a
 * conversation and what can be called come with each call.
 */
export type DeltamemModelOptions = Omit<
  CreateOptions,
  "model" | "initialPrompts" | "tools" | "monitor" | "signal"
>;

export interface DeltamemProviderSettings extends DeltamemModelOptions {
  /** A session that is there already: every model of the provider is it, whatever its id. */
  session?: LanguageModel;
}

export interface DeltamemProvider extends ProviderV4 {
  /**
   * A model by the address of its folder. The session is made when it is first needed; the same
   * address with the same options is the same model and session.
   */
  (model: string, options?: DeltamemModelOptions): DeltamemLanguageModel;
  languageModel(model: string, options?: DeltamemModelOptions): DeltamemLanguageModel;
  /** Throws: there are none. */
  embeddingModel(model: string): never;
  /** Throws: there are none. */
  imageModel(model: string): never;
}

/** A provider; `settings` hold for all of its models unless a model has its own. */
export function createDeltamem({ session, ...shared }: DeltamemProviderSettings = {}): DeltamemProvider {
  const models = new Map<string, DeltamemLanguageModel>();
  // People write `deltamem("…")` into every call; each must not load the model again.
  const languageModel = (model: string, options: DeltamemModelOptions = {}) => {
    const key = JSON.stringify([model, options]);
    const known = models.get(key);
    if (known) return known;
    const made = new DeltamemLanguageModel(model, { ...shared, ...options }, session);
    models.set(key, made);
    return made;
  };
  const provider = (model: string, options?: DeltamemModelOptions) => languageModel(model, options);
  return Object.assign(provider, {
    specificationVersion: "v4" as const,
    languageModel,
    embeddingModel: noSuchModel("embedding"),
    imageModel: noSuchModel("image"),
  });
}

function noSuchModel(kind: string): () => never {
  return () => {
    throw new DeltamemError("unsupported", `deltamem has no ${kind} models.`);
  };
}

/** The provider without settings: `deltamem("/models/nano/")`. */
export const deltamem: DeltamemProvider = createDeltamem();

/** A model as the AI SDK knows it. One conversation: calls are answered one after the other. */
export class DeltamemLanguageModel implements LanguageModelV4 {
  readonly specificationVersion = "v4";
  readonly provider = "deltamem";
  readonly supportedUrls: Record<string, RegExp[]> = {};
  readonly modelId: string;
  readonly #options: DeltamemModelOptions;
  /** Not this model's to end. */
  readonly #given: LanguageModel | undefined;
  #made: Promise<LanguageModel> | null = null;

  /** Made by a provider. */
  constructor(modelId: string, options: DeltamemModelOptions, session?: LanguageModel) {
    this.modelId = modelId;
    this.#options = options;
    this.#given = session;
  }

  /** Whether the model can run here, and whether its weights are on the device. */
  async availability(): Promise<Availability> {
    if (this.#given) return "available";
    const { weights, contextTokens, adapter } = this.#options;
    return LanguageModel.availability({
      model: this.modelId,
      ...(weights !== undefined && { weights }),
      ...(contextTokens !== undefined && { contextTokens }),
      ...(adapter !== undefined && { adapter }),
    });
  }

  /**
   * Loads the model ahead of the first call. `onProgress` gets 0 to 1: the download is the first half,
   * loading onto the GPU the second. Resolves to this model.
   */
  async createSessionWithProgress(onProgress?: (progress: number) => void): Promise<this> {
    await this.#session(onProgress);
    onProgress?.(1);
    return this;
  }

  /** The session behind this model, for instance for its memory; made if there is none yet. */
  session(): Promise<LanguageModel> {
    return this.#session();
  }

  /** Ends the session, unless it was given to the provider. The next call makes a new one. */
  async destroy(): Promise<void> {
    const made = this.#made;
    this.#made = null;
    (await made?.catch(() => null))?.destroy();
  }

  async doGenerate(options: LanguageModelV4CallOptions): Promise<LanguageModelV4GenerateResult> {
    const call = readCall(options);
    const session = await this.#session();
    const report = await completeHistory(session, call.history, call.options);
    return {
      content: content(report),
      finishReason: finishReason(report),
      usage: usage(report),
      providerMetadata: metadata(report),
      response: { id: freshId("reply-"), timestamp: new Date(), modelId: this.modelId },
      warnings: call.warnings,
    };
  }

  async doStream(options: LanguageModelV4CallOptions): Promise<LanguageModelV4StreamResult> {
    const call = readCall(options);
    const session = await this.#session();
    const events = completionStream(session, call.history, call.options);
    return { stream: partStream(events, call, this.modelId) };
  }

  #session(onProgress?: (progress: number) => void): Promise<LanguageModel> {
    if (this.#given) return Promise.resolve(this.#given);
    if (this.#made) return this.#made;
    const done = { downloadprogress: 0, loadprogress: 0 };
    const made = LanguageModel.create({
      ...this.#options,
      model: this.modelId,
      monitor: (monitor) => {
        for (const stage of ["downloadprogress", "loadprogress"] as const) {
          monitor.addEventListener(stage, (event) => {
            done[stage] = (event as ProgressEvent).loaded;
            onProgress?.((done.downloadprogress + done.loadprogress) / 2);
          });
        }
      },
    });
    this.#made = made;
    // What failed can be tried again.
    made.catch(() => {
      if (this.#made === made) this.#made = null;
    });
    return made;
  }
}

// ---- a reply in the AI SDK's shape ----------------------------------------------------------------

function content(report: TurnReport): LanguageModelV4Content[] {
  return [
    ...(report.thoughts ? [{ type: "reasoning" as const, text: report.thoughts }] : []),
    ...(report.answer ? [{ type: "text" as const, text: report.answer }] : []),
    ...report.toolCalls.map((call) => ({
      type: "tool-call" as const,
      toolCallId: freshId("call-"),
      toolName: call.name,
      input: JSON.stringify(call.arguments),
    })),
  ];
}

/** The parts of a reply as they form; an error is a part too, an abort ends the stream. */
function partStream(
  events: ReadableStream<CompletionEvent>,
  { options, warnings }: CompleteCall,
  modelId: string,
): ReadableStream<LanguageModelV4StreamPart> {
  const reader = events.getReader();
  /** The block that is open: its kind is that of its parts. */
  let block: { kind: "text" | "reasoning"; id: string } | null = null;
  return new ReadableStream<LanguageModelV4StreamPart>({
    start(controller) {
      controller.enqueue({ type: "stream-start", warnings });
      controller.enqueue({
        type: "response-metadata",
        id: freshId("reply-"),
        timestamp: new Date(),
        modelId,
      });
    },
    async pull(controller) {
      const end = () => {
        if (block) controller.enqueue({ type: `${block.kind}-end`, id: block.id });
        block = null;
      };
      try {
        const { done, value: event } = await reader.read();
        if (done) {
          controller.close();
        } else if (event.kind === "report") {
          end();
          for (const part of finalParts(event.report)) controller.enqueue(part);
        } else {
          const kind = event.kind === "answer" ? "text" : "reasoning";
          if (block?.kind !== kind) {
            end();
            block = { kind, id: freshId(`${kind}-`) };
            controller.enqueue({ type: `${kind}-start`, id: block.id });
          }
          controller.enqueue({ type: `${kind}-delta`, id: block.id, delta: event.text });
        }
      } catch (error) {
        if (options.signal?.aborted) {
          controller.error(error);
          return;
        }
        end();
        controller.enqueue({ type: "error", error });
        controller.close();
      }
    },
    cancel: (reason) => reader.cancel(reason),
  });
}

function finalParts(report: TurnReport): LanguageModelV4StreamPart[] {
  const calls = report.toolCalls.flatMap((call): LanguageModelV4StreamPart[] => {
    const id = freshId("call-");
    const input = JSON.stringify(call.arguments);
    return [
      { type: "tool-input-start", id, toolName: call.name },
      { type: "tool-input-delta", id, delta: input },
      { type: "tool-input-end", id },
      { type: "tool-call", toolCallId: id, toolName: call.name, input },
    ];
  });
  return [
    ...calls,
    {
      type: "finish",
      finishReason: finishReason(report),
      usage: usage(report),
      providerMetadata: metadata(report),
    },
  ];
}

function finishReason({ toolCalls, stopReason }: TurnReport): LanguageModelV4FinishReason {
  if (toolCalls.length > 0) return { unified: "tool-calls", raw: stopReason };
  return { unified: isCutOff(stopReason) ? "length" : "stop", raw: stopReason };
}

function usage(report: TurnReport): LanguageModelV4Usage {
  const { promptTokens, prefixTokens, generatedTokens } = report;
  return {
    inputTokens: {
      total: promptTokens,
      noCache: promptTokens - prefixTokens,
      cacheRead: prefixTokens,
      cacheWrite: undefined,
    },
    outputTokens: { total: generatedTokens, text: undefined, reasoning: undefined },
  };
}

/** What the turn did to the memory; for `providerMetadata.deltamem`. */
function metadata(report: TurnReport): SharedV4ProviderMetadata {
  const { isCommitted, memoryNorms, rollback, evictedMessages, gauges } = report;
  return { deltamem: { isCommitted, memoryNorms, rollback, evictedMessages, gauges } as unknown as JSONObject };
}
