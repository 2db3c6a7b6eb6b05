import assert from "node:assert/strict";
import test from "node:test";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";
import { WebModel, WebSha256 } from "./fake-model.mjs";
import { load } from "./load.mjs";

globalThis.IDBKeyRange = IDBKeyRange;
globalThis.fetch = async (url) => {
  const isThere = /(config|tokenizer|delta_mem_config)\.json$|safetensors$/.test(url);
  return isThere ? new Response("{}") : new Response("", { status: 404 });
};
const { WorkerSession } = await load("worker-session");
const { Queue } = await load("messages");

/** Web Locks between the tabs of a test: first come, first served. */
class FakeLocks {
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

/** A tab: a session over a fake model, and what a page would see of it. */
async function openTab(locks, overrides = {}) {
  const queue = new Queue();
  const tab = { states: [], pieces: [], progress: [] };
  const session = new WorkerSession({
    queue,
    prepare: async () => {},
    loadModel: async (...args) => (tab.model = await WebModel.load(...args)),
    newHash: () => new WebSha256(),
    onState: (state) => tab.states.push(state),
    locks,
  });
  tab.call = (name, payload = null, signal = new AbortController().signal) =>
    queue.run(() =>
      session.handlers[name](payload, {
        signal,
        notify: (notice) => (name === "open" ? tab.progress : tab.pieces).push(notice),
      }),
    );
  tab.opened = await tab.call("open", {
    name: "fake",
    modelUrl: "https://models.test/fake/",
    adapterUrl: null,
    wasmUrl: null,
    weights: null,
    contextTokens: null,
    isThinking: null,
    initialPrompts: [],
    profile: "ada",
    isEphemeral: false,
    ...overrides,
  });
  tab.info = () => tab.call("memoryInfo");
  tab.close = () => session.close();
  return tab;
}

function freshBrowser() {
  globalThis.indexedDB = new IDBFactory();
  return new FakeLocks();
}

async function until(condition) {
  for (let tries = 0; tries < 200; tries += 1) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  assert.fail("it never came");
}

test("a turn is stored, and the next visit begins with its memory and an empty context", async () => {
  const locks = freshBrowser();
  const first = await openTab(locks);
  const downloads = first.progress.filter(({ stage }) => stage === "download");
  assert.equal(downloads.at(0).done, 0);
  assert.ok(downloads.at(-1).total > 0);
  assert.equal(downloads.at(-1).done, downloads.at(-1).total);
  const result = await first.call("turn", { text: "hello" });
  assert.ok(result.isCommitted);
  assert.equal(first.pieces.map(({ text }) => text).join(""), "you said hello");
  first.close();
  const second = await openTab(locks);
  assert.equal((await second.info()).norm, 10);
  assert.equal((await second.info()).generation, 1);
  assert.equal(second.opened.state.contextUsage, 0);
  assert.deepEqual(
    (await second.call("ledger")).map(({ prompt, reply, normBefore, normAfter, tokensWritten }) => [
      prompt, reply, normBefore, normAfter, tokensWritten,
    ]),
    [["hello", "you said hello", 0, 10, 5]],
  );
  second.close();
});

test("an abort ends the reply; what was said is stored", async () => {
  const tab = await openTab(freshBrowser());
  tab.model.delayMs = 5;
  const controller = new AbortController();
  const turn = tab.call("turn", { text: "one two three" }, controller.signal);
  setTimeout(() => controller.abort(), 8);
  const { turn: finished, isCommitted } = await turn;
  assert.equal(finished.stopReason, "cancelled");
  assert.ok(isCommitted && finished.answer.length < "you said one two three".length);
  tab.close();
});

test("a failed turn leaves the memory as it was stored", async () => {
  const tab = await openTab(freshBrowser());
  await tab.call("turn", { text: "hello" });
  tab.model.value = 999; // half a turn was written when the device failed
  await assert.rejects(tab.call("turn", { text: "fail" }), { code: "gpu" });
  assert.equal((await tab.info()).norm, 10);
  assert.equal((await tab.info()).generation, 1);
  tab.close();
});

test("undo takes back turns of this context, of before, and imports", async () => {
  const locks = freshBrowser();
  const first = await openTab(locks);
  await first.call("turn", { text: "a" });
  await first.call("turn", { text: "bb" });
  const exported = await first.call("exportMemory");
  first.close();
  const tab = await openTab(locks);
  await tab.call("turn", { text: "ccc" });
  assert.equal((await tab.info()).norm, 12);
  await tab.call("undo");
  assert.equal(tab.model.history.length, 0);
  assert.equal((await tab.info()).norm, 6);
  await tab.call("undo");
  assert.equal((await tab.info()).norm, 2);
  await tab.call("importMemory", exported);
  assert.equal((await tab.info()).norm, 6);
  await tab.call("undo");
  await tab.call("undo");
  assert.equal((await tab.info()).norm, 0);
  await assert.rejects(tab.call("undo"), { code: "nothing_to_undo" });
  assert.deepEqual(await tab.call("ledger"), []);
  await assert.rejects(tab.call("importMemory", new Uint8Array(3)), { code: "format" });
  tab.close();
});

test("forgetting empties memory, context, snapshots and turns, for good", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks);
  await tab.call("turn", { text: "secret" });
  await tab.call("forget");
  const isEmpty = async (of) => {
    const { norm, generation } = await of.info();
    assert.deepEqual([norm, generation], [0, 0]);
    assert.deepEqual(await of.call("ledger"), []);
    assert.deepEqual(await of.call("snapshots"), []);
  };
  await isEmpty(tab);
  assert.equal(tab.model.history.length, 0);
  tab.close();
  const again = await openTab(locks);
  await isEmpty(again);
  await again.call("turn", { text: "new" });
  assert.equal((await again.info()).norm, 6);
  again.close();
});

test("the second tab reads, follows every commit, and takes over when the first closes", async () => {
  const locks = freshBrowser();
  const writer = await openTab(locks);
  await writer.call("turn", { text: "hello" });
  const reader = await openTab(locks);
  assert.ok(reader.opened.state.isReadOnly && !writer.opened.state.isReadOnly);
  assert.equal((await reader.info()).norm, 10);
  assert.equal((await reader.call("turn", { text: "unheard" })).isCommitted, false);
  assert.equal(reader.model.calls.at(-1).write, false);
  for (const name of ["undo", "forget"]) {
    await assert.rejects(reader.call(name), { code: "read_only" });
  }
  await writer.call("turn", { text: "again" });
  await until(async () => (await reader.info()).generation === 2);
  assert.equal((await reader.info()).norm, 20);
  await writer.call("forget");
  await until(async () => (await reader.info()).norm === 0);
  await writer.call("turn", { text: "x" });
  writer.close();
  await until(() => reader.states.at(-1)?.isReadOnly === false);
  assert.ok((await reader.call("turn", { text: "y" })).isCommitted);
  assert.deepEqual((await reader.call("ledger")).map(({ prompt }) => prompt), ["x", "y"]);
  reader.close();
});

test("an ephemeral session stores nothing; a paused one does not write", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks, { isEphemeral: true });
  assert.ok(tab.opened.state.isEphemeral && !tab.opened.state.isReadOnly);
  assert.equal((await tab.call("turn", { text: "hello" })).isCommitted, false);
  assert.equal((await tab.info()).norm, 10);
  await tab.call("undo");
  assert.equal((await tab.info()).norm, 0);
  await assert.rejects(tab.call("undo"), { code: "nothing_to_undo" });
  tab.close();
  const stored = await openTab(locks);
  assert.equal((await stored.info()).norm, 0);
  await stored.call("setPaused", true);
  await stored.call("turn", { text: "unwritten" });
  assert.equal((await stored.info()).norm, 0);
  assert.ok(stored.states.at(-1).isPaused);
  stored.close();
});

test("without storage the session goes on and says so", async () => {
  const locks = freshBrowser();
  globalThis.indexedDB = undefined;
  const tab = await openTab(locks);
  assert.ok(tab.opened.state.isEphemeral);
  assert.match(tab.opened.state.notice, /only until this page closes/);
  tab.close();
});

test("a missing model file is named", async () => {
  const locks = freshBrowser();
  const { fetch } = globalThis;
  globalThis.fetch = async () => new Response("", { status: 404 });
  await assert.rejects(openTab(locks), { code: "network", message: /config\.json answered 404/ });
  globalThis.fetch = fetch;
});
