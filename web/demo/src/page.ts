/**
 * What all parts of the page share: the phase it is in, notices at the top, short messages at the
 * bottom, and what is read out to people who do not see the page.
 */
import { DeltamemError } from "../../lib/index.js";
import { element, iconButton, node, textButton } from "./dom.js";
import { sentence } from "./format.js";

/** `ready` is the only phase in which something new may begin. */
export type Phase = "loading" | "ready" | "replying" | "working" | "failed";

let phase: Phase = "loading";
/** What had the focus when the action under way began. */
let pressed: Element | null = null;
const listeners = new Set<(phase: Phase) => void>();

export const currentPhase = (): Phase => phase;

export function setPhase(next: Phase): void {
  if (phase === "ready" && next === "working") pressed = document.activeElement;
  phase = next;
  document.body.dataset["phase"] = next;
  for (const listener of listeners) listener(next);
  // A button that was switched off meanwhile has lost the focus: whoever pressed it stays there.
  if (next === "ready" && document.activeElement === document.body) {
    if (pressed instanceof HTMLElement) pressed.focus({ preventScroll: true });
    pressed = null;
  }
}

/** Calls `listener` now and after every change. */
export function onPhase(listener: (phase: Phase) => void): void {
  listeners.add(listener);
  listener(phase);
}

/** Waits until neither a reply nor an action is under way. */
export function whenIdle(): Promise<void> {
  return new Promise((resolve) => {
    const look = (now: Phase) => {
      if (now === "replying" || now === "working") return;
      listeners.delete(look);
      resolve();
    };
    onPhase(look);
  });
}

let beforeReady: () => Promise<void> = async () => undefined;

/** What is done before the page is ready again: whoever waits for that sees what is so now. */
export function setBeforeReady(job: () => Promise<void>): void {
  beforeReady = job;
}

/** Ends a reply or an action. */
export async function becomeReady(): Promise<void> {
  try {
    await beforeReady();
  } catch (error) {
    showError(error);
  } finally {
    // Meanwhile another model may have begun to load.
    if (phase === "replying" || phase === "working") setPhase("ready");
  }
}

/** Runs an action of the person: nothing else begins meanwhile; errors are shown. True if it worked. */
export async function work(job: () => Promise<unknown>): Promise<boolean> {
  if (phase !== "ready") return false;
  setPhase("working");
  try {
    await job();
    return true;
  } catch (error) {
    showError(error);
    return false;
  } finally {
    await becomeReady();
  }
}

/** The message of an error, with its code where it has one. */
export function describeError(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const code = error instanceof DeltamemError ? ` (${error.code})` : "";
  return `${sentence(message)}${code}`;
}

export const errorCode = (error: unknown): string | null =>
  error instanceof DeltamemError ? error.code : null;

export const showError = (error: unknown): void => toast(describeError(error), { isBad: true });

interface ToastOptions {
  /** Stays until it is closed. */
  isBad?: boolean;
  action?: { label: string; run(): void };
}

/** A short message that hides nothing that is being read. */
export function toast(text: string, options: ToastOptions = {}): void {
  const made = element("div", options.isBad ? "toast bad" : "toast", element("p", "", text));
  if (options.isBad) made.setAttribute("role", "alert");
  const { action } = options;
  if (action) {
    made.append(
      textButton(action.label, "link", () => {
        made.remove();
        action.run();
      }),
    );
  }
  made.append(iconButton("close", "Close this message", () => made.remove()));
  const toasts = node("toasts");
  // What lies under an open dialog can neither be seen nor pressed.
  const place = document.querySelector("dialog[open]") ?? document.body;
  if (toasts.parentElement !== place) place.append(toasts);
  toasts.append(made);
  if (!options.isBad) setTimeout(() => made.remove(), action ? 20_000 : 6_000);
}

/** Takes all error messages away, when something new begins. */
export function clearErrors(): void {
  for (const old of document.querySelectorAll(".toast.bad")) old.remove();
}

interface BannerOptions {
  isBad?: boolean;
  action?: { label: string; run(): void };
}

/** A notice at the top for as long as something is so; null takes it away. */
export function banner(key: string, text: string | null, options: BannerOptions = {}): void {
  const banners = node("banners");
  const old = banners.querySelector<HTMLElement>(`[data-key="${key}"]`);
  if (old?.dataset["text"] === (text ?? undefined)) return;
  old?.remove();
  if (!text) return;
  const made = element("div", options.isBad ? "banner bad" : "banner", element("p", "", text));
  made.dataset["key"] = key;
  made.dataset["text"] = text;
  const { action } = options;
  if (action) made.append(textButton(action.label, "link", action.run));
  banners.append(made);
}

/** Has a screen reader say something; nothing is seen. */
export function announce(text: string): void {
  node("live").textContent = text;
}
