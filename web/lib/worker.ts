/** The dedicated worker. */
import * as wasm from "./deltamem.js";
import type { Port } from "./messages.js";
import type { ToPage, ToWorker } from "./protocol.js";
import { serveSessions } from "./worker-host.js";

serveSessions(globalThis as unknown as Port<ToWorker, ToPage>, wasm);
