/** Tabs of a browser without a browser: sessions over the fake model, a database, locks, and a host. */
import assert from "node:assert/strict";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";
import * as wasm from "./fake-model.mjs";
import { load } from "./load.mjs";

globalThis.IDBKeyRange = IDBKeyRange;
/** A host of models; the one called `big` is too big for the fake's GPU. */
globalThis.fetch = async (url) => {
  const isThere = /(config|tokenizer|delta_mem_config)\.json$|safetensors$/.test(url);
  const body = url.includes("/big/") ? '{"fakeWeightBytes": 2000000}' : "{}";
  return isThere ? new Response(body) : new Response("", { status: 404 });
};

const { serveSessions } = await load("worker-host");
const { Connection } = await load("messages");
const { portPair } = await load("start-worker");
export const fake = globalThis.fakeModel;

/** Web Locks between the tabs of a test: first come, first served. */
export class FakeLocks {
  #lines = new Map();

  request(name, { signal }, callback) {
    const line = this.#lines.get(name) ?? [];
    this.#lines.set(name, line);
    return new Promise((resolve, reject) => {
      const entry = { isRunning: false };
      entry.start = async () => {
        entry.isRunning = true;
        resolve(await callback());
        line.splice(line.indexOf(entry), 1);
        line[0]?.start();
      };
      signal.addEventListener("abort", () => {
        if (entry.isRunning) return;
        line.splice(line.indexOf(entry), 1);
        reject(signal.reason);
      });
      line.push(entry);
      if (line.length === 1) entry.start();
    });
  }
}

/** An empty database and nobody in line. */
export function freshBrowser() {
  globalThis.indexedDB = new IDBFactory();
  Object.assign(fake, { delayMs: 0, failLoads: [], footprint: {}, hangsWhenLost: false, onStep: () => {} });
  return new FakeLocks();
}

/** A session as its page sees it. */
class Session {
  states = [];
  events = [];
  pieces = [];
  progress = [];

  constructor(connection) {
    this.caller = connection.openSession((event) => {
      if (event.kind === "state") this.states.push(event.state);
      else this.events.push(event.kind);
    });
  }

  call(name, payload = null, signal = undefined) {
    const onNotice = (notice) => (name === "open" ? this.progress : this.pieces).push(notice);
    return this.caller.call(name, payload, { signal, onNotice });
  }

  /** A turn with one user message. */
  say(text, settings = {}, signal = undefined) {
    const messages = [{ role: "user", content: text }];
    return this.call("turn", { messages, isHistory: false, settings }, signal);
  }

  complete(messages, settings = {}) {
    return this.call("turn", { messages, isHistory: true, settings });
  }

  info() {
    return this.call("memoryInfo");
  }

  /** What context, memory and store are now, for comparing. */
  async everything() {
    const { norm, generation } = await this.info();
    const texts = (await this.call("history")).map(({ content }) => content);
    const ledger = (await this.call("ledger")).map(({ kind, prompt }) => [kind, prompt]);
    return { norm, generation, texts, ledger };
  }
}

/** A tab: a worker with its first session. */
export async function openTab(locks, overrides = {}) {
  const [page, worker] = portPair();
  const connection = new Connection(page);
  const end = serveSessions(worker, wasm, { locks, retryDelaysMs: [0, 1, 1], graceMs: 20 });
  const tab = new Session(connection);
  tab.opened = await tab
    .call("open", {
      name: "fake",
      modelUrl: "https://models.test/fake/",
      adapterUrl: null,
      wasmUrl: null,
      weights: null,
      contextTokens: null,
      isThinking: null,
      initialPrompts: [],
      tools: [],
      profile: "ada",
      isEphemeral: false,
      store: "none",
      prefixBytes: null,
      sha256: {},
      passphrase: null,
      ...overrides,
    })
    .catch((error) => {
      end();
      throw error;
    });
  Object.defineProperty(tab, "model", { get: () => fake.models.at(-1) });
  tab.clone = async (options = {}) => {
    const clone = new Session(connection);
    const { session } = tab.caller;
    const payload = { session, profile: null, passphrase: null, ...options };
    clone.opened = { state: await clone.call("clone", payload) };
    return clone;
  };
  tab.close = async () => {
    end();
    await tick();
  };
  return tab;
}

export function tick(ms = 1) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

export async function until(condition) {
  for (let tries = 0; tries < 400; tries += 1) {
    if (await condition()) return;
    await tick(5);
  }
  assert.fail("it never came");
}

/** Aborts before the fake model's next step of this kind; `load`, `prompt` or `piece`. */
export function abortAt(kind, skipped = 0) {
  const controller = new AbortController();
  let steps = skipped;
  fake.onStep = (step) => {
    if (step !== kind) return;
    if (steps === 0) controller.abort();
    steps -= 1;
  };
  return controller.signal;
}
