/**
 * Turns a call of Vercel's AI SDK into a history and options of `LanguageModel.complete`. What cannot
 * be honoured becomes a warning, or, where the reply would be another one, an error with code
 * `unsupported`.
 */
import type {
  LanguageModelV4CallOptions,
  LanguageModelV4Message,
  LanguageModelV4Prompt,
  LanguageModelV4ToolResultPart,
  SharedV4Warning,
} from "@ai-sdk/provider";
import { refuseConstraintWithTools, toolResultText } from "./completion.js";
import { DeltamemError } from "./errors.js";
import type { Tool } from "./input.js";
import type { CompleteOptions } from "./language-model.js";
import type { Message } from "./protocol.js";

/** What `providerOptions.deltamem` may hold: settings that the AI SDK has no name for. */
export interface DeltamemCallOptions {
  /** Whether the model thinks; goes before the AI SDK's `reasoning`. */
  thinking?: boolean;
  /** False reads the memory and leaves it as it is. */
  write?: boolean;
  minP?: number;
  repetitionPenalty?: number;
  /** Reports gauges in `providerMetadata.deltamem`. */
  gauges?: boolean;
  /** What a full window does: forget the oldest turns (default), or fail. */
  overflow?: "evict" | "error";
}

const CALL_OPTIONS: Record<keyof DeltamemCallOptions, (value: unknown) => boolean> = {
  thinking: isBoolean,
  write: isBoolean,
  minP: isNumber,
  repetitionPenalty: isNumber,
  gauges: isBoolean,
  overflow: (value) => value === "evict" || value === "error",
};

/** The history and the options that a call stands for. */
export interface CompleteCall {
  history: Message[];
  options: CompleteOptions;
  warnings: SharedV4Warning[];
}

/** Throws `DeltamemError` with code `unsupported` or `setting`. */
export function readCall(call: LanguageModelV4CallOptions): CompleteCall {
  const warnings: SharedV4Warning[] = [];
  const format = call.responseFormat;
  const options: CompleteOptions = {
    ...(call.temperature !== undefined && { temperature: call.temperature }),
    ...(call.topK !== undefined && { topK: call.topK }),
    ...(call.topP !== undefined && { topP: call.topP }),
    ...(call.seed !== undefined && { seed: call.seed }),
    ...(call.maxOutputTokens !== undefined && { maxTokens: call.maxOutputTokens }),
    ...(call.stopSequences && call.stopSequences.length > 0 && { stop: call.stopSequences }),
    ...(call.abortSignal && { signal: call.abortSignal }),
    ...(format?.type === "json" && {
      responseConstraint: (format.schema ?? { type: "object" }) as Record<string, unknown>,
    }),
    ...(call.reasoning &&
      call.reasoning !== "provider-default" && { thinking: call.reasoning !== "none" }),
    ...readCallOptions(call.providerOptions?.["deltamem"]),
    tools: readTools(call, warnings),
    ...readChoice(call),
  };
  refuseConstraintWithTools(options, "once more with it and `toolChoice: \"none\"`");
  for (const feature of ["presencePenalty", "frequencyPenalty"] as const) {
    if (call[feature]) {
      warnings.push({ type: "unsupported", feature, details: "use providerOptions.deltamem.repetitionPenalty" });
    }
  }
  return { history: readPrompt(call.prompt), options, warnings };
}

function readCallOptions(given: Record<string, unknown> | undefined): DeltamemCallOptions {
  for (const [name, value] of Object.entries(given ?? {})) {
    const isValid = CALL_OPTIONS[name as keyof DeltamemCallOptions];
    if (!isValid?.(value)) {
      const known = Object.keys(CALL_OPTIONS).join(", ");
      throw new DeltamemError(
        "setting",
        `providerOptions.deltamem.${name} is ${JSON.stringify(value)}; known are ${known}.`,
      );
    }
  }
  return given ?? {};
}

function readTools(
  { tools = [], toolChoice }: LanguageModelV4CallOptions,
  warnings: SharedV4Warning[],
): Tool[] {
  if (toolChoice?.type === "none") return [];
  return tools.flatMap((tool) => {
    if (tool.type === "function") {
      const { name, description = "", inputSchema } = tool;
      return [{ name, description, inputSchema: inputSchema as Record<string, unknown> }];
    }
    warnings.push({ type: "unsupported", feature: `provider-defined tool ${tool.id}` });
    return [];
  });
}

/** Whether a call must come. */
function readChoice({ toolChoice }: LanguageModelV4CallOptions): Pick<CompleteOptions, "toolChoice"> {
  if (toolChoice?.type === "required") return { toolChoice: "required" };
  return toolChoice?.type === "tool" ? { toolChoice: { name: toolChoice.toolName } } : {};
}

// ---- messages -------------------------------------------------------------------------------------

function readPrompt(prompt: LanguageModelV4Prompt): Message[] {
  const messages = prompt.flatMap(readMessage);
  // Chat templates know one system message, at the beginning.
  const system = messages.findIndex(({ role }) => role !== "system");
  const first = messages.slice(0, system < 0 ? messages.length : system);
  if (first.length < 2) return messages;
  const content = first.map((message) => message.content).join("\n\n");
  return [{ role: "system", content }, ...messages.slice(first.length)];
}

function readMessage(message: LanguageModelV4Message): Message[] {
  switch (message.role) {
    case "system":
      return [{ role: "system", content: message.content }];
    case "user":
      return [{ role: "user", content: message.content.map(textOf).join("") }];
    case "assistant":
      return [readReply(message.content)];
    case "tool":
      return message.content.map((part) => {
        if (part.type !== "tool-result") throw unreadable(part.type);
        const { toolCallId, toolName: name } = part;
        return { role: "tool", content: toolResultText(resultText(part.output)), toolCallId, name };
      });
  }
}

function readReply(parts: Extract<LanguageModelV4Message, { role: "assistant" }>["content"]): Message {
  let content = "";
  let reasoning = "";
  const toolCalls: NonNullable<Message["toolCalls"]> = [];
  for (const part of parts) {
    if (part.type === "reasoning") reasoning += part.text;
    else if (part.type === "tool-call") {
      const { toolCallId: id, toolName: name, input } = part;
      toolCalls.push({ id, name, arguments: (input ?? {}) as Record<string, unknown> });
    } else content += textOf(part);
  }
  return {
    role: "assistant",
    content,
    ...(reasoning && { reasoning }),
    ...(toolCalls.length > 0 && { toolCalls }),
  };
}

function textOf(part: { type: string; text?: unknown }): string {
  if (part.type !== "text" || typeof part.text !== "string") throw unreadable(part.type);
  return part.text;
}

function resultText(output: LanguageModelV4ToolResultPart["output"]): string {
  switch (output.type) {
    case "text":
    case "error-text":
      return output.value;
    case "json":
    case "error-json":
      return JSON.stringify(output.value);
    case "execution-denied":
      return output.reason ?? "The person did not allow this call.";
    case "content":
      return output.value.map(textOf).join("\n");
  }
}

function unreadable(type: string): DeltamemError {
  return new DeltamemError("unsupported", `A message has a part of the type \`${type}\`; only text can be read.`);
}

function isBoolean(value: unknown): boolean {
  return typeof value === "boolean";
}

function isNumber(value: unknown): boolean {
  return typeof value === "number" && Number.isFinite(value);
}
