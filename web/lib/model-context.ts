/**
 * A session's context: the messages that the model has, as they were after the last finished call, and
 * what of them can be taken back. A lost device is refilled with them.
 */
import { begunIn } from "./input.js";
import type { ModelHost } from "./model-host.js";
import type { Message } from "./protocol.js";
import { type Step, Steps } from "./steps.js";
import type { ModelTurn } from "./wasm.js";

/** Messages with their size, as the model had them at one moment. */
export interface ContextState {
  messages: Message[];
  /** Tokens. */
  usage: number;
}

export class ModelContext {
  readonly #host: ModelHost;
  readonly #initialPrompts: Message[];
  #state: ContextState;
  /** How replies were reported, by the text that the model keeps: that has thoughts and calls in it. */
  #replies = new Map<string, Message>();
  steps = new Steps();

  constructor(host: ModelHost, initialPrompts: Message[]) {
    this.#host = host;
    this.#initialPrompts = initialPrompts;
    this.#state = { messages: initialPrompts, usage: 0 };
  }

  /** The same context for a clone. */
  copy(): ModelContext {
    const copy = new ModelContext(this.#host, this.#initialPrompts);
    copy.#state = this.#state;
    copy.#replies = new Map(this.#replies);
    copy.steps = this.steps.copy();
    return copy;
  }

  /** As it was after the last finished call. */
  get state(): ContextState {
    return this.#state;
  }

  /** As the model has it now. */
  now(): ContextState {
    return { messages: this.#host.messages(), usage: this.#host.model.contextUsage() };
  }

  /** A call has finished: what left the window, or was taken back, is not needed any more. */
  settle(state: ContextState = this.now()): void {
    this.#state = state;
    const held = new Set(state.messages.map(({ content }) => content));
    for (const content of this.#replies.keys()) {
      if (!held.has(content)) this.#replies.delete(content);
    }
  }

  /** How many replies are held as they were reported; no more than the window has. */
  get reportedReplies(): number {
    return this.#replies.size;
  }

  /** The messages as a person would have them: replies without thoughts and calls in their text. */
  history(): Message[] {
    return this.#state.messages.map((message) => {
      const isReply = message.role === "assistant";
      return (isReply && this.#replies.get(message.content)) || message;
    });
  }

  /** Remembers a turn that was added; gives the context with it. */
  addTurn(question: Message[], turn: ModelTurn): ContextState {
    const state = this.now();
    const { answer, thoughts, toolCalls } = turn;
    const begun = begunIn(question);
    this.#replies.set(state.messages.at(-1)?.content ?? "", {
      role: "assistant",
      content: (begun ?? "") + answer,
      ...(thoughts && { reasoning: thoughts }),
      ...(toolCalls.length > 0 && { toolCalls }),
    });
    if (turn.rollback) this.steps.clear();
    const replies = begun === null ? 1 : 0;
    this.#add(state, "turn", question, replies, turn.evictedMessages, turn.rollback !== null);
    return state;
  }

  /** Remembers messages that were added without a reply. */
  addMessages(messages: Message[], evictedMessages: number): ContextState {
    const state = this.now();
    this.#add(state, "append", messages, 0, evictedMessages, false);
    return state;
  }

  #add(
    { messages }: ContextState,
    kind: Step["kind"],
    question: Message[],
    replies: number,
    evictedMessages: number,
    isRolledBack: boolean,
  ): void {
    this.steps.evict(evictedMessages, this.#pinned(messages));
    const messagesBefore = messages.length - question.length - replies;
    this.steps.push({ kind, question, messagesBefore, generation: null, isRolledBack });
  }

  /** Empties it but for the initial prompts. */
  async renew(): Promise<void> {
    await this.#fill(this.#initialPrompts);
    this.steps.clear();
    this.#replies.clear();
    this.settle();
  }

  /** Puts the messages of the last finished call into the model; they are read, not written. */
  async refill(): Promise<void> {
    await this.#fill(this.#state.messages);
  }

  /** As `refill`, if the model has others. */
  async refillUnlessSame(): Promise<void> {
    const { messages } = this.#state;
    if (this.#host.messages().length !== messages.length) await this.#fill(messages);
  }

  /** Takes the newest step out of the model; true if that took its memory back with it. */
  async leave(): Promise<boolean> {
    const step = this.steps.pop();
    if (!step || step.messagesBefore === null) return false;
    const messages = this.#host.messages().slice(0, step.messagesBefore);
    const isUndone = !step.isRolledBack && (await this.#host.call((model) => model.undoTurn()));
    if (isUndone && this.#host.messages().length === messages.length) return true;
    await this.#fill(messages);
    return false;
  }

  async #fill(messages: Message[]): Promise<void> {
    const systemOf = (of: Message[]) => JSON.stringify(of.filter(({ role }) => role === "system"));
    // The model keeps a system message by itself, and need not read it alone.
    const isSystemOnly = messages.every(({ role }) => role === "system");
    if (isSystemOnly && systemOf(this.#host.messages()) === systemOf(messages)) {
      await this.#host.call((model) => model.newContext());
      return;
    }
    const pinned = this.#pinned(messages);
    await this.#host.call((model) => model.resume(JSON.stringify(messages), pinned));
  }

  /** How many messages at the beginning never leave the window. */
  #pinned(messages: Message[]): number {
    const { length } = this.#initialPrompts;
    const isSame = (a: Message | undefined, b: Message | undefined) =>
      a?.role === b?.role && a?.content === b?.content;
    if (this.#initialPrompts.every((prompt, index) => isSame(prompt, messages[index]))) {
      return length;
    }
    const first = messages.findIndex(({ role }) => role !== "system");
    return first < 0 ? messages.length : first;
  }
}
