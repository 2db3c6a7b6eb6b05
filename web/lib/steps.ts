/** What changed a session's context or memory since it began, newest last: what can be taken back. */
import type { Message } from "./protocol.js";

export interface Step {
  /** `memory` changed the memory only. */
  kind: "turn" | "append" | "memory";
  /** What was added to the context, without the reply. */
  question: Message[];
  /** Messages in the context before it; null if it did not change the context. */
  messagesBefore: number | null;
  /** As what it was committed; null if it did not write, or could not. */
  generation: number | null;
  /** True if the history differed from the context: the model then went back further than this step. */
  isRolledBack: boolean;
}

/** Most steps that are kept: a session without end must not grow with them. */
const MAX_STEPS = 256;

export class Steps {
  #steps: Step[] = [];

  get last(): Step | undefined {
    return this.#steps.at(-1);
  }

  push(step: Step): void {
    this.#steps.push(step);
    if (this.#steps.length > MAX_STEPS) this.#steps.shift();
  }

  get length(): number {
    return this.#steps.length;
  }

  pop(): Step | undefined {
    return this.#steps.pop();
  }

  clear(): void {
    this.#steps = [];
  }

  copy(): Steps {
    const copy = new Steps();
    copy.#steps = this.#steps.map((step) => ({ ...step }));
    return copy;
  }

  /**
   * So many messages have left the context after the `pinned` ones at its beginning, with the steps
   * that they belonged to.
   */
  evict(messages: number, pinned: number): void {
    if (messages === 0) return;
    for (const step of this.#steps) {
      if (step.messagesBefore !== null) step.messagesBefore -= messages;
    }
    const isLeft = ({ messagesBefore }: Step) => messagesBefore !== null && messagesBefore < pinned;
    this.#steps = this.#steps.slice(this.#steps.findLastIndex(isLeft) + 1);
  }

  /** The last question's turn and those that gave it tools' results; null if something else came since. */
  sinceLastQuestion(): Step[] | null {
    const isQuestion = ({ question }: Step) => question[0]?.role !== "tool";
    const index = this.#steps.findLastIndex((step) => step.kind !== "turn" || isQuestion(step));
    const steps = this.#steps.slice(Math.max(index, 0));
    return steps[0]?.kind === "turn" && isQuestion(steps[0]) ? steps : null;
  }
}

/** A step that changed the memory only, before it is committed. */
export function memoryStep(): Step {
  return {
    kind: "memory",
    question: [],
    messagesBefore: null,
    generation: null,
    isRolledBack: false,
  };
}

/**
 * What is to be answered: the messages since the last that was the model's. One at the end belongs to it:
 * that is what the reply goes on with.
 */
export function questionIn(messages: Message[]): Message[] {
  const earlier = messages.slice(0, -1);
  return messages.slice(earlier.findLastIndex(({ role }) => role === "assistant") + 1);
}
