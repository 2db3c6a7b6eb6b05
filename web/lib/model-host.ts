/**
 * The one model of a worker, and whose conversation is in it. Sessions take turns: the present one is
 * parked before another's is adopted. Owns recovery from a lost GPU device too: the model is loaded
 * again from the files on this device, and every session puts its memory and context back before its
 * next call.
 */
import { DeltamemError, abortError, codeOf, reasonOf } from "./errors.js";
import type { LoadedModel, ModelLoader } from "./model-loader.js";
import type { PrefixFiles } from "./prefix-store.js";
import type { Message, OpenProgress } from "./protocol.js";
import type { ModelInfo, WebCanceller, WebConversation, WebModel } from "./wasm.js";

/** A session as the host knows it. */
export interface Guest {
  /** JSON of the tools that its context was rendered with. */
  tools: string;
  readonly isPaused: boolean;
  /** False where nothing may be stored, or nothing in the clear. */
  readonly mayKeepPrefixes: boolean;
  /** Puts memory and context, as they were after the last finished call, into the model. */
  refill(): Promise<void>;
}

export interface HostOptions {
  onLost(reason: string): void;
  onRestored(): void;
  /** Runs a job after what is under way. */
  enqueue(job: () => Promise<void>): void;
  /** Milliseconds before each attempt to load again. */
  retryDelaysMs?: readonly number[];
  /** How long a call may go on after the device was lost, before it is given up. */
  graceMs?: number;
}

const RETRY_DELAYS_MS = [0, 500, 2000];
const GRACE_MS = 1000;

/** A model with what belongs to it; replaced as a whole when the device is lost. */
interface Loaded {
  model: WebModel;
  prefixes: PrefixFiles | null;
  canceller: WebCanceller;
  /** The call under way: a model that is busy cannot be freed. */
  running: Promise<unknown>;
  /** Rejects when the device was lost and the call under way does not say so itself. */
  lost: Promise<never>;
  giveUp(): void;
}

export class ModelHost {
  readonly #options: HostOptions;
  readonly #loader: ModelLoader;
  readonly #parked = new Map<Guest, WebConversation>();
  #loaded: Loaded | null = null;
  #info: ModelInfo | null = null;
  #weightsNotice: string | null = null;
  #active: Guest | null = null;
  /** Whose conversation was in the model when the device was lost. */
  #lastActive: Guest | null = null;
  /** Set between the loss of a device and the first session's return. */
  #lostReason: string | null = null;
  #isClosed = false;

  constructor(loader: ModelLoader, options: HostOptions) {
    this.#loader = loader;
    this.#options = options;
  }

  /** Loads the model for the first time. */
  async open(
    signal: AbortSignal,
    onProgress: (progress: OpenProgress) => void,
  ): Promise<ModelInfo> {
    await this.#loader.checkFit(signal);
    const { model, weightsNotice } = await this.#load(signal, onProgress);
    this.#weightsNotice = weightsNotice;
    this.#info = JSON.parse(model.info()) as ModelInfo;
    return this.#info;
  }

  get info(): ModelInfo {
    if (!this.#info) throw new DeltamemError("worker", "no model is loaded");
    return this.#info;
  }

  get weightsNotice(): string | null {
    return this.#weightsNotice;
  }

  isActive(guest: Guest): boolean {
    return this.#active === guest && this.#loaded !== null;
  }

  /** Puts this guest's conversation into the model, if another's is there. Loads the model again if it was lost. */
  async use(guest: Guest): Promise<void> {
    if (!this.#loaded) await this.#rebuild();
    this.#letKeep(guest);
    if (this.#active !== guest) {
      const leaving = this.#active;
      if (leaving) this.#parked.set(leaving, await this.call((model) => model.park()));
      // From here on the model is nobody's, until all has gone well.
      this.#active = null;
      this.model.setTools(guest.tools);
      const parked = this.#parked.get(guest);
      this.#parked.delete(guest);
      if (parked) await this.call((model) => model.adopt(parked));
      else await guest.refill();
      this.model.setWritePaused(guest.isPaused);
      this.#active = guest;
    }
    this.#noteRestored();
  }

  /** Whether beginnings are kept depends on whose they are, and that can change between calls. */
  #letKeep(guest: Guest): void {
    const prefixes = this.#loaded?.prefixes;
    if (prefixes) prefixes.isPaused = !guest.mayKeepPrefixes;
  }

  /** Gives `to` a copy of the conversation of `from`. */
  async branch(from: Guest, to: Guest): Promise<void> {
    await this.use(from);
    this.#parked.set(to, await this.call((model) => model.park()));
  }

  /** Lets the model render these tools; the guest must be the active one. */
  setTools(guest: Guest, tools: string): void {
    if (guest.tools === tools) return;
    this.model.setTools(tools);
    guest.tools = tools;
  }

  /** Keeps a copy for the guest's next call; the one in the model may be spoilt. */
  async setAside(guest: Guest): Promise<void> {
    this.#parked.set(guest, await this.call((model) => model.park()));
    this.#active = null;
  }

  /** For calls that return at once. */
  get model(): WebModel {
    if (!this.#loaded) throw lostError(this.#lostReason ?? "it was closed");
    return this.#loaded.model;
  }

  /** The model's messages, as it has them now. */
  messages(): Message[] {
    return JSON.parse(this.model.messages()) as Message[];
  }

  /**
   * A call of the model. The signal cancels this call only; rejects with an `AbortError` where that
   * left nothing behind, and with `device_lost` if the device was lost meanwhile.
   */
  async call<T>(job: (model: WebModel) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const loaded = this.#loaded;
    if (!loaded) throw lostError(this.#lostReason ?? "it was closed");
    signal?.throwIfAborted();
    const cancel = () => loaded.canceller.cancel();
    signal?.addEventListener("abort", cancel);
    try {
      const running = job(loaded.model);
      loaded.running = running.catch(() => undefined);
      return await Promise.race([running, loaded.lost]);
    } catch (error) {
      const code = codeOf(error);
      if (code === "cancelled") throw abortError("The call was cancelled; all is as it was before.");
      if (code !== "device_lost") throw error;
      this.#noteLost(reasonOf(error), loaded);
      throw lostError(this.#lostReason ?? reasonOf(error), error);
    } finally {
      signal?.removeEventListener("abort", cancel);
    }
  }

  /** Forgets a session. */
  dismiss(guest: Guest): void {
    free(this.#parked.get(guest));
    this.#parked.delete(guest);
    if (this.#active === guest) this.#active = null;
    if (this.#lastActive === guest) this.#lastActive = null;
  }

  /** Frees everything. */
  close(): void {
    this.#isClosed = true;
    this.#drop();
  }

  async #load(
    signal: AbortSignal,
    onProgress: (progress: OpenProgress) => void,
  ): Promise<LoadedModel> {
    let earlyLoss: string | null = null;
    const result = await this.#loader.load(signal, onProgress, (reason, model) => {
      const loaded = this.#loaded;
      if (loaded && loaded.model === model) this.#noteLost(reason, loaded);
      else if (!model) earlyLoss = reason;
    });
    const { model, prefixes } = result;
    if (earlyLoss !== null || this.#isClosed) {
      free(model);
      throw lostError(earlyLoss ?? "it was closed");
    }
    let giveUp: () => void = () => undefined;
    const lost = new Promise<never>((_, reject) => {
      giveUp = () => {
        const reason = Object.assign(new Error("the call did not return"), { code: "device_lost" });
        reject(reason);
      };
    });
    lost.catch(() => undefined); // without a call under way nobody listens
    const canceller = model.canceller();
    this.#loaded = { model, prefixes, canceller, running: Promise.resolve(), lost, giveUp };
    return result;
  }

  #noteLost(reason: string, loaded: Loaded): void {
    if (this.#loaded !== loaded) return; // it was noted before
    this.#drop();
    setTimeout(loaded.giveUp, this.#options.graceMs ?? GRACE_MS);
    if (this.#isClosed) return;
    this.#lostReason = reason;
    this.#options.onLost(reason);
    // Not only when somebody asks: the page shows that the device is back.
    this.#options.enqueue(() => this.#recover().catch(() => undefined));
  }

  async #recover(): Promise<void> {
    if (this.#isClosed || this.#lostReason === null) return;
    const guest = this.#lastActive;
    if (guest) return this.use(guest);
    if (!this.#loaded) await this.#rebuild();
    this.#noteRestored();
  }

  #noteRestored(): void {
    if (this.#lostReason === null) return;
    this.#lostReason = null;
    this.#options.onRestored();
  }

  #drop(): void {
    const loaded = this.#loaded;
    this.#lastActive = this.#active ?? this.#lastActive;
    this.#loaded = null;
    this.#active = null;
    for (const conversation of this.#parked.values()) free(conversation);
    this.#parked.clear();
    if (!loaded) return;
    void loaded.running.then(() => {
      free(loaded.canceller);
      free(loaded.model);
    });
  }

  /** Loads the model again. The next call tries anew if this fails. */
  async #rebuild(): Promise<void> {
    if (this.#isClosed) throw new DeltamemError("worker", "no model is loaded");
    let last: unknown = null;
    for (const delayMs of this.#options.retryDelaysMs ?? RETRY_DELAYS_MS) {
      await new Promise((resolve) => setTimeout(resolve, delayMs));
      try {
        await this.#load(new AbortController().signal, () => undefined);
        return;
      } catch (error) {
        last = error;
      }
    }
    throw new DeltamemError(
      "device_lost",
      `The GPU device was lost (${this.#lostReason ?? "no reason given"}) and could not be had again: ${reasonOf(last)} The memory is safe; the next call tries again.`,
      { cause: last },
    );
  }
}

function lostError(reason: string, cause?: unknown): DeltamemError {
  return new DeltamemError(
    "device_lost",
    `The GPU device was lost (${reason}). Nothing of this call is in context or memory; it can be asked again.`,
    { cause },
  );
}

/** What belongs to a lost device may refuse to be freed; then there is nothing to free. */
function free(thing: { free(): void } | undefined): void {
  try {
    thing?.free();
  } catch {
    // see above
  }
}
