/**
 * `LanguageModel.complete` for callers that bring a whole history each time and never say when a
 * conversation ends. Owns what the shapes of other libraries (openai.ts, ai-sdk.ts) have in common;
 * knows none of those shapes.
 */
import { DeltamemError } from "./errors.js";
import type { CompleteOptions, LanguageModel, TurnReport } from "./language-model.js";
import type { Message } from "./protocol.js";
import type { StopReason } from "./wasm.js";

/** A piece of the reply as it forms, or, once and last, what came of the turn. */
export type CompletionEvent =
  | { kind: "answer" | "thought"; text: string }
  | { kind: "report"; report: TurnReport };

/** The conversation that a session was last asked to go on with. */
interface Conversation {
  /** Its first message after the system's; null if there is none. */
  opening: string | null;
  /** Messages that are not the model's own. */
  questions: number;
}

const lastConversations = new WeakMap<LanguageModel, Conversation>();

/**
 * Answers a history. For `complete` one that begins otherwise is the same conversation changed, whose
 * dropped part the memory unlearns; here it is another conversation: the context is emptied before,
 * and the memory keeps what it has. So is one that is back at its first question after several.
 */
export async function completeHistory(
  session: LanguageModel,
  history: Message[],
  options: CompleteOptions,
): Promise<TurnReport> {
  const asked = conversationOf(history);
  if (!lastConversations.has(session)) {
    const found = conversationOf(await session.history());
    if (!lastConversations.has(session)) lastConversations.set(session, found);
  }
  const last = lastConversations.get(session);
  lastConversations.set(session, asked);
  const isOther =
    last !== undefined &&
    last.opening !== null &&
    (last.opening !== asked.opening || (asked.questions === 1 && last.questions > 1));
  // Asked for in one go, so that no other call comes in between.
  const emptied = isOther ? session.newContext() : null;
  const [report] = await Promise.all([session.complete(history, options), emptied]);
  return report;
}

function conversationOf(history: Message[]): Conversation {
  const messages = history.filter(({ role }) => role !== "system");
  const [first] = messages;
  return {
    opening: first ? `${first.role} ${first.content.trim()}` : null,
    questions: messages.filter(({ role }) => role !== "assistant").length,
  };
}

/**
 * `completeHistory` as a stream of events. Begins at once. Cancelling the stream ends the reply, as an abort of `options.signal` does; after
 * an abort the stream fails with the signal's reason.
 */
export function completionStream(
  session: LanguageModel,
  history: Message[],
  options: CompleteOptions,
): ReadableStream<CompletionEvent> {
  const gone = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, gone.signal]) : gone.signal;
  return new ReadableStream<CompletionEvent>({
    start: (controller) => {
      const send = (event: CompletionEvent) => {
        if (!gone.signal.aborted) controller.enqueue(event);
      };
      completeHistory(session, history, {
        ...options,
        signal,
        onAnswer: (text) => send({ kind: "answer", text }),
        onThought: (text) => send({ kind: "thought", text }),
      })
        .then((report) => {
          send({ kind: "report", report });
          if (!gone.signal.aborted) controller.close();
        })
        .catch((error: unknown) => {
          if (!gone.signal.aborted) controller.error(error);
        });
    },
    cancel: (reason) => gone.abort(reason),
  });
}

/** A name that no other object of this kind has had. */
export function freshId(prefix: string): string {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return prefix + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A tool's result as the model reads it: a message without text would be refused. */
export function toolResultText(text: string): string {
  return text.trim() === "" ? "(no output)" : text;
}

/** Throws `unsupported` if the reply is held to a schema and is to call tools as well. */
export function refuseConstraintWithTools(options: CompleteOptions, remedy: string): void {
  if (options.responseConstraint === undefined || !options.tools?.length) return;
  throw new DeltamemError(
    "unsupported",
    `A reply that is held to a schema cannot call tools. Ask without the schema as long as tools are wanted, then ${remedy}.`,
  );
}

/** True if the reply was cut off where something was full. */
export function isCutOff(reason: StopReason): boolean {
  return reason === "max_tokens" || reason === "context_full";
}
