/** Joins the wasm module, the sessions and the messages of the page; the same in a worker and on the page. */
import { Queue, serve, type Port } from "./messages.js";
import type { WasmModule } from "./model-loader.js";
import type { ToPage, ToWorker } from "./protocol.js";
import { type SessionsOptions, WorkerSessions } from "./worker-session.js";

/** Answers the page's requests; gives what ends it. `overrides` are for tests. */
export function serveSessions(
  port: Port<ToWorker, ToPage>,
  wasm: WasmModule,
  overrides: Partial<SessionsOptions> = {},
): () => void {
  const queue = new Queue();
  const sessions = new WorkerSessions({
    wasm,
    queue,
    onEvent: (session, event) => port.postMessage({ kind: "event", session, event }),
    ...overrides,
  });
  serve(port, sessions.handlers, queue);
  return () => void queue.run(async () => sessions.close());
}
