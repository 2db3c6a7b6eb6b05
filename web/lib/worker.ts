/** The dedicated worker: joins the wasm module, the session and the messages of the page. */
import init, { WebModel, WebSha256 } from "./deltamem.js";
import { Queue, serve, type Port, type ToPage, type ToWorker } from "./messages.js";
import { WorkerSession } from "./worker-session.js";

const port = globalThis as unknown as Port<ToWorker, ToPage>;
const queue = new Queue();
const session = new WorkerSession({
  queue,
  prepare: async (wasmUrl) => {
    await init(wasmUrl === null ? undefined : { module_or_path: wasmUrl });
  },
  loadModel: (...load) => WebModel.load(...load),
  newHash: () => new WebSha256(),
  onState: (state) => port.postMessage({ kind: "state", state }),
});
serve(port, session.handlers, queue);
