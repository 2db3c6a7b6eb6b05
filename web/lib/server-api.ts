/**
 * The HTTP interface of `deltamem serve`, as far as a session needs it. Owns requests, the stream of a
 * reply, and how its errors become ours; docs/serve.md has the addresses.
 */
import { DeltamemError, isAbort, reasonOf } from "./errors.js";
import type { Message } from "./protocol.js";

/** Whose memory a request is about, and the little that differs between requests. */
export interface Ask {
  profile?: string;
  /** False reads the memory and leaves it as it is. */
  isWritten?: boolean;
  body?: object | Uint8Array;
  signal?: AbortSignal;
}

/** A memory as the server describes it. */
export interface ServerMemory {
  norm: number;
  layer_norms: { layer: number; norm: number }[];
  counters: {
    generation: number;
    turns: number;
    tokens_seen: number;
    tokens_written: number;
    writes: number;
  };
  created_ms: number;
  updated_ms: number;
  rank: number;
  num_state_heads: number;
}

/** The model that is loaded there. */
export interface ServerModel {
  id: string;
  context_window: number;
  deltamem: {
    adapter: string;
    identity: string | null;
    weights: string;
    kv: string;
    thinking: boolean;
    notice: string | null;
    layers: number[];
    num_state_heads: number;
    rank: number;
  };
}

/** A message in OpenAI's shape. */
interface WireMessage {
  role: string;
  content: string | null;
  reasoning_content?: string;
  tool_call_id?: string;
  tool_calls?: {
    id: string;
    type: "function";
    function: { name: string; arguments: string };
  }[];
}

export class ServerApi {
  readonly #base: URL;
  readonly #token: string | null;

  /** `base` is the address of the server, with or without a slash at the end. */
  constructor(base: string, token: string | null) {
    this.#base = new URL(base);
    if (!this.#base.pathname.endsWith("/")) this.#base.pathname += "/";
    this.#token = token;
  }

  async json<T>(method: "GET" | "POST", path: string, ask: Ask = {}): Promise<T> {
    const response = await this.#send(method, path, ask);
    try {
      return (await response.json()) as T;
    } catch (error) {
      throw this.#broken(error);
    }
  }

  async bytes(path: string, ask: Ask): Promise<Uint8Array> {
    const response = await this.#send("GET", path, ask);
    try {
      return new Uint8Array(await response.arrayBuffer());
    } catch (error) {
      throw this.#broken(error);
    }
  }

  /** The chunks of a streamed reply; one that has no end is an error. */
  async *stream(path: string, ask: Ask): AsyncGenerator<Record<string, unknown>> {
    const response = await this.#send("POST", path, ask);
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const read = await reader?.read().catch((error: unknown) => {
        throw this.#broken(error);
      });
      if (!read || read.done) break;
      text += read.value;
      const events = text.split("\n\n");
      text = events.pop() ?? "";
      for (const event of events) {
        // what begins with a colon keeps the connection open
        const data = event.startsWith("data:") ? event.slice("data:".length).trim() : "";
        if (data === "[DONE]") return;
        if (data === "") continue;
        const chunk = JSON.parse(data) as Record<string, unknown>;
        if (chunk["error"]) throw errorOf(chunk);
        yield chunk;
      }
    }
    throw this.#broken("the reply broke off");
  }

  async #send(method: string, path: string, ask: Ask): Promise<Response> {
    const { profile, isWritten, body, signal } = ask;
    const headers: Record<string, string> = {};
    if (this.#token !== null) headers["Authorization"] = `Bearer ${this.#token}`;
    if (profile !== undefined) headers["X-Memory-Profile"] = profile;
    if (isWritten === false) headers["X-Memory-Write"] = "false";
    const isFile = body instanceof Uint8Array;
    if (body) headers["Content-Type"] = isFile ? "application/octet-stream" : "application/json";
    let response: Response;
    try {
      response = await fetch(new URL(path, this.#base), {
        method,
        headers,
        ...(body && { body: isFile ? (body as Uint8Array<ArrayBuffer>) : JSON.stringify(body) }),
        ...(signal && { signal }),
      });
    } catch (error) {
      throw this.#broken(error);
    }
    if (response.ok) return response;
    throw errorOf(await response.json().catch(() => null), response.status);
  }

  #broken(error: unknown): unknown {
    if (isAbort(error)) return error;
    const message = `The server at ${this.#base.origin} does not answer: ${reasonOf(error)}.`;
    return new DeltamemError("network", message, { cause: error });
  }
}

function errorOf(body: unknown, status?: number): DeltamemError {
  const { error } = (body ?? {}) as { error?: { code?: string; message?: string } };
  const message = error?.message ?? `The server answers with the status ${status}.`;
  return new DeltamemError(error?.code ?? "network", message);
}

/** A history as the server reads it. Calls without ids get some, so that results find them. */
export function wireMessages(messages: Message[]): WireMessage[] {
  let open: string[] = [];
  return messages.map(({ role, content, reasoning, toolCalls, toolCallId }, index) => {
    if (role === "tool") {
      const next = open.shift();
      return { role, content, tool_call_id: toolCallId ?? next ?? `call_${index}` };
    }
    const calls = (toolCalls ?? []).map((call, at) => ({
      id: call.id ?? `call_${index}_${at}`,
      type: "function" as const,
      function: { name: call.name, arguments: JSON.stringify(call.arguments) },
    }));
    open = calls.map(({ id }) => id);
    return {
      role,
      content: calls.length > 0 && content === "" ? null : content,
      ...(reasoning && { reasoning_content: reasoning }),
      ...(calls.length > 0 && { tool_calls: calls }),
    };
  });
}
