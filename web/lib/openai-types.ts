/**
 * The shapes of OpenAI's chat completions, as far as this package fills or reads them. What it returns
 * can be assigned to the types of the npm package `openai`, whose requests can be passed to it
 * (test/openai-types.ts).
 */

/** A part of a message's content; of parts only text can be read. */
export interface ContentPart {
  type: string;
  text?: string;
}

export interface ChatCompletionMessageParam {
  role: string;
  content?: string | ContentPart[] | null;
  /** The thoughts of an earlier reply, as `ChatCompletionMessage` has them. */
  reasoning_content?: string | null;
  tool_calls?: ChatCompletionToolCallParam[];
  /** Of a tool's result: which call it answers. */
  tool_call_id?: string;
}

export interface ChatCompletionToolCallParam {
  id: string;
  type: string;
  function?: { name: string; arguments: string };
}

export interface ChatCompletionTool {
  type: string;
  function?: {
    name: string;
    description?: string;
    /** JSON Schema of the arguments. */
    parameters?: Record<string, unknown>;
    strict?: boolean | null;
  };
}

export type ResponseFormat =
  | { type: "text" }
  | { type: "json_object" }
  | {
      type: "json_schema";
      json_schema: {
        name: string;
        description?: string;
        schema?: Record<string, unknown>;
        strict?: boolean | null;
      };
    };

interface CreateParamsBase {
  messages: ChatCompletionMessageParam[];
  /** Only repeated in the answer: the session has its model. */
  model?: string;
  temperature?: number | null;
  top_p?: number | null;
  /** An integer; the same seed after the same history gives the same reply. */
  seed?: number | null;
  /** In tokens. */
  max_tokens?: number | null;
  max_completion_tokens?: number | null;
  stop?: string | string[] | null;
  response_format?: ResponseFormat;
  tools?: ChatCompletionTool[];
  /** `"auto"` or `"none"`; nothing else can be promised. */
  tool_choice?: string | object;
  parallel_tool_calls?: boolean | null;
  /** `"none"` switches thinking off, every other effort on. */
  reasoning_effort?: string | null;
  /** As vLLM and llama.cpp take it; `reasoning_effort` goes before it. */
  chat_template_kwargs?: { enable_thinking?: boolean | null } | null;
  /** The last message is the assistant's, and the reply goes on in it; as vLLM takes it. */
  continue_final_message?: boolean | null;
  /** Must not be true with `continue_final_message`, nor false without it. */
  add_generation_prompt?: boolean | null;
  /** Only 1. */
  n?: number | null;
  stream_options?: { include_usage?: boolean } | null;
}

export interface ChatCompletionCreateParamsNonStreaming extends CreateParamsBase {
  stream?: false | null;
}

export interface ChatCompletionCreateParamsStreaming extends CreateParamsBase {
  stream: true;
}

export type ChatCompletionCreateParams =
  | ChatCompletionCreateParamsNonStreaming
  | ChatCompletionCreateParamsStreaming;

/** The second argument of `create`. */
export interface RequestOptions {
  signal?: AbortSignal | null | undefined;
}

export type FinishReason = "stop" | "length" | "tool_calls";

export interface CompletionUsage {
  /** Of the whole history, what was recognised included. */
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  /** How much of the history was recognised and not fed again. */
  prompt_tokens_details: { cached_tokens: number };
}

export interface ChatCompletionMessageToolCall {
  id: string;
  type: "function";
  /** `arguments` is a JSON object in text. */
  function: { name: string; arguments: string };
}

export interface ChatCompletionMessage {
  role: "assistant";
  /** Null if the reply is nothing but calls. */
  content: string | null;
  refusal: null;
  /** The thoughts; absent if there are none. */
  reasoning_content?: string;
  tool_calls?: ChatCompletionMessageToolCall[];
}

export interface ChatCompletion {
  id: string;
  object: "chat.completion";
  /** Unix seconds. */
  created: number;
  model: string;
  choices: {
    index: number;
    message: ChatCompletionMessage;
    finish_reason: FinishReason;
    logprobs: null;
  }[];
  usage: CompletionUsage;
}

export interface ChatCompletionDelta {
  role?: "assistant";
  content?: string;
  reasoning_content?: string;
  tool_calls?: (ChatCompletionMessageToolCall & { index: number })[];
}

export interface ChatCompletionChunk {
  id: string;
  object: "chat.completion.chunk";
  created: number;
  model: string;
  /** One; none in the chunk that carries the usage. */
  choices: {
    index: number;
    delta: ChatCompletionDelta;
    finish_reason: FinishReason | null;
    logprobs: null;
  }[];
  /** Only with `include_usage`: null until the last chunk. */
  usage?: CompletionUsage | null;
}
