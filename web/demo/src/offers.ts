/**
 * What the page offers to say: how to begin, and, where the context is empty and the memory is not,
 * questions that only the memory can answer. The built-in model knows a few kinds of facts about a
 * person and nothing else, so it gets offers of its own.
 */
import { element, node, showText } from "./dom.js";
import { RUNS, STAYS } from "./server.js";
import type { SessionHost } from "./session-host.js";

interface Offer {
  text: string;
  /** Answered twice, with the memory and without it. */
  isCompared?: boolean;
}

const BEGINNINGS: Offer[] = [
  { text: "My name is Ada, and I keep bees behind the house." },
  { text: "What do you know about me?" },
  { text: "Explain in three points how you remember." },
  { text: "Write a short poem about forgetting." },
];

const FACTS: Offer[] = [
  { text: "My name is Ada and I live in Lisbon." },
  { text: "I have a cat called Luna." },
  { text: "My favourite colour is green." },
  { text: "Where do I live?" },
];

const QUESTIONS: Offer[] = [
  { text: "Where do I live?" },
  { text: "What is my name?" },
  { text: "Where do I live?", isCompared: true },
];

const WELCOME = `${RUNS} What you say goes into a small memory inside the model, ${STAYS} when you close the page.`;
const FIRST_MINUTE = `Tell it something about yourself, reload the page or press New chat, and ask: the context is empty then, and the answer comes from a small memory inside the model, ${STAYS}.`;
const NEXT =
  "It is in the memory now. Reload the page or press New chat, which empties the context, and ask for it.";

export class Offers {
  readonly #host: SessionHost;
  readonly #take: (text: string, isCompared: boolean) => void;
  /** The model that the beginnings are for. */
  #shownFor: string | null = null;

  constructor(host: SessionHost, take: (text: string, isCompared: boolean) => void) {
    this.#host = host;
    this.#take = take;
    node("questions").replaceChildren(...QUESTIONS.map((offer) => this.#button(offer)));
  }

  /** Shows what fits the model, its memory and its context. */
  show(isReady: boolean): void {
    const { session, model } = this.#host;
    if (model && model.id !== this.#shownFor) {
      this.#shownFor = model.id;
      const beginnings = model.isBuiltIn ? FACTS : BEGINNINGS;
      node("suggestions").replaceChildren(...beginnings.map((offer) => this.#button(offer)));
      showText(node("welcome-text"), model.isBuiltIn ? FIRST_MINUTE : WELCOME);
    }
    const isTaught = isReady && model?.isBuiltIn === true && session?.model.identity != null;
    const generation = isTaught ? session.memory.generation : 0;
    const isEmpty = session?.contextUsage === 0;
    showText(node("next"), generation === 1 && !isEmpty ? NEXT : null);
    node("questions").hidden = !(generation > 0 && isEmpty);
    for (const each of document.querySelectorAll<HTMLButtonElement>("button.suggestion")) {
      each.disabled = !isReady;
    }
  }

  #button({ text, isCompared = false }: Offer): HTMLElement {
    const label = isCompared ? `${text} With the memory and without it` : text;
    const made = element("button", "suggestion", label);
    made.type = "button";
    made.disabled = true;
    made.addEventListener("click", () => this.#take(text, isCompared));
    return element("li", "", made);
  }
}
