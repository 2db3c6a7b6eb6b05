/** Joins the wasm module, the sessions and the messages of the page; the same in a worker and on the page. */
import { Queue, serve, type Port } from "./messages.js";
import type { ToPage, ToWorker } from "./protocol.js";
import type { Inspect, LoadModel, WebSha256 } from "./wasm.js";
import { WorkerSession } from "./worker-session.js";

/** What is used of the wasm module `deltamem.js`. */
export interface WasmModule {
  default(input?: { module_or_path: URL | string }): Promise<unknown>;
  WebModel: { load: LoadModel };
  WebSha256: new () => WebSha256;
  inspect: Inspect;
}

/** Answers the page's requests; gives what ends it. */
export function serveSessions(port: Port<ToWorker, ToPage>, wasm: WasmModule): () => void {
  const queue = new Queue();
  const session = new WorkerSession({
    queue,
    prepare: async (wasmUrl) => {
      await wasm.default(wasmUrl === null ? undefined : { module_or_path: wasmUrl });
    },
    loadModel: (...args) => wasm.WebModel.load(...args),
    onState: (state) =>
      port.postMessage({ kind: "event", session: 0, event: { kind: "state", state } }),
  });
  serve(port, session.handlers, queue);
  return () => void queue.run(async () => session.close());
}
