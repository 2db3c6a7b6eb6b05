/** Runs what the model calls for, and puts the results in the form in which it reads them. */
import { reasonOf } from "./errors.js";
import type { Tool } from "./input.js";
import type { Message } from "./protocol.js";
import type { ToolCall } from "./wasm.js";

/**
 * The results of all calls, in their order; null if there is none, or one that the caller has to run
 * (a tool without `execute`). A tool that fails, or is not there, is reported to the model.
 */
export async function runTools(tools: Tool[], calls: ToolCall[]): Promise<Message[] | null> {
  if (calls.length === 0) return null;
  const toolOf = ({ name }: ToolCall) => tools.find((tool) => tool.name === name);
  if (calls.some((call) => toolOf(call) && !toolOf(call)?.execute)) return null;
  if (!calls.some((call) => toolOf(call))) return null;
  const results = [];
  for (const call of calls) {
    const content = await resultOf(toolOf(call), call);
    // A message without text is refused, and a tool may have nothing to say.
    results.push({ role: "tool" as const, name: call.name, content: content || "(no output)" });
  }
  return results;
}

async function resultOf(tool: Tool | undefined, call: ToolCall): Promise<string> {
  if (!tool?.execute) return `Error: there is no tool "${call.name}".`;
  try {
    const result = await tool.execute(call.arguments);
    return typeof result === "string" ? result : (JSON.stringify(result) ?? "");
  } catch (error) {
    return `Error: ${reasonOf(error)}`;
  }
}
