/**
 * The sessions of one worker, and which of them a request is for. Owns how they open, branch and
 * close; what they do is in conversation.ts.
 */
import { Conversation } from "./conversation.js";
import { DeltamemError, codeOf, reasonOf } from "./errors.js";
import { ProfileChannel, ProfileLock } from "./lock.js";
import { type MemoryHome, VolatileHome, contentsOf } from "./memory-home.js";
import { MemoryStore } from "./memory-store.js";
import type { CallContext, Handlers, Queue } from "./messages.js";
import { ModelHost } from "./model-host.js";
import { ModelLoader, type WasmModule, inspectModel } from "./model-loader.js";
import { clearPrefixes } from "./prefix-store.js";
import { ProfileHome } from "./profile-home.js";
import type {
  CallName,
  Calls,
  OpenRequest,
  Opened,
  ProfileInfo,
  SessionEvent,
  SessionState,
} from "./protocol.js";

export interface SessionsOptions {
  wasm: WasmModule;
  /** Work that no request asked for joins the requests' queue. */
  queue: Queue;
  onEvent(session: number, event: SessionEvent): void;
  /** The browser's, unless a test brings its own. */
  locks?: LockManager;
  /** Milliseconds before each attempt to have a lost GPU again. */
  retryDelaysMs?: readonly number[];
  /** How long a call may go on after the GPU was lost. */
  graceMs?: number;
}

/** Another tab that is about to close has this long to give a profile up. */
const FORGET_PATIENCE_MS = 200;

/** What a call does with the session that it names. */
type Job<K extends CallName> = (
  session: Conversation,
  payload: Calls[K]["payload"],
  context: CallContext<K>,
) => Promise<Calls[K]["result"]>;

export class WorkerSessions {
  readonly handlers: Handlers;
  readonly #options: SessionsOptions;
  readonly #sessions = new Map<number, Conversation>();
  #host: ModelHost | null = null;

  constructor(options: SessionsOptions) {
    this.#options = options;
    this.handlers = {
      inspect: (request, { signal }) => inspectModel(options.wasm, request, signal),
      open: (request, context) => this.#open(request, context),
      clone: (request, context) => this.#clone(request, context),
      close: async (_, { session }) => this.#close(session),
      turn: this.#changing((session, request, context) => session.turn(request, context)),
      compare: this.#changing((session, request, context) => session.compare(request, context)),
      takeBack: this.#changing((session) => session.takeBack()),
      append: this.#changing((session, messages, { signal }) => session.append(messages, signal)),
      newContext: this.#changing((session) => done(session.newContext())),
      history: this.#reading(async (session) => session.history()),
      measure: this.#reading((session, texts) => session.measure(texts)),
      memoryInfo: this.#reading((session) => session.memoryInfo()),
      memoryStates: this.#reading((session) => session.memoryStates()),
      exportMemory: this.#reading((session, { passphrase }) => session.exportMemory(passphrase)),
      importMemory: this.#changing((session, { bytes, passphrase }) =>
        done(session.importMemory(bytes, passphrase)),
      ),
      snapshots: this.#reading((session) => session.snapshots()),
      restore: this.#changing((session, generation) => done(session.restore(generation))),
      ledger: this.#reading((session) => session.ledger()),
      writeMemory: this.#changing((session, text, { signal }) => session.writeMemory(text, signal)),
      undo: this.#changing((session) => done(session.undo())),
      forget: this.#changing((session) => done(session.forget())),
      setPaused: this.#changing((session, isPaused) => done(session.setPaused(isPaused))),
      setPassphrase: this.#changing((session, passphrase) =>
        done(session.setPassphrase(passphrase)),
      ),
      profiles: () => listProfiles(),
      forgetProfile: (profile) => done(this.#forgetProfile(profile)),
    };
  }

  /** Ends all sessions and frees the model; the page ends a worker instead. */
  close(): void {
    for (const session of this.#sessions.values()) session.close();
    this.#sessions.clear();
    this.#host?.close();
    this.#host = null;
  }

  async #open(request: OpenRequest, context: CallContext<"open">): Promise<Opened> {
    if (this.#host) throw new DeltamemError("worker", "this worker has a model already");
    let session: Conversation | null = null;
    // Before the model, which takes longer: a wrong passphrase is told at once.
    const place = await this.#openHome(request, () => session?.refresh());
    const host = new ModelHost(new ModelLoader(this.#options.wasm, request), {
      onLost: (reason) => this.#tellAll({ kind: "devicelost", reason }),
      onRestored: () => this.#tellAll({ kind: "devicerestored" }),
      enqueue: (job) => this.#enqueue(job),
      ...(this.#options.retryDelaysMs && { retryDelaysMs: this.#options.retryDelaysMs }),
      ...(this.#options.graceMs !== undefined && { graceMs: this.#options.graceMs }),
    });
    try {
      const model = await host.open(context.signal, context.notify);
      const home = this.#furnish(place, model.identity);
      session = new Conversation({
        host,
        home: home.home,
        initialPrompts: request.initialPrompts,
        tools: request.tools,
        notice: home.notice,
        onState: this.#stateOf(context.session),
        enqueue: (job) => this.#enqueue(job),
      });
      await session.open();
      this.#host = host;
      this.#sessions.set(context.session, session);
      return { model, state: session.state(), weightsNotice: host.weightsNotice };
    } catch (error) {
      place.home?.close();
      host.close();
      throw error;
    }
  }

  /** The profile's place in the database; an ephemeral session, or a browser that refuses, has none. */
  async #openHome(
    { profile, passphrase, isEphemeral }: OpenRequest,
    onChange: () => void,
  ): Promise<{ home: ProfileHome | null; notice: string | null }> {
    if (isEphemeral) return { home: null, notice: null };
    const { locks } = this.#options;
    try {
      const home = await ProfileHome.open({ profile, passphrase, locks, onChange });
      return { home, notice: null };
    } catch (error) {
      if (!codeOf(error)?.startsWith("storage")) throw error;
      const notice = `The memory lasts only until this page closes. ${reasonOf(error)}`;
      return { home: null, notice };
    }
  }

  #furnish(
    { home, notice }: { home: ProfileHome | null; notice: string | null },
    identity: string | null,
  ): { home: MemoryHome | null; notice: string | null } {
    if (identity === null) {
      home?.close();
      return {
        home: null,
        notice: "This model has no δ-mem adapter, so there is no memory to keep.",
      };
    }
    home?.bind(identity);
    return { home: home ?? new VolatileHome(), notice };
  }

  async #clone(
    { session, profile, passphrase }: Calls["clone"]["payload"],
    context: CallContext<"clone">,
  ): Promise<SessionState> {
    const source = this.#session(session);
    let clone: Conversation | null = null;
    const home =
      profile === null
        ? null
        : await this.#copyHome(source, profile, passphrase, () => clone?.refresh());
    try {
      context.signal.throwIfAborted();
      clone = await source.clone(home, this.#stateOf(context.session));
    } catch (error) {
      await home?.forget().catch(() => undefined); // a profile that nobody got is not left behind
      home?.close();
      throw error;
    }
    this.#sessions.set(context.session, clone);
    return clone.state();
  }

  async #copyHome(
    source: Conversation,
    profile: string,
    passphrase: string | null,
    onChange: () => void,
  ): Promise<ProfileHome> {
    const identity = this.#host?.info.identity ?? null;
    if (!source.home || identity === null) {
      throw new DeltamemError("no_memory", "The model was loaded without a δ-mem adapter.");
    }
    if (source.home.isEncrypted && passphrase === null) {
      throw new DeltamemError(
        "passphrase",
        "This memory is encrypted; the clone's profile needs a passphrase too.",
      );
    }
    const { locks } = this.#options;
    const mustBeEmpty = true;
    const home = await ProfileHome.open({ profile, passphrase, locks, mustBeEmpty, onChange });
    try {
      home.bind(identity);
      await home.fill(await contentsOf(source.home));
      return home;
    } catch (error) {
      home.close();
      throw error;
    }
  }

  async #close(id: number): Promise<null> {
    this.#sessions.get(id)?.close();
    this.#sessions.delete(id);
    return null;
  }

  async #forgetProfile(profile: string): Promise<void> {
    const lock = await ProfileLock.acquire(profile, {
      ...(this.#options.locks && { locks: this.#options.locks }),
      patienceMs: FORGET_PATIENCE_MS,
      onTakeOver: () => undefined,
    });
    try {
      if (!lock.isHeld) {
        throw new DeltamemError("busy", `The profile "${profile}" is open; close it first.`);
      }
      const store = await MemoryStore.open();
      await store.forget(profile).finally(() => store.close());
      await clearPrefixes();
      const channel = new ProfileChannel(profile, () => undefined);
      channel.post({ kind: "forgotten" });
      channel.close();
    } finally {
      lock.release();
    }
  }

  #session(id: number): Conversation {
    const session = this.#sessions.get(id);
    if (!session) throw new DeltamemError("worker", "no model is loaded");
    return session;
  }

  #reading<K extends CallName>(job: Job<K>): Handlers[K] {
    const handler = async (payload: Calls[K]["payload"], context: CallContext<K>) =>
      job(this.#session(context.session), payload, context);
    return handler as Handlers[K];
  }

  /** As `#reading`, and tells the page of the state after it. */
  #changing<K extends CallName>(job: Job<K>): Handlers[K] {
    return this.#reading<K>(async (session, payload, context) => {
      try {
        return await job(session, payload, context);
      } finally {
        session.postState();
      }
    });
  }

  #stateOf(session: number): (state: SessionState) => void {
    return (state) => this.#options.onEvent(session, { kind: "state", state });
  }

  #tellAll(event: SessionEvent): void {
    for (const session of this.#sessions.keys()) this.#options.onEvent(session, event);
  }

  #enqueue(job: () => Promise<void>): void {
    void this.#options.queue.run(job);
  }
}

async function listProfiles(): Promise<ProfileInfo[]> {
  const store = await MemoryStore.open();
  return store.profiles().finally(() => store.close());
}

/** Nothing to tell but that it is done. */
async function done(job: Promise<void>): Promise<null> {
  await job;
  return null;
}
