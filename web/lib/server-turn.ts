/** One turn on a server: its request in OpenAI's shape, and the reply put together from its chunks. */
import { DeltamemError } from "./errors.js";
import type { Message, MessageToolCall, Piece, ToolDescription } from "./protocol.js";
import { wireMessages } from "./server-api.js";
import type { Constraint, Gauge, ModelTurn, ModelTurnOptions, StopReason, ToolFormat } from "./wasm.js";

/** What of a session goes into each of its requests. */
export interface Around {
  model: string;
  tools: ToolDescription[];
  thinking: boolean | null;
  toolFormat: ToolFormat;
  hasMemory: boolean;
}

/** A request for a streamed reply. */
export function requestBody(messages: Message[], settings: ModelTurnOptions, around: Around): object {
  const { constraint, gauges, overflow, maxTokens, topK, topP, minP, repetitionPenalty } = settings;
  const { temperature, seed, stop, maxToolCalls, continueFinalMessage } = settings;
  const functions = around.tools.map(({ name, description, inputSchema: parameters }) => ({
    type: "function",
    function: { name, description, parameters },
  }));
  return {
    model: around.model,
    messages: wireMessages(messages),
    stream: true,
    stream_options: { include_usage: true },
    temperature,
    seed,
    stop,
    max_tokens: maxTokens,
    top_k: topK,
    top_p: topP,
    min_p: minP,
    repetition_penalty: repetitionPenalty,
    ...(functions.length > 0 && { tools: functions }),
    ...(around.thinking !== null && { chat_template_kwargs: { enable_thinking: around.thinking } }),
    ...formatOf(constraint, around.tools),
    ...(maxToolCalls === 1 && { parallel_tool_calls: false }),
    ...(continueFinalMessage && { continue_final_message: true }),
    deltamem: {
      memory: around.hasMemory,
      gauges: gauges ?? false,
      overflow: overflow ?? "evict",
      // a server of before knows no such field
      ...(around.toolFormat !== "template" && { tool_format: around.toolFormat }),
      ...(constraint?.kind === "regex" && { regex: constraint.pattern }),
    },
  };
}

function formatOf(constraint: Constraint | undefined, tools: ToolDescription[]): object {
  if (constraint?.kind === "json_object") return { response_format: { type: "json_object" } };
  if (constraint?.kind === "tool_calls") return { tool_choice: choiceOf(constraint.tools, tools) };
  if (constraint?.kind !== "json_schema") return {};
  const json_schema = { name: "reply", schema: constraint.schema };
  return { response_format: { type: "json_schema", json_schema } };
}

/** All tools are wanted, or one of them. */
function choiceOf(wanted: unknown[], tools: ToolDescription[]): string | object {
  const [first] = wanted as ToolDescription[];
  if (!first || wanted.length === tools.length) return "required";
  return { type: "function", function: { name: first.name } };
}

/** A reply in the making. */
export class Reply {
  readonly #notify: (piece: Piece) => void;
  #answer = "";
  #thoughts = "";
  #calls: MessageToolCall[] = [];
  #end: End | null = null;
  #usage: Usage | null = null;

  constructor(notify: (piece: Piece) => void) {
    this.#notify = notify;
  }

  add(chunk: Record<string, unknown>): void {
    const { choices, usage } = chunk as { choices?: { delta?: Delta }[]; usage?: Usage | null };
    const { content, reasoning_content: thought, tool_calls: calls } = choices?.[0]?.delta ?? {};
    if (content) {
      this.#answer += content;
      this.#notify({ kind: "answer", text: content });
    }
    if (thought) {
      this.#thoughts += thought;
      this.#notify({ kind: "thought", text: thought });
    }
    for (const { id, function: call } of calls ?? []) {
      this.#calls.push({ id, name: call.name, arguments: JSON.parse(call.arguments) as MessageToolCall["arguments"] });
    }
    if (chunk["deltamem"]) this.#end = chunk as unknown as End;
    this.#usage = usage ?? this.#usage;
  }

  finish(): { turn: ModelTurn; generation: number | null; calls: MessageToolCall[] } {
    const [end, usage] = [this.#end, this.#usage];
    if (!end || !usage) throw new DeltamemError("unsupported", "This is no server of deltamem.");
    const { memory, deltamem } = end;
    const { rollback } = memory;
    const turn: ModelTurn = {
      answer: this.#answer,
      thoughts: this.#thoughts,
      stopReason: deltamem.stop_reason,
      generatedTokens: usage.completion_tokens,
      promptTokens: usage.prompt_tokens,
      promptSeconds: deltamem.prompt_seconds,
      decodeSeconds: deltamem.decode_seconds,
      prefixTokens: usage.prompt_tokens_details.cached_tokens,
      memoryNorms: [memory.norm_before, memory.norm_after],
      rollback: rollback && {
        commonTokens: rollback.common_tokens,
        droppedTokens: rollback.dropped_tokens,
        memory: rollback.memory,
      },
      evictedMessages: memory.evicted_messages,
      toolCalls: this.#calls.map(({ name, arguments: given }) => ({ name, arguments: given })),
      gauges: deltamem.gauges,
    };
    return { turn, generation: memory.generation, calls: this.#calls };
  }
}

interface Delta {
  content?: string | null;
  reasoning_content?: string;
  tool_calls?: { id: string; function: { name: string; arguments: string } }[];
}

interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details: { cached_tokens: number };
}

/** What the last chunk of a reply has beside OpenAI's fields. */
interface End {
  memory: {
    generation: number | null;
    norm_before: number;
    norm_after: number;
    evicted_messages: number;
    rollback: {
      common_tokens: number;
      dropped_tokens: number;
      memory: "restored" | "kept";
    } | null;
  };
  deltamem: {
    stop_reason: StopReason;
    prompt_seconds: number;
    decode_seconds: number;
    gauges: Gauge[] | null;
  };
}
