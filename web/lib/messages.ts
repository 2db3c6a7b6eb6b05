/**
 * How page and worker talk: requests with ids, results, errors, notices on the way, and events
 * nobody asked for. Owns the order too: the worker runs one request after the other.
 */
import { DeltamemError, abortError, errorFromWire, errorToWire, reasonOf } from "./errors.js";
import type { CallName, Calls, SessionEvent, ToPage, ToWorker } from "./protocol.js";

/** The part of `Worker`, `MessagePort` and a worker's global scope that is needed here. */
export interface Port<In, Out> {
  postMessage(message: Out): void;
  addEventListener(type: "message", listener: (event: MessageEvent<In>) => void): void;
}

interface Pending {
  session: number;
  resolve(value: unknown): void;
  reject(reason: unknown): void;
  onNotice(notice: unknown): void;
  signal: AbortSignal | undefined;
}

export interface CallOptions<K extends CallName> {
  /** Asks the worker to stop; the call settles when it has. */
  signal?: AbortSignal | undefined;
  onNotice?: (notice: Calls[K]["notice"]) => void;
}

/** The page's end of a worker with its sessions. */
export class Connection {
  readonly #port: Port<ToPage, ToWorker>;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Map<number, (event: SessionEvent) => void>();
  #nextId = 1;
  #nextSession = 0;
  #closedBy: Error | null = null;

  constructor(port: Port<ToPage, ToWorker>) {
    this.#port = port;
    port.addEventListener("message", ({ data }) => {
      if (data.kind === "event") this.#listeners.get(data.session)?.(data.event);
      else this.#receive(data);
    });
  }

  /** A place for a session; the worker knows it from its first call on. */
  openSession(onEvent: (event: SessionEvent) => void): Caller {
    const session = this.#nextSession++;
    this.#listeners.set(session, onEvent);
    return new Caller(this, session);
  }

  /** Sends a request and waits for its answer. */
  call<K extends CallName>(
    session: number,
    call: K,
    payload: Calls[K]["payload"],
    options: CallOptions<K>,
  ): Promise<Calls[K]["result"]> {
    const { signal, onNotice } = options;
    if (this.#closedBy) return Promise.reject(this.#closedBy);
    if (signal?.aborted) return Promise.reject(signal.reason);
    const id = this.#nextId++;
    return new Promise<Calls[K]["result"]>((resolve, reject) => {
      const cancel = () => this.#port.postMessage({ kind: "cancel", id });
      const settle = () => {
        this.#pending.delete(id);
        signal?.removeEventListener("abort", cancel);
      };
      this.#pending.set(id, {
        session,
        resolve: (value) => {
          settle();
          resolve(value as Calls[K]["result"]);
        },
        reject: (reason) => {
          settle();
          reject(reason);
        },
        onNotice: (notice) => onNotice?.(notice as Calls[K]["notice"]),
        signal,
      });
      signal?.addEventListener("abort", cancel);
      try {
        this.#port.postMessage({ kind: "request", id, session, call, payload } as ToWorker);
      } catch (error) {
        // Something in it is no data, such as a function in a schema.
        settle();
        const message = `This cannot be sent to the worker: ${reasonOf(error)}`;
        reject(new DeltamemError("unsupported", message, { cause: error }));
      }
    });
  }

  /** Ends a session's calls with `reason`; true if it was the last session. */
  closeSession(session: number, reason: Error): boolean {
    this.#listeners.delete(session);
    for (const [id, pending] of [...this.#pending]) {
      if (pending.session !== session) continue;
      this.#port.postMessage({ kind: "cancel", id });
      pending.reject(reason);
    }
    return this.#listeners.size === 0;
  }

  /** Ends all calls under way, and all later ones, with `reason`. */
  close(reason: Error): void {
    this.#closedBy ??= reason;
    for (const [id, pending] of [...this.#pending]) {
      this.#port.postMessage({ kind: "cancel", id });
      pending.reject(this.#closedBy);
    }
  }

  #receive(message: Exclude<ToPage, { kind: "event" }>): void {
    const pending = this.#pending.get(message.id);
    if (!pending) return; // the call was closed meanwhile
    if (message.kind === "notice") {
      pending.onNotice(message.notice);
    } else if (message.kind === "result") {
      pending.resolve(message.result);
    } else {
      const isOurAbort = message.error.name === "AbortError" && pending.signal?.aborted;
      pending.reject(isOurAbort ? pending.signal?.reason : errorFromWire(message.error));
    }
  }
}

/** What one session calls with. */
export class Caller {
  readonly connection: Connection;
  readonly session: number;
  #closedBy: Error | null = null;

  constructor(connection: Connection, session: number) {
    this.connection = connection;
    this.session = session;
  }

  /** Sends a request and waits for its answer. */
  call<K extends CallName>(
    call: K,
    payload: Calls[K]["payload"],
    options: CallOptions<K> = {},
  ): Promise<Calls[K]["result"]> {
    if (this.#closedBy) return Promise.reject(this.#closedBy);
    return this.connection.call(this.session, call, payload, options);
  }

  /** Ends this session's calls, and all later ones, with `reason`; true if it was the last session. */
  close(reason: Error): boolean {
    this.#closedBy ??= reason;
    return this.connection.closeSession(this.session, reason);
  }
}

/** What a handler gets beside the payload. */
export interface CallContext<K extends CallName> {
  session: number;
  signal: AbortSignal;
  notify(notice: Calls[K]["notice"]): void;
}

export type Handlers = {
  [K in CallName]: (
    payload: Calls[K]["payload"],
    context: CallContext<K>,
  ) => Promise<Calls[K]["result"]>;
};

/** Runs jobs one after the other, each whether or not the one before failed. */
export class Queue {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(job: () => Promise<T>): Promise<T> {
    const result = this.#last.then(job);
    this.#last = result.catch(() => undefined);
    return result;
  }
}

/**
 * The worker's end: answers requests in the order in which they came. A request that is given up
 * while it waits is answered at once and never begins; only the running one is told to stop.
 */
export function serve(port: Port<ToWorker, ToPage>, handlers: Handlers, queue: Queue): void {
  const controllers = new Map<number, AbortController>();
  const answer = async <K extends CallName>(
    id: number,
    session: number,
    call: K,
    payload: Calls[K]["payload"],
  ): Promise<void> => {
    const controller = new AbortController();
    const { signal } = controller;
    controllers.set(id, controller);
    let hasBegun = false;
    const givenUp = new Promise<never>((_, reject) => {
      signal.addEventListener("abort", () => {
        if (!hasBegun) reject(abortError("The call was given up before it began."));
      });
    });
    const job = queue.run(async () => {
      if (signal.aborted) throw abortError("The call was given up before it began.");
      hasBegun = true;
      const handler = handlers[call];
      if (!handler) throw new DeltamemError("worker", `the worker knows no call \`${call}\``);
      const notify = (notice: Calls[K]["notice"]) =>
        port.postMessage({ kind: "notice", id, notice });
      return handler(payload, { session, signal, notify });
    });
    try {
      const result = await Promise.race([job, givenUp]);
      port.postMessage({ kind: "result", id, result });
    } catch (error) {
      port.postMessage({ kind: "error", id, error: errorToWire(error) });
    } finally {
      controllers.delete(id);
    }
  };
  port.addEventListener("message", ({ data }) => {
    if (data.kind === "cancel") controllers.get(data.id)?.abort();
    else void answer(data.id, data.session, data.call, data.payload);
  });
}
