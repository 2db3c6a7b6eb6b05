/** How one message looks: what a person said, a reply that forms, and two replies side by side. */
import type { LanguageModel, TurnReport } from "../../lib/index.js";
import { element, icon, iconButton, textButton } from "./dom.js";
import { plural } from "./format.js";
import { MarkdownView, copyText } from "./markdown.js";

/** What a person said. */
export class UserMessage {
  readonly root: HTMLElement;
  readonly #edit: HTMLButtonElement;

  constructor(text: string, onEdit: () => void) {
    this.#edit = iconButton("pen", "Edit and send again", onEdit);
    this.#edit.hidden = true;
    this.root = element(
      "article",
      "message user",
      element("h3", "visually-hidden", "You said"),
      element("div", "bubble", text),
      element("div", "message-tools", this.#edit),
    );
  }

  set canEdit(can: boolean) {
    this.#edit.hidden = !can;
  }
}

export interface ReplyActions {
  regenerate(): void;
  retry(): void;
}

/** The model's reply. */
export class ReplyMessage {
  readonly root: HTMLElement;
  readonly #body = element("div", "body");
  readonly #markdown = new MarkdownView(this.#body);
  readonly #foot = element("div", "foot");
  readonly #regenerate: HTMLButtonElement;
  readonly #actions: ReplyActions;
  #text = "";
  #thoughts: { part: HTMLDetailsElement; body: HTMLElement; label: HTMLElement } | null = null;
  #frame = 0;

  constructor(actions: ReplyActions) {
    this.#actions = actions;
    this.#regenerate = iconButton("redo", "Answer again", actions.regenerate);
    this.#regenerate.hidden = true;
    this.root = element(
      "article",
      "message assistant",
      element("h3", "visually-hidden", "The model said"),
      this.#body,
      this.#foot,
    );
  }

  get text(): string {
    return this.#text;
  }

  set canRegenerate(can: boolean) {
    this.#regenerate.hidden = !can;
  }

  /** Shows that something is coming. */
  begin(): void {
    this.root.classList.add("waiting");
    this.root.setAttribute("aria-busy", "true");
  }

  addText(piece: string): void {
    this.#text = this.#text === "" ? piece.trimStart() : this.#text + piece;
    if (this.#thoughts && this.#text) this.#thoughts.label.textContent = "Thoughts";
    this.#draw();
  }

  addThought(piece: string): void {
    this.#thoughts ??= this.#makeThoughts();
    this.#thoughts.body.append(piece);
  }

  /** Puts a finished reply in. */
  setReply(text: string, thoughts: string): void {
    if (thoughts) this.addThought(thoughts);
    this.addText(text.trim());
    this.#end();
  }

  /** Ends the waiting; what is said below comes from `report`, if there is one. */
  finish(report: TurnReport | null, session: LanguageModel): void {
    this.#end();
    if (this.#thoughts) this.#thoughts.label.textContent = "Thoughts";
    if (!report) return;
    if (!this.#text && report.stopReason !== "cancelled") {
      this.#body.append(element("p", "soft", "(no words)"));
    }
    const figures = element("span", "figures-line", ...describe(report, session));
    this.#foot.append(figures, this.#tools());
  }

  /** The reply that did not come, and a way to try again. */
  fail(message: string): void {
    this.#end();
    this.root.classList.add("failed");
    const row = element("div", "row", textButton("Try again", "", this.#actions.retry));
    const error = element("div", "reply-error", element("p", "", message), row);
    error.setAttribute("role", "alert");
    this.#foot.append(error);
  }

  /** An earlier reply: to be copied, not to be made again. */
  showTools(): void {
    this.#foot.append(this.#tools());
  }

  #end(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#markdown.update(this.#text);
    this.root.classList.remove("waiting");
    this.root.removeAttribute("aria-busy");
  }

  #tools(): HTMLElement {
    const copy = iconButton("copy", "Copy the reply", () => void copyText(this.#text, copy));
    return element("span", "message-tools", copy, this.#regenerate);
  }

  /** Once a frame at most; a page in the background has no frames and needs none. */
  #draw(): void {
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#markdown.update(this.#text);
      this.root.dispatchEvent(new Event("grown", { bubbles: true }));
    });
  }

  #makeThoughts(): { part: HTMLDetailsElement; body: HTMLElement; label: HTMLElement } {
    const label = element("span", "", "Thinking…");
    const body = element("div", "thoughts-body");
    const part = element("details", "thoughts", element("summary", "", icon("bulb"), label), body);
    this.root.insertBefore(part, this.#body);
    return { part, body, label };
  }
}

/** Two replies to the same prompt from the same seed. */
export class ComparedReplies {
  readonly root: HTMLElement;
  readonly #sides: Record<"on" | "off", { view: MarkdownView; text: string; foot: HTMLElement }>;

  constructor() {
    const side = (name: string) => {
      const body = element("div", "body");
      const foot = element("p", "soft");
      const root = element("section", "side", element("h4", "", name), body, foot);
      return { root, view: new MarkdownView(body), text: "", foot };
    };
    const [on, off] = [side("With the memory"), side("Without the memory")];
    this.#sides = { on, off };
    this.root = element(
      "article",
      "message assistant compared waiting",
      element("h3", "visually-hidden", "The model said, with and without its memory"),
      element("div", "sides", on.root, off.root),
    );
    this.root.setAttribute("aria-busy", "true");
  }

  add(side: "on" | "off", piece: string): void {
    const each = this.#sides[side];
    each.text = each.text === "" ? piece.trimStart() : each.text + piece;
    each.view.update(each.text);
    this.root.dispatchEvent(new Event("grown", { bubbles: true }));
  }

  finish(reports: Record<"on" | "off", TurnReport> | null, seed: number): void {
    this.root.classList.remove("waiting");
    this.root.removeAttribute("aria-busy");
    if (!reports) return;
    for (const name of ["on", "off"] as const) {
      const { view, foot } = this.#sides[name];
      const report = reports[name];
      view.update(report.answer.trim());
      foot.textContent = `${plural(report.generatedTokens, "token")} · ${speed(report)}`;
    }
    const isSame = reports.on.answer === reports.off.answer;
    const said = isSame ? "Both are the same: the memory made no difference here." : "";
    this.root.append(
      element(
        "p",
        "soft compared-note",
        `${said} Same prompt, same seed (${seed}). Nothing was kept: conversation and memory are as before.`.trim(),
      ),
    );
  }
}

/** Between messages: something that happened. */
export function divider(text: string): HTMLElement {
  return element("p", "divider", element("span", "", text));
}

function describe(report: TurnReport, session: LanguageModel): (Node | string)[] {
  const parts: string[] = [];
  if (report.stopReason === "cancelled") parts.push("stopped");
  if (report.stopReason === "context_full") parts.push("the context is full");
  if (report.evictedMessages > 0) {
    parts.push(`${plural(report.evictedMessages, "old message")} left the context`);
  }
  parts.push(plural(report.generatedTokens, "token"), speed(report));
  return [memoryPill(report, session), parts.join(" · ")];
}

/** What the turn did to the memory, in words. */
function memoryPill(report: TurnReport, session: LanguageModel): HTMLElement {
  const [before, after] = report.memoryNorms;
  const { memory } = session;
  if (session.model.identity === null) return element("span", "pill", "no memory");
  if (memory.readOnly) return element("span", "pill", "memory read, not written");
  if (memory.paused) return element("span", "pill", "memory paused, not written");
  const norms = `‖S‖ ${before.toFixed(2)} → ${after.toFixed(2)}`;
  if (report.isCommitted) return element("span", "pill on", `memory updated, ${norms}`);
  return element("span", "pill", `memory updated, not stored, ${norms}`);
}

function speed(report: TurnReport): string {
  if (report.decodeSeconds <= 0) return "–";
  const perSecond = report.generatedTokens / report.decodeSeconds;
  return `${perSecond < 100 ? perSecond.toFixed(1) : perSecond.toFixed(0)} per second`;
}
