/**
 * What callers may write where a prompt, a history, tools or a constraint is wanted, and what the
 * model gets of it.
 */
import { DeltamemError } from "./errors.js";
import type { Message, Role, ToolDescription } from "./protocol.js";
import type { Constraint } from "./wasm.js";

/** A message whose content may also come in the Prompt API's parts; only text is understood. */
export interface PromptMessage extends Omit<Message, "content"> {
  content: string | { type: "text"; value: string }[];
  /** Of a last message from the assistant: the reply goes on in it instead of beginning another. */
  prefix?: boolean;
}

/** A user's words, or messages; the last of a prompt is from the user or a tool, or a `prefix`. */
export type PromptInput = string | PromptMessage | PromptMessage[];

/** Something that the model can call. */
export interface Tool extends ToolDescription {
  /**
   * Does it; what it resolves to is shown to the model as text. `prompt` calls it and goes on by
   * itself. Without it the turn ends, and the calls are in its report.
   */
  execute?: (args: Record<string, unknown>) => Promise<unknown> | unknown;
}

const ROLES: readonly Role[] = ["system", "user", "assistant", "tool"];

/** The messages of an input. Throws `messages` for what is none, `unsupported` for images and sound. */
export function messagesOf(input: PromptInput): Message[] {
  if (typeof input === "string") return [{ role: "user", content: input }];
  const messages = Array.isArray(input) ? input : [input];
  if (messages.length === 0) throw new DeltamemError("messages", "There is no message.");
  return messages.map(checkMessage);
}

/** As `messagesOf`, for what is to be answered; a last message from the assistant is gone on with. */
export function questionOf(input: PromptInput): Message[] {
  const last = Array.isArray(input) ? input.at(-1) : input;
  const isPrefix = typeof last === "object" && last !== null && last.prefix === true;
  if (!isPrefix) {
    const messages = messagesOf(input);
    const role = messages.at(-1)?.role;
    if (role === "user" || role === "tool") return messages;
    throw new DeltamemError(
      "messages",
      `The last message is from "${role}"; it must be from "user" or "tool" to be answered, or from "assistant" with \`prefix: true\` to be gone on with.`,
    );
  }
  const { prefix: _, ...begun } = last;
  const messages = messagesOf(Array.isArray(input) ? [...input.slice(0, -1), begun] : begun);
  if (begun.role !== "assistant") throw misplacedPrefix(messages.length - 1);
  if (begun.toolCalls?.length) {
    throw new DeltamemError("messages", "The last message calls tools, so no reply goes on in it.");
  }
  return messages;
}

/** What a question begins its reply with; null if it leaves that to the model. */
export function begunIn(question: Message[]): string | null {
  const last = question.at(-1);
  return last?.role === "assistant" ? last.content : null;
}

function misplacedPrefix(index: number): DeltamemError {
  return new DeltamemError(
    "messages",
    `Message ${index}: \`prefix\` is for the last message of a prompt, and only for one from "assistant".`,
  );
}

/** What begins every context: at most one system message, first. */
export function initialPromptsOf(prompts: PromptMessage[]): Message[] {
  return prompts.map((prompt, index) => {
    const message = checkMessage(prompt, index);
    if (message.role === "system" && index > 0) {
      throw new DeltamemError(
        "messages",
        `initialPrompts[${index}]: a system message can only be the first.`,
      );
    }
    return message;
  });
}

function checkMessage(message: PromptMessage, index: number): Message {
  if (typeof message !== "object" || message === null || !ROLES.includes(message.role)) {
    throw new DeltamemError(
      "messages",
      `Message ${index}: expected an object whose role is one of ${ROLES.join(", ")}.`,
    );
  }
  if (message.prefix === true) throw misplacedPrefix(index);
  const { role, content, reasoning, toolCalls, toolCallId, name } = message;
  return {
    role,
    content: textOf(content, index),
    ...(reasoning !== undefined && { reasoning }),
    ...(toolCalls !== undefined && { toolCalls }),
    ...(toolCallId !== undefined && { toolCallId }),
    ...(name !== undefined && { name }),
  };
}

function textOf(content: PromptMessage["content"], index: number): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) {
    throw new DeltamemError("messages", `Message ${index} has no content.`);
  }
  return content
    .map((part) => {
      if (part?.type === "text" && typeof part.value === "string") return part.value;
      throw new DeltamemError(
        "unsupported",
        `Message ${index} has a part of the type "${part?.type}"; this model reads text only.`,
      );
    })
    .join("");
}

/** Tools as the worker is told of them. Throws `messages` for a tool without name or schema. */
export function describeTools(tools: Tool[]): ToolDescription[] {
  return tools.map((tool, index) => {
    const { name, description, inputSchema } = tool;
    const isSchema = typeof inputSchema === "object" && inputSchema !== null;
    if (typeof name !== "string" || name === "" || !isSchema) {
      throw new DeltamemError("messages", `tools[${index}]: expected a name and an inputSchema.`);
    }
    if (tools.findIndex((other) => other.name === name) !== index) {
      throw new DeltamemError("messages", `tools[${index}]: "${name}" is there twice.`);
    }
    return { name, description: description ?? "", inputSchema };
  });
}

/** A constraint from a RegExp or a JSON Schema. Throws `unsupported` for flags other than `i`. */
export function constraintOf(constraint: RegExp | object): Constraint {
  if (constraint instanceof RegExp) {
    const others = constraint.flags.replace("i", "");
    if (others !== "") {
      throw new DeltamemError(
        "unsupported",
        `responseConstraint: the flags "${others}" of ${constraint} are not supported, only "i" is.`,
      );
    }
    const prefix = constraint.ignoreCase ? "(?i)" : "";
    return { kind: "regex", pattern: prefix + constraint.source };
  }
  if (typeof constraint !== "object" || constraint === null || Array.isArray(constraint)) {
    throw new DeltamemError(
      "unsupported",
      "responseConstraint: expected a RegExp or a JSON Schema as an object.",
    );
  }
  return { kind: "json_schema", schema: constraint };
}
