/** Where the model runs: in a dedicated worker, on the page, or on a server. Owns the difference between them. */
import { DeltamemError } from "./errors.js";
import { Connection, type Port, Queue, serve } from "./messages.js";
import type { ToPage, ToWorker } from "./protocol.js";

export interface StartOptions {
  worker?: boolean;
  workerUrl?: string | URL;
}

/** A running worker, or what stands for it. */
export interface WorkerHandle {
  connection: Connection;
  /** True if the model is not in this browser. */
  isServer?: boolean;
  /** Frees everything; calls under way are lost. */
  end(): void;
}

/** The little of WebGPU's types that is asked here. */
interface NavigatorWithGpu {
  gpu?: { requestAdapter(): Promise<unknown> };
}

/** Whether there is a WebGPU adapter, and workers if one is wanted. */
export async function hasGpu(isInWorker: boolean): Promise<boolean> {
  const gpu = (globalThis.navigator as NavigatorWithGpu | undefined)?.gpu;
  if (!gpu || (isInWorker && typeof Worker === "undefined")) return false;
  return Boolean(await gpu.requestAdapter().catch(() => null));
}

/** Starts it; `worker: false` loads the wasm module's glue only now. */
export async function startWorker(options: StartOptions): Promise<WorkerHandle> {
  if (options.worker === false) return startOnPage();
  // Bundlers recognise exactly this expression and bring the worker along.
  const worker = options.workerUrl
    ? new Worker(options.workerUrl, { type: "module" })
    : new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  const connection = new Connection(worker as Port<ToPage, ToWorker>);
  worker.addEventListener("error", (event) => {
    const reason = event.message || "it could not be loaded";
    connection.close(new DeltamemError("worker", `The worker failed: ${reason}.`));
  });
  return { connection, end: () => worker.terminate() };
}

async function startOnPage(): Promise<WorkerHandle> {
  const [wasm, { serveSessions }] = await Promise.all([
    import("./deltamem.js"),
    import("./worker-host.js"),
  ]);
  const [page, worker] = portPair<ToPage, ToWorker>();
  const connection = new Connection(page);
  const end = serveSessions(worker, wasm);
  return { connection, end };
}

/** Sessions with the model that `deltamem serve` has loaded at `url`. */
export async function startServer(url: string, token: string | null): Promise<WorkerHandle> {
  const [{ ServerApi }, { ServerSessions }] = await Promise.all([
    import("./server-api.js"),
    import("./server-sessions.js"),
  ]);
  const [page, server] = portPair<ToPage, ToWorker>();
  const sessions = new ServerSessions(new ServerApi(url, token), (session, event) =>
    server.postMessage({ kind: "event", session, event }),
  );
  serve(server, sessions.handlers, new Queue());
  return { connection: new Connection(page), isServer: true, end: () => undefined };
}

type Listener<T> = (event: MessageEvent<T>) => void;

/** Two ends in memory, in the manner of a `MessageChannel`: what one posts the other gets, later. */
export function portPair<A, B>(): [Port<A, B>, Port<B, A>] {
  const toA: Listener<A>[] = [];
  const toB: Listener<B>[] = [];
  const deliver = <T>(listeners: Listener<T>[], data: T): void => {
    queueMicrotask(() => {
      for (const listener of listeners) listener({ data } as MessageEvent<T>);
    });
  };
  return [
    { postMessage: (data) => deliver(toB, data), addEventListener: (_, heard) => toA.push(heard) },
    { postMessage: (data) => deliver(toA, data), addEventListener: (_, heard) => toB.push(heard) },
  ];
}
