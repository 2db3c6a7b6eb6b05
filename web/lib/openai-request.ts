/**
 * Turns a request in OpenAI's shape into a history and options of `LanguageModel.complete`. Owns what is
 * refused: a setting that would change the reply and cannot be honoured is an error with code
 * `unsupported`, never passed over in silence.
 */
import { refuseConstraintWithTools, toolResultText } from "./completion.js";
import { DeltamemError } from "./errors.js";
import type { Tool } from "./input.js";
import type { CompleteOptions } from "./language-model.js";
import type {
  ChatCompletionCreateParams,
  ChatCompletionMessageParam,
  ChatCompletionTool,
  ContentPart,
  ResponseFormat,
} from "./openai-types.js";
import type { Message } from "./protocol.js";

const READ = new Set([
  "messages",
  "model",
  "temperature",
  "top_p",
  "seed",
  "max_tokens",
  "max_completion_tokens",
  "stop",
  "response_format",
  "tools",
  "tool_choice",
  "parallel_tool_calls",
  "reasoning_effort",
  "chat_template_kwargs",
  "continue_final_message",
  "add_generation_prompt",
  "n",
  "stream",
  "stream_options",
]);
/** These steer a server and not the reply. */
const PASSED_OVER = new Set([
  "metadata",
  "prompt_cache_key",
  "prompt_cache_options",
  "prompt_cache_retention",
  "safety_identifier",
  "service_tier",
  "store",
  "user",
  "verbosity",
]);
/** Refused, unless they say what holds anyway. */
const NEUTRAL: Record<string, (value: unknown) => boolean> = {
  n: (value) => value === 1,
  logprobs: (value) => value === false,
  top_logprobs: (value) => value === 0,
  frequency_penalty: (value) => value === 0,
  presence_penalty: (value) => value === 0,
  logit_bias: (value) => Object.keys(value as object).length === 0,
  modalities: (value) => Array.isArray(value) && value.every((kind) => kind === "text"),
};

/** The history and the options that a request stands for. */
export interface CompleteRequest {
  history: Message[];
  options: CompleteOptions;
}

/** Throws `DeltamemError` with code `unsupported`, `setting` or `messages`. */
export function readRequest(params: ChatCompletionCreateParams): CompleteRequest {
  for (const [name, value] of Object.entries(params)) refuseUnsupported(name, value);
  const tools = readTools(params);
  const responseConstraint = readFormat(params.response_format);
  const temperature = number(params.temperature, "temperature");
  const topP = number(params.top_p, "top_p");
  const seed = number(params.seed, "seed");
  const maxTokens =
    number(params.max_completion_tokens, "max_completion_tokens") ??
    number(params.max_tokens, "max_tokens");
  const stop = typeof params.stop === "string" ? [params.stop] : params.stop;
  const options: CompleteOptions = {
    ...(temperature !== null && { temperature }),
    ...(topP !== null && { topP }),
    ...(seed !== null && { seed }),
    ...(maxTokens !== null && { maxTokens }),
    ...(stop && stop.length > 0 && { stop }),
    ...(responseConstraint && { responseConstraint }),
    ...readThinking(params),
    tools,
    ...readChoice(params),
  };
  refuseConstraintWithTools(options, 'once more with it and `tool_choice: "none"`');
  return { history: withPrefix(readMessages(params.messages), params), options };
}

/** vLLM's two switches for where a prompt ends: with the last message open, the reply goes on in it. */
function withPrefix(
  history: Message[],
  { continue_final_message: isContinued, add_generation_prompt: isBegun }: ChatCompletionCreateParams,
): Message[] {
  if (isContinued && isBegun) {
    const both = "`continue_final_message` and `add_generation_prompt` are both true";
    throw new DeltamemError("setting", `${both}: a reply goes on in the last message or begins another one.`);
  }
  if (!isContinued && isBegun === false) {
    const message = "`add_generation_prompt` is false, so no reply would begin; set `continue_final_message`.";
    throw new DeltamemError("unsupported", message);
  }
  const last = history.at(-1);
  if (!isContinued || !last) return history;
  const begun: Message & { prefix: boolean } = { ...last, prefix: true };
  return [...history.slice(0, -1), begun];
}

function refuseUnsupported(name: string, value: unknown): void {
  if (value === undefined || value === null || PASSED_OVER.has(name)) return;
  const isNeutral = NEUTRAL[name];
  if (isNeutral ? isNeutral(value) : READ.has(name)) return;
  throw new DeltamemError("unsupported", `\`${name}\` cannot be honoured by a local model; leave it out.`);
}

/** Of a template's variables a page's model has this one switch. */
function readThinking({
  reasoning_effort: effort,
  chat_template_kwargs: given,
}: ChatCompletionCreateParams): Pick<CompleteOptions, "thinking"> {
  const { enable_thinking: thinking, ...others } = given ?? {};
  const [other] = Object.keys(others);
  if (other) throw unsupported("chat_template_kwargs", `\`${other}\``, "enable_thinking");
  if (effort) return { thinking: effort !== "none" };
  return typeof thinking === "boolean" ? { thinking } : {};
}

function number(value: number | null | undefined, name: string): number | null {
  if (value === undefined || value === null) return null;
  if (Number.isFinite(value)) return value;
  throw new DeltamemError("setting", `\`${name}\` is ${String(value)}; expected a number.`);
}

// ---- messages -------------------------------------------------------------------------------------

function readMessages(messages: ChatCompletionMessageParam[]): Message[] {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new DeltamemError("messages", "`messages` is empty; expected at least one message.");
  }
  const nameOfCall = new Map<string, string>();
  return messages.map((message, index) => {
    const read = readMessage(message, `messages[${index}]`);
    for (const { id, name } of read.toolCalls ?? []) if (id) nameOfCall.set(id, name);
    const name = read.toolCallId === undefined ? undefined : nameOfCall.get(read.toolCallId);
    return name === undefined ? read : { ...read, name };
  });
}

function readMessage(message: ChatCompletionMessageParam, at: string): Message {
  const content = readContent(message.content, at);
  switch (message.role) {
    case "system":
    case "developer":
      return { role: "system", content };
    case "user":
      return { role: "user", content };
    case "assistant": {
      const toolCalls = message.tool_calls?.map((call, index) => {
        const { id, function: called } = call;
        if (!called) throw unsupported(`${at}.tool_calls[${index}]`, call.type);
        return { id, name: called.name, arguments: readArguments(called.arguments, at) };
      });
      const reasoning = message.reasoning_content;
      return {
        role: "assistant",
        content,
        ...(reasoning && { reasoning }),
        ...(toolCalls && toolCalls.length > 0 && { toolCalls }),
      };
    }
    case "tool": {
      const toolCallId = message.tool_call_id;
      return { role: "tool", content: toolResultText(content), ...(toolCallId !== undefined && { toolCallId }) };
    }
    default:
      throw unsupported(at, `role \`${message.role}\``);
  }
}

function readContent(content: string | ContentPart[] | null | undefined, at: string): string {
  if (typeof content === "string") return content;
  return (content ?? [])
    .map(({ type, text }, index) => {
      if (type !== "text" || typeof text !== "string") throw unsupported(`${at}.content[${index}]`, type);
      return text;
    })
    .join("");
}

/** The arguments of a call in a history: JSON text with an object in it. */
function readArguments(text: string, at: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = text === "" ? {} : JSON.parse(text);
  } catch (cause) {
    throw new DeltamemError("messages", `${at}: the arguments of a call are not JSON.`, { cause });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    return value as Record<string, unknown>;
  }
  throw new DeltamemError("messages", `${at}: the arguments of a call are not a JSON object.`);
}

function unsupported(at: string, what: string, instead = "text"): DeltamemError {
  return new DeltamemError("unsupported", `${at}: ${what} cannot be read; only ${instead} can.`);
}

// ---- tools and formats ----------------------------------------------------------------------------

function readTools({ tools, tool_choice: choice }: ChatCompletionCreateParams): Tool[] {
  if (choice === "none") return [];
  return (tools ?? []).map(readTool);
}

/** Whether a call must come, and whether several may. */
function readChoice({
  tool_choice: choice,
  parallel_tool_calls: isParallel,
}: ChatCompletionCreateParams): Pick<CompleteOptions, "toolChoice" | "parallelToolCalls"> {
  const parallel = isParallel === false ? { parallelToolCalls: false } : {};
  if (choice === undefined || choice === null || choice === "auto" || choice === "none") return parallel;
  if (choice === "required") return { ...parallel, toolChoice: choice };
  const { type, function: named } = choice as { type?: string; function?: { name?: unknown } };
  if (type === "function" && typeof named?.name === "string") {
    return { ...parallel, toolChoice: { name: named.name } };
  }
  throw new DeltamemError(
    "unsupported",
    `\`tool_choice\` is ${JSON.stringify(choice)}; expected none, auto, required or a function.`,
  );
}

function readTool({ type, function: described }: ChatCompletionTool, index: number): Tool {
  if (type !== "function" || !described) {
    throw new DeltamemError("unsupported", `tools[${index}] is of the type \`${type}\`; expected \`function\`.`);
  }
  return {
    name: described.name,
    description: described.description ?? "",
    inputSchema: described.parameters ?? { type: "object", properties: {} },
  };
}

function readFormat(format: ResponseFormat | undefined): Record<string, unknown> | null {
  switch (format?.type) {
    case undefined:
    case "text":
      return null;
    case "json_object":
      return { type: "object" };
    case "json_schema":
      return format.json_schema.schema ?? {};
    default:
      throw new DeltamemError(
        "unsupported",
        `\`response_format\` is of the type \`${String((format as { type: unknown }).type)}\`; expected text, json_object or json_schema.`,
      );
  }
}
