/**
 * `deltamem/openai`: a session behind the shape of OpenAI's `client.chat.completions.create`. Requests
 * bring the whole history each time; the session recognises what it has seen and feeds only the rest,
 * so nothing is memorised twice.
 */
import {
  completeHistory,
  completionStream,
  freshId,
  isCutOff,
  type CompletionEvent,
} from "./completion.js";
import type { LanguageModel, TurnReport } from "./language-model.js";
import { readRequest, type CompleteRequest } from "./openai-request.js";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatCompletionCreateParams,
  ChatCompletionCreateParamsNonStreaming,
  ChatCompletionCreateParamsStreaming,
  ChatCompletionDelta,
  ChatCompletionMessageToolCall,
  CompletionUsage,
  FinishReason,
  RequestOptions,
} from "./openai-types.js";

export type * from "./openai-types.js";

export interface ClientOptions {
  /** Its own initial prompts and tools, if it has any, give way to what the request brings. */
  session: LanguageModel;
}

/**
 * The chunks of a reply, to be read once. Leaving the loop ends the reply; after an abort the loop
 * ends without an error, as it does with OpenAI's library.
 */
export interface ChatCompletionStream extends AsyncIterable<ChatCompletionChunk> {
  /** Its `abort()` ends the reply. */
  readonly controller: AbortController;
}

export interface ChatCompletions {
  /** Rejects with a `DeltamemError`, or with the reason of `options.signal`. */
  create(params: ChatCompletionCreateParamsNonStreaming, options?: RequestOptions): Promise<ChatCompletion>;
  create(params: ChatCompletionCreateParamsStreaming, options?: RequestOptions): Promise<ChatCompletionStream>;
  create(
    params: ChatCompletionCreateParams,
    options?: RequestOptions,
  ): Promise<ChatCompletion | ChatCompletionStream>;
}

export interface Client {
  readonly chat: { readonly completions: ChatCompletions };
}

/** A client in OpenAI's shape that answers with `session`. */
export function createClient({ session }: ClientOptions): Client {
  async function create(
    params: ChatCompletionCreateParams,
    { signal }: RequestOptions = {},
  ): Promise<ChatCompletion | ChatCompletionStream> {
    signal?.throwIfAborted();
    const request = readRequest(params);
    const head: Head = {
      id: freshId("chatcmpl-"),
      created: Math.floor(Date.now() / 1000),
      model: params.model ?? session.model.name,
    };
    if (params.stream) {
      return stream(session, request, head, params.stream_options?.include_usage ?? false, signal);
    }
    const options = { ...request.options, ...(signal && { signal }) };
    const report = await completeHistory(session, request.history, options);
    return completion(head, report);
  }
  return { chat: { completions: { create: create as ChatCompletions["create"] } } };
}

/** What all parts of an answer repeat. */
interface Head {
  id: string;
  created: number;
  model: string;
}

function completion(head: Head, report: TurnReport): ChatCompletion {
  const calls = toolCalls(report);
  return {
    ...head,
    object: "chat.completion",
    choices: [
      {
        index: 0,
        message: {
          role: "assistant",
          content: report.answer === "" && calls.length > 0 ? null : report.answer,
          refusal: null,
          ...(report.thoughts && { reasoning_content: report.thoughts }),
          ...(calls.length > 0 && { tool_calls: calls }),
        },
        finish_reason: finishReason(report),
        logprobs: null,
      },
    ],
    usage: usage(report),
  };
}

function stream(
  session: LanguageModel,
  { history, options }: CompleteRequest,
  head: Head,
  isUsageWanted: boolean,
  outside: AbortSignal | null | undefined,
): ChatCompletionStream {
  const controller = new AbortController();
  const signal = outside ? AbortSignal.any([outside, controller.signal]) : controller.signal;
  const events = completionStream(session, history, { ...options, signal });
  let isRead = false;
  return {
    controller,
    [Symbol.asyncIterator]() {
      if (isRead) throw new TypeError("The chunks of a reply can be read only once.");
      isRead = true;
      return chunks(events, head, isUsageWanted, signal);
    },
  };
}

async function* chunks(
  events: ReadableStream<CompletionEvent>,
  head: Head,
  isUsageWanted: boolean,
  signal: AbortSignal,
): AsyncGenerator<ChatCompletionChunk, void, undefined> {
  const chunk = (delta: ChatCompletionDelta, finish: FinishReason | null = null): ChatCompletionChunk => ({
    ...head,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, finish_reason: finish, logprobs: null }],
    ...(isUsageWanted && { usage: null }),
  });
  // Safari has no `for await` over streams.
  const reader = events.getReader();
  try {
    yield chunk({ role: "assistant", content: "" });
    for (;;) {
      const { done, value: event } = await reader.read();
      if (done) return;
      if (event.kind !== "report") {
        yield chunk({ [event.kind === "answer" ? "content" : "reasoning_content"]: event.text });
        continue;
      }
      const calls = toolCalls(event.report).map((call, index) => ({ index, ...call }));
      if (calls.length > 0) yield chunk({ tool_calls: calls });
      yield chunk({}, finishReason(event.report));
      if (isUsageWanted) yield { ...chunk({}), choices: [], usage: usage(event.report) };
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    // The consumer has left the loop, or all was read.
    await reader.cancel().catch(() => undefined);
  }
}

function toolCalls(report: TurnReport): ChatCompletionMessageToolCall[] {
  return report.toolCalls.map((call) => ({
    id: freshId("call_"),
    type: "function",
    function: { name: call.name, arguments: JSON.stringify(call.arguments) },
  }));
}

function finishReason({ toolCalls: calls, stopReason }: TurnReport): FinishReason {
  if (calls.length > 0) return "tool_calls";
  return isCutOff(stopReason) ? "length" : "stop";
}

function usage(report: TurnReport): CompletionUsage {
  return {
    prompt_tokens: report.promptTokens,
    completion_tokens: report.generatedTokens,
    total_tokens: report.promptTokens + report.generatedTokens,
    prompt_tokens_details: { cached_tokens: report.prefixTokens },
  };
}
