/** The conversation: what is said, what is answered, stopping, answering again, two answers at once. */
import type { LanguageModel, TurnReport } from "../../lib/index.js";
import { button, byId, element, node, showText } from "./dom.js";
import { count } from "./format.js";
import { ComparedReplies, ReplyMessage, UserMessage, divider } from "./messages.js";
import { Offers } from "./offers.js";
import { announce, becomeReady, clearErrors, currentPhase, describeError, onPhase, setPhase, work } from "./page.js";
import type { SessionHost } from "./session-host.js";

/** Earlier turns that are shown after a reload. */
const SHOWN_TURNS = 12;
/** As close to the end as this, in pixels, the end is followed. */
const NEAR_END = 80;

interface Exchange {
  prompt: string;
  user: UserMessage;
  reply: ReplyMessage;
}

export class Chat {
  readonly #host: SessionHost;
  readonly #form = byId("form", HTMLFormElement);
  readonly #prompt = byId("prompt", HTMLTextAreaElement);
  readonly #log = node("log");
  readonly #messages = node("messages");
  readonly #offers: Offers;
  /** What was shown of the stored session before a temporary one began. */
  #aside: { nodes: Node[]; exchanges: Exchange[] } | null = null;
  #exchanges: Exchange[] = [];
  /** The exchange that the next text replaces. */
  #edited: Exchange | null = null;
  #reply: AbortController | null = null;
  #isAtEnd = true;

  constructor(host: SessionHost) {
    this.#host = host;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this.#prompt.value.trim();
      if (!text || currentPhase() !== "ready") return;
      this.#setPrompt("");
      if (this.#edited) void this.#sayInstead(this.#edited, text);
      else void (isPressed("compare") ? this.#compare(text) : this.#say(text));
    });
    this.#prompt.addEventListener("keydown", (event) => this.#onKey(event));
    this.#prompt.addEventListener("input", () => this.#grow());
    button("cancel-edit").addEventListener("click", () => this.#setEdited(null));
    button("stop").addEventListener("click", () => this.#reply?.abort());
    document.addEventListener("keydown", (event) => {
      const isFree = !document.querySelector("dialog[open]");
      if (event.key === "Escape" && isFree) this.#reply?.abort();
      if (event.key === "/" && isFree && !isTyping(event.target)) {
        event.preventDefault();
        this.focus();
      }
    });
    for (const id of ["compare", "think"]) {
      button(id).addEventListener("click", () => {
        button(id).setAttribute("aria-pressed", String(!isPressed(id)));
        this.#showMode();
      });
    }
    this.#log.addEventListener("scroll", () => this.#look());
    this.#messages.addEventListener("grown", () => this.#follow());
    new ResizeObserver(() => this.#follow()).observe(this.#log);
    button("to-end").addEventListener("click", () => {
      this.#isAtEnd = true;
      this.#follow();
      this.focus();
    });
    this.#offers = new Offers(host, (text, isCompared) => {
      if (currentPhase() !== "ready") return;
      this.focus();
      void (isCompared ? this.#compare(text) : this.#say(text));
    });
    onPhase(() => this.showState());
  }

  focus(): void {
    this.#prompt.focus({ preventScroll: true });
  }

  /** Begins with another session: its earlier turns are shown, its context is empty. */
  async showSession(session: LanguageModel): Promise<void> {
    const history = session.model.identity ? await session.memory.ledger() : [];
    if (this.#host.session !== session) return;
    this.#clear();
    const turns = history.filter(({ kind }) => kind === "turn").slice(-SHOWN_TURNS);
    for (const { prompt, reply, thoughts } of turns) {
      const user = new UserMessage(prompt, () => undefined);
      const answer = new ReplyMessage({ regenerate: () => undefined, retry: () => undefined });
      answer.setReply(reply, thoughts);
      answer.showTools();
      user.root.classList.add("past");
      answer.root.classList.add("past");
      this.#messages.append(user.root, answer.root);
    }
    if (session.memory.generation > 0) {
      this.#messages.append(
        divider(
          "The assistant starts with an empty context; what it knows of before is in its memory.",
        ),
      );
    }
    this.#changed();
  }

  /** Puts the conversation aside for a temporary one. */
  beginTemporary(): void {
    this.#aside = { nodes: [...this.#messages.childNodes], exchanges: this.#exchanges };
    this.#clear();
    this.#messages.append(
      divider("Temporary chat: the memory is empty, and nothing of it is stored."),
    );
    this.#changed();
  }

  /** Shows the conversation of before again. */
  endTemporary(): void {
    this.#messages.replaceChildren(...(this.#aside?.nodes ?? []));
    this.#exchanges = this.#aside?.exchanges ?? [];
    this.#aside = null;
    this.#changed();
  }

  /** Nothing is shown any more, and why. */
  showForgotten(): void {
    this.#clear();
    this.#messages.append(divider("Forgotten. The memory is empty and so is the context."));
    this.#changed();
  }

  /** What is above is no longer in the context. */
  showNewContext(): void {
    for (const old of this.#messages.children) old.classList.add("past");
    this.#exchanges = [];
    if (this.#messages.childElementCount > 0) {
      this.note("New chat: the context is empty. What is above is known only through the memory.");
    }
    this.#changed();
  }

  /** The last turn was taken back. */
  showUndone(): void {
    const last = this.#exchanges.pop();
    if (last) {
      last.user.root.remove();
      last.reply.root.remove();
    } else {
      for (const old of [...this.#messages.querySelectorAll(".message")].slice(-2)) old.remove();
    }
    this.note("The last turn was taken back.");
  }

  /** Something that happened, between the messages. */
  note(text: string): void {
    this.#messages.append(divider(text));
    this.#changed();
    announce(text);
  }

  /** What can be done now, and how full the context is. */
  showState(): void {
    const phase = currentPhase();
    const { session } = this.#host;
    const isReady = phase === "ready" && session !== null;
    this.#prompt.disabled = session === null;
    button("send").disabled = !isReady;
    button("send").hidden = phase === "replying";
    button("stop").hidden = phase !== "replying";
    button("compare").disabled = !isReady || session.model.identity === null;
    button("think").disabled = !isReady;
    button("think").hidden = !this.#host.model?.canThink;
    this.#offers.show(isReady);
    this.#follow();
    this.#showContext(session);
    this.#showMode();
    const last = this.#exchanges.at(-1);
    for (const { user, reply } of this.#exchanges) {
      const isLast = isReady && user === last?.user && session.model.identity !== null;
      user.canEdit = isLast && !session.memory.readOnly;
      reply.canRegenerate = isLast && !session.memory.readOnly;
    }
  }

  #showContext(session: LanguageModel | null): void {
    node("context").hidden = session === null;
    if (!session) return;
    const { contextUsage, contextWindow } = session;
    const part = Math.min(contextUsage / contextWindow, 1);
    node("context-fill").style.setProperty("--part", String(part));
    showText(node("context-text"), `${count(contextUsage)} of ${count(contextWindow)} tokens`);
    node("context").title = "How much of the context is in use";
  }

  #showMode(): void {
    this.#prompt.placeholder = isPressed("compare")
      ? "Ask something twice: with the memory and without it"
      : this.#host.model?.isBuiltIn
        ? "Tell it something about you, or ask"
        : "Say something";
  }

  // ---- turns --------------------------------------------------------------------------------------

  async #say(text: string): Promise<void> {
    const exchange = this.#newExchange(text);
    this.#messages.append(exchange.user.root);
    await this.#answer(exchange, (session, options) => session.promptStreaming(text, options));
  }

  async #regenerate(exchange: Exchange): Promise<void> {
    if (currentPhase() !== "ready") return;
    exchange.reply.root.remove();
    exchange.reply = this.#newReply(() => exchange);
    await this.#answer(exchange, (session, options) => session.regenerateStreaming(options));
  }

  /** The next text takes the place of the last one; until it is sent nothing changes. */
  #setEdited(exchange: Exchange | null): void {
    this.#edited = exchange;
    node("editing").hidden = exchange === null;
    this.#setPrompt(exchange?.prompt ?? "");
    this.focus();
  }

  async #sayInstead(exchange: Exchange, text: string): Promise<void> {
    const { session } = this.#host;
    if (!session) return;
    const worked = await work(() => session.memory.undo());
    if (!worked) {
      this.#setPrompt(text);
      return;
    }
    this.#setEdited(null);
    this.#exchanges = this.#exchanges.filter((each) => each !== exchange);
    exchange.user.root.remove();
    exchange.reply.root.remove();
    await this.#say(text);
  }

  async #answer(
    exchange: Exchange,
    begin: (session: LanguageModel, options: object) => ReadableStream<string>,
  ): Promise<void> {
    const { session } = this.#host;
    if (!session) return;
    const { reply } = exchange;
    this.#begin(reply.root);
    reply.begin();
    let report: TurnReport | null = null;
    const onTurn = (event: Event) => (report = (event as CustomEvent<TurnReport>).detail);
    session.addEventListener("turn", onTurn, { once: true });
    const controller = new AbortController();
    this.#reply = controller;
    try {
      const stream = begin(session, {
        signal: controller.signal,
        gauges: true,
        ...(this.#host.model?.canThink && { thinking: isPressed("think") }),
        onThought: (text: string) => {
          reply.addThought(text);
          this.#follow();
        },
      });
      for (const reader = stream.getReader(); ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        reply.addText(value);
      }
      reply.finish(report, session);
    } catch (error) {
      // Stopping is what the person wanted; what was said so far stays.
      if (controller.signal.aborted && report) reply.finish(report, session);
      else {
        this.#exchanges = this.#exchanges.filter((each) => each !== exchange);
        if (controller.signal.aborted) this.#giveBack(exchange);
        else reply.fail(describeError(error));
      }
    } finally {
      session.removeEventListener("turn", onTurn);
      await this.#end();
      if (reply.text) announce(`The model said: ${reply.text}`);
    }
  }

  /** Stopped before a word was said, and all is as it was before: so are the page and the composer. */
  #giveBack({ prompt, user, reply }: Exchange): void {
    user.root.remove();
    reply.root.remove();
    if (this.#prompt.value === "") this.#setPrompt(prompt);
    this.#changed();
  }

  async #compare(text: string): Promise<void> {
    const { session } = this.#host;
    if (!session) return;
    const user = new UserMessage(text, () => undefined);
    const replies = new ComparedReplies();
    this.#messages.append(user.root);
    this.#begin(replies.root);
    const seed = crypto.getRandomValues(new Uint32Array(1))[0] ?? 1;
    const controller = new AbortController();
    this.#reply = controller;
    try {
      const reports = await session.compare(text, {
        seed,
        signal: controller.signal,
        onPiece: (side, piece) => replies.add(side, piece),
      });
      replies.finish(reports, seed);
    } catch (error) {
      replies.finish(null, seed);
      if (!controller.signal.aborted) {
        const message = element("p", "reply-error", describeError(error));
        message.setAttribute("role", "alert");
        replies.root.append(message);
      }
    } finally {
      await this.#end();
      announce("Both replies are there.");
    }
  }

  #begin(shown: HTMLElement): void {
    clearErrors();
    this.#messages.append(shown);
    this.#isAtEnd = true;
    setPhase("replying");
    this.#changed();
    announce("The model is answering.");
  }

  async #end(): Promise<void> {
    this.#reply = null;
    await becomeReady();
    this.#follow();
    // A person who went on to read or to press something else stays there.
    if (document.activeElement === document.body || document.activeElement === null) this.focus();
  }

  #newExchange(prompt: string): Exchange {
    const exchange: Exchange = {
      prompt,
      user: new UserMessage(prompt, () => this.#setEdited(exchange)),
      reply: this.#newReply(() => exchange),
    };
    this.#exchanges.push(exchange);
    return exchange;
  }

  #newReply(ofExchange: () => Exchange): ReplyMessage {
    return new ReplyMessage({
      regenerate: () => void this.#regenerate(ofExchange()),
      retry: () => {
        if (currentPhase() !== "ready") return;
        const exchange = ofExchange();
        exchange.user.root.remove();
        exchange.reply.root.remove();
        void this.#say(exchange.prompt);
      },
    });
  }

  // ---- looks --------------------------------------------------------------------------------------

  #onKey(event: KeyboardEvent): void {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#form.requestSubmit();
    }
    if (event.key === "Escape" && this.#edited) this.#setEdited(null);
  }

  #setPrompt(text: string): void {
    this.#prompt.value = text;
    this.#grow();
  }

  /** For browsers that do not let a field grow by themselves. */
  #grow(): void {
    if (CSS.supports("field-sizing", "content")) return;
    this.#prompt.style.height = "auto";
    this.#prompt.style.height = `${this.#prompt.scrollHeight}px`;
  }

  #clear(): void {
    this.#messages.replaceChildren();
    this.#exchanges = [];
  }

  #changed(): void {
    if (this.#edited && !this.#exchanges.includes(this.#edited)) this.#setEdited(null);
    node("welcome").hidden = this.#messages.querySelector(".message") !== null;
    this.#follow();
  }

  /** Keeps the end in sight, unless the person has scrolled away from it. */
  #follow(): void {
    if (this.#isAtEnd) this.#log.scrollTop = this.#log.scrollHeight;
    this.#look();
  }

  #look(): void {
    const below = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight;
    this.#isAtEnd = below < NEAR_END;
    button("to-end").hidden = this.#isAtEnd;
  }
}

const isPressed = (id: string): boolean => button(id).getAttribute("aria-pressed") === "true";

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLTextAreaElement ||
    target instanceof HTMLInputElement ||
    target instanceof HTMLSelectElement
  );
}
