/**
 * Owns which session the page shows: opens models and profiles, keeps the stored session aside while a
 * temporary one is shown, and passes events of the shown one on.
 *
 * Fires `session` when another one is shown, `state` when its memory or context has changed, and
 * `device` (with `lost` or `restored` as `detail`).
 */
import { LanguageModel, type TurnReport } from "../../lib/index.js";
import { isServed, serverToken } from "./server.js";
import type { ModelEntry } from "./settings.js";

/** How long the stored session of before may take to let go of a profile. */
const HAND_OVER_MS = 3000;

export interface OpenOptions {
  passphrase?: string | undefined;
  signal?: AbortSignal;
  /** `loaded` is 0 to 1. */
  onProgress(stage: "download" | "load", loaded: number): void;
}

export class SessionHost extends EventTarget {
  #shown: LanguageModel | null = null;
  /** The stored session that a temporary one stands before. */
  #aside: LanguageModel | null = null;
  #model: ModelEntry | null = null;
  #profile = "";
  readonly #lastTurns = new WeakMap<LanguageModel, TurnReport>();
  #passphrase: string | undefined;
  /** Sessions whose events are passed on already. */
  readonly #heard = new WeakSet<LanguageModel>();

  get session(): LanguageModel | null {
    return this.#shown;
  }

  get model(): ModelEntry | null {
    return this.#model;
  }

  get profile(): string {
    return this.#profile;
  }

  get isTemporary(): boolean {
    return this.#aside !== null;
  }

  /** The shown session's last report; null if it has said nothing yet. */
  get lastTurn(): TurnReport | null {
    return (this.#shown && this.#lastTurns.get(this.#shown)) ?? null;
  }

  /** The passphrase of the profile that is shown, as long as the page is open. */
  keepPassphrase(passphrase: string | undefined): void {
    this.#passphrase = passphrase;
  }

  /** The passphrase for a profile that is opened again. */
  passphraseOf(profile: string): string | undefined {
    return profile === this.#profile ? this.#passphrase : undefined;
  }

  /** Loads a model with a profile's memory; it is not shown before `adopt`. */
  prepare(model: ModelEntry, profile: string, options: OpenOptions): Promise<LanguageModel> {
    const { passphrase, signal, onProgress } = options;
    if (isServed) {
      const token = serverToken.get();
      return LanguageModel.connect({
        server: model.url,
        profile,
        ...(token !== null && { token }),
        ...(signal && { signal }),
      });
    }
    return LanguageModel.create({
      model: new URL(model.url, document.baseURI),
      name: model.name,
      profile,
      ...(model.adapter && { adapter: new URL(model.adapter, document.baseURI) }),
      ...(model.weights && { weights: model.weights }),
      ...(model.sha256 && { sha256: model.sha256 }),
      // The service worker keeps the built-in model; a second copy would only take room.
      store: model.isBuiltIn ? "none" : "opfs",
      ...(passphrase !== undefined && { passphrase }),
      ...(signal && { signal }),
      monitor(monitor) {
        const pass = (stage: "download" | "load") => (event: Event) =>
          onProgress(stage, (event as ProgressEvent).loaded);
        monitor.addEventListener("downloadprogress", pass("download"));
        monitor.addEventListener("loadprogress", pass("load"));
      },
    });
  }

  /** Shows a session that `prepare` made; the one before ends. */
  async adopt(
    session: LanguageModel,
    model: ModelEntry,
    profile: string,
    passphrase: string | undefined,
  ): Promise<void> {
    const mayFollow = this.#shown !== null && this.#profile === profile;
    this.close();
    if (mayFollow) await writable(session);
    const { name, canThink } = session.model;
    // What a server has loaded is known only now.
    this.#model = session.isOnServer
      ? { ...model, name, isBuiltIn: name === "nano", canThink: canThink ?? false }
      : model;
    this.#profile = profile;
    this.#passphrase = passphrase;
    this.#show(session);
  }

  /** An empty memory and an empty context in the same worker; nothing of it is stored. */
  async beginTemporary(): Promise<void> {
    if (!this.#shown || this.#aside) return;
    const temporary = await this.#shown.clone();
    try {
      if (temporary.model.identity) await temporary.memory.forget();
      else await temporary.newContext();
    } catch (error) {
      temporary.destroy();
      throw error;
    }
    this.#aside = this.#shown;
    this.#show(temporary);
  }

  /** Back to the stored session, as it was left. */
  endTemporary(): void {
    const stored = this.#aside;
    if (!stored) return;
    const temporary = this.#shown;
    this.#aside = null;
    this.#show(stored);
    temporary?.destroy();
  }

  /** Copies memory and conversation into a new profile and goes on there. */
  async branch(profile: string): Promise<void> {
    const before = this.#shown;
    if (!before) return;
    const branched = await before.clone({
      profile,
      ...(this.#passphrase !== undefined && { passphrase: this.#passphrase }),
    });
    this.#profile = profile;
    this.#show(branched);
    before.destroy();
  }

  /** Ends all sessions. */
  close(): void {
    const [shown, aside] = [this.#shown, this.#aside];
    this.#shown = null;
    this.#aside = null;
    shown?.destroy();
    aside?.destroy();
  }

  #show(session: LanguageModel): void {
    this.#shown = session;
    this.#listen(session);
    this.dispatchEvent(new Event("session"));
  }

  #listen(session: LanguageModel): void {
    if (this.#heard.has(session)) return;
    this.#heard.add(session);
    const isShown = () => this.#shown === session;
    session.addEventListener("memorychange", () => {
      if (isShown()) this.dispatchEvent(new Event("state"));
    });
    session.addEventListener("turn", (event) => {
      this.#lastTurns.set(session, (event as CustomEvent<TurnReport>).detail);
    });
    const device = (detail: "lost" | "restored") => () => {
      if (isShown()) this.dispatchEvent(new CustomEvent("device", { detail }));
    };
    session.addEventListener("devicelost", device("lost"));
    session.addEventListener("devicerestored", device("restored"));
  }

}

/** The lock of a session that has just ended reaches the next one a moment later. */
function writable(session: LanguageModel): Promise<void> {
  if (!session.memory.readOnly) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      session.removeEventListener("memorychange", look);
      resolve();
    };
    const look = () => {
      if (!session.memory.readOnly) done();
    };
    // Another tab may hold it: then this one reads.
    const timer = setTimeout(done, HAND_OVER_MS);
    session.addEventListener("memorychange", look);
  });
}
