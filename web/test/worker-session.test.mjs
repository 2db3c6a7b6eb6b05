import assert from "node:assert/strict";
import test from "node:test";
import { IDBObjectStore } from "fake-indexeddb";
import { abortAt, fake, freshBrowser, openTab, until } from "./tabs.mjs";

test("a turn is stored, and the next visit begins with its memory and an empty context", async () => {
  const locks = freshBrowser();
  const first = await openTab(locks);
  const downloads = first.progress.filter(({ stage }) => stage === "download");
  assert.equal(downloads.at(0).done, 0);
  assert.ok(downloads.at(-1).total > 0);
  assert.equal(downloads.at(-1).done, downloads.at(-1).total);
  assert.equal((await first.info()).lastCommitBytes, null);
  const result = await first.say("hello");
  assert.ok(result.isCommitted);
  assert.equal(first.pieces.map(({ text }) => text).join(""), "you said hello");
  assert.equal(first.states.at(-1).contextUsage, "hello".length + "you said hello".length);
  const { lastCommitBytes } = await first.info();
  const [profile] = await first.call("profiles");
  assert.ok(lastCommitBytes > 100 && lastCommitBytes < 2000);
  assert.deepEqual([profile.profile, profile.generation, profile.norm], ["ada", 1, 10]);
  assert.equal(profile.bytes, lastCommitBytes);
  await first.close();
  const second = await openTab(locks);
  assert.equal((await second.info()).norm, 10);
  assert.equal((await second.info()).generation, 1);
  assert.equal(second.opened.state.contextUsage, 0);
  const [{ savedMs, ...entry }] = await second.call("ledger");
  assert.ok(savedMs > 1.7e12);
  assert.deepEqual(entry, {
    kind: "turn",
    generation: 1,
    prompt: "hello",
    promptRole: "user",
    reply: "you said hello",
    thoughts: "",
    toolCalls: [],
    tokensWritten: 5,
    normBefore: 0,
    normAfter: 10,
  });
  await second.close();
});

test("an abort ends the reply; what was said is stored", async () => {
  const tab = await openTab(freshBrowser());
  const { turn, isCommitted } = await tab.say("one two three", {}, abortAt("piece", 2));
  assert.equal(turn.stopReason, "cancelled");
  assert.ok(isCommitted && turn.answer.length < "you said one two three".length);
  await tab.close();
});

test("an abort while the prompt is read leaves everything as it was", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("hello");
  const before = await tab.everything();
  const words = { role: "user", content: "words" };
  for (const begin of [
    (signal) => tab.say("one two three", {}, signal),
    (signal) => tab.call("append", [words], signal),
    (signal) => tab.call("writeMemory", "words", signal),
  ]) {
    await assert.rejects(begin(abortAt("prompt", 1)), { name: "AbortError" });
  }
  assert.deepEqual(await tab.everything(), before);
  assert.deepEqual(tab.model.history.map(({ content }) => content), before.texts);
  assert.equal((await tab.say("again")).turn.stopReason, "end_of_sequence");
  await tab.close();
});

test("giving up a waiting call does not touch the running one", async () => {
  const tab = await openTab(freshBrowser());
  const signal = abortAt("prompt", 1);
  const running = tab.say("first");
  let isRunning = true;
  void running.then(() => (isRunning = false));
  await assert.rejects(tab.say("second", {}, signal), { name: "AbortError" });
  assert.ok(isRunning, "the waiting call is answered at once");
  assert.equal((await running).turn.stopReason, "end_of_sequence");
  assert.equal((await running).turn.answer, "you said first");
  assert.deepEqual(tab.model.calls.map(({ text }) => text), ["first"]);
  await tab.close();
});

test("a failed turn leaves context and memory as they were stored", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("hello");
  const before = await tab.everything();
  // half a prompt was written when the GPU refused, and the fake takes nothing back
  await assert.rejects(tab.say("fail"), { code: "gpu" });
  assert.deepEqual(await tab.everything(), before);
  assert.deepEqual(tab.model.history.map(({ content }) => content), before.texts);
  await tab.close();
});

test("a turn that cannot be stored is taken out of context and memory", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("hello");
  const before = await tab.everything();
  const { prototype } = IDBObjectStore;
  const { put } = prototype;
  prototype.put = function (...values) {
    if (this.name === "transcripts") throw new DOMException("no room", "QuotaExceededError");
    return put.apply(this, values);
  };
  try {
    await assert.rejects(tab.say("too much"), { code: "quota" });
  } finally {
    prototype.put = put;
  }
  assert.deepEqual(await tab.everything(), before);
  assert.deepEqual(tab.model.history.map(({ content }) => content), before.texts);
  assert.ok((await tab.say("fits")).isCommitted);
  await tab.close();
});

test("undo takes back turns of this context, of before, and imports", async () => {
  const locks = freshBrowser();
  const first = await openTab(locks);
  await first.say("a");
  await first.say("bb");
  const exported = await first.call("exportMemory", { passphrase: null });
  await first.close();
  const tab = await openTab(locks);
  await tab.say("ccc");
  assert.equal((await tab.info()).norm, 12);
  await tab.call("undo");
  assert.deepEqual(await tab.call("history"), []);
  assert.equal((await tab.info()).norm, 6);
  await tab.call("undo");
  assert.equal((await tab.info()).norm, 2);
  await tab.call("importMemory", { bytes: exported, passphrase: null });
  assert.equal((await tab.info()).norm, 6);
  assert.deepEqual((await tab.everything()).ledger, [["turn", "a"], ["import", ""]]);
  await tab.call("undo");
  await tab.call("undo");
  assert.equal((await tab.info()).norm, 0);
  await assert.rejects(tab.call("undo"), { code: "nothing_to_undo" });
  assert.deepEqual(await tab.call("ledger"), []);
  const bytes = new Uint8Array(3);
  await assert.rejects(tab.call("importMemory", { bytes, passphrase: null }), { code: "format" });
  await tab.close();
});

test("forgetting empties memory, context, snapshots and turns, for good", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks);
  await tab.say("secret");
  await tab.call("forget");
  const isEmpty = async (of) => {
    assert.deepEqual(await of.everything(), { norm: 0, generation: 0, texts: [], ledger: [] });
    assert.deepEqual(await of.call("snapshots"), []);
    assert.deepEqual(await of.call("profiles"), []);
  };
  await isEmpty(tab);
  await tab.close();
  const again = await openTab(locks);
  await isEmpty(again);
  await again.say("new");
  assert.equal((await again.info()).norm, 6);
  await again.close();
});

test("the second tab reads, follows every commit, and takes over when the first closes", async () => {
  const locks = freshBrowser();
  const writer = await openTab(locks);
  const writerModel = fake.models.at(-1);
  await writer.say("hello");
  const reader = await openTab(locks);
  assert.notEqual(reader.model, writerModel);
  assert.ok(reader.opened.state.isReadOnly && !writer.opened.state.isReadOnly);
  assert.equal((await reader.info()).norm, 10);
  assert.equal((await reader.say("unheard")).isCommitted, false);
  assert.equal(reader.model.calls.at(-1).write, false);
  for (const name of ["undo", "forget"]) {
    await assert.rejects(reader.call(name), { code: "read_only" });
  }
  await assert.rejects(reader.call("writeMemory", "x"), { code: "read_only" });
  await writer.say("again");
  await until(async () => (await reader.info()).generation === 2);
  assert.equal((await reader.info()).norm, 20);
  await writer.call("forget");
  await until(async () => (await reader.info()).norm === 0);
  await writer.say("x");
  await writer.close();
  await until(() => reader.states.at(-1)?.isReadOnly === false);
  assert.ok((await reader.say("y")).isCommitted);
  assert.deepEqual((await reader.call("ledger")).map(({ prompt }) => prompt), ["x", "y"]);
  await reader.close();
});

test("an ephemeral session stores nothing and undoes all the same; a paused one does not write", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks, { isEphemeral: true });
  assert.ok(tab.opened.state.isEphemeral && !tab.opened.state.isReadOnly);
  assert.equal((await tab.say("hello")).isCommitted, false);
  assert.equal((await tab.info()).norm, 10);
  await tab.call("writeMemory", "12345");
  assert.equal((await tab.info()).norm, 20);
  assert.equal((await tab.call("snapshots")).length, 2);
  await tab.call("undo");
  await tab.call("undo");
  assert.deepEqual((await tab.everything()).texts, []);
  assert.equal((await tab.info()).norm, 0);
  await assert.rejects(tab.call("undo"), { code: "nothing_to_undo" });
  assert.deepEqual(await tab.call("profiles"), []);
  await tab.close();
  const stored = await openTab(locks);
  assert.equal((await stored.info()).norm, 0);
  await stored.call("setPaused", true);
  assert.equal((await stored.say("unwritten")).isCommitted, false);
  await assert.rejects(stored.call("writeMemory", "x"), { code: "read_only" });
  assert.equal((await stored.info()).norm, 0);
  assert.ok(stored.states.at(-1).isPaused);
  await stored.call("setPaused", false);
  await stored.say("written");
  // the newest commit and the newest turn are taken back together, an unwritten turn by itself
  await stored.call("undo");
  assert.equal((await stored.everything()).texts.length, 2);
  await stored.call("undo");
  assert.equal((await stored.everything()).texts.length, 0);
  await stored.close();
});

test("without storage the session goes on and says so", async () => {
  const locks = freshBrowser();
  globalThis.indexedDB = undefined;
  const tab = await openTab(locks);
  assert.ok(tab.opened.state.isEphemeral);
  assert.match(tab.opened.state.notice, /only until this page closes/);
  await tab.close();
});

test("a model without δ-mem talks and has no memory", async () => {
  const tab = await openTab(freshBrowser(), { name: "bare" });
  assert.match(tab.opened.state.notice, /no δ-mem adapter/);
  assert.equal((await tab.say("hello")).isCommitted, false);
  await assert.rejects(tab.info(), { code: "no_memory" });
  assert.deepEqual(await tab.call("takeBack"), [{ role: "user", content: "hello" }]);
  assert.deepEqual(await tab.call("history"), []);
  await tab.close();
});

test("a missing model file is named, and a load that fails leaves nothing on the GPU", async () => {
  const locks = freshBrowser();
  const { fetch } = globalThis;
  globalThis.fetch = async () => new Response("", { status: 404 });
  await assert.rejects(openTab(locks), { code: "network", message: /config\.json answered 404/ });
  globalThis.fetch = fetch;
  const loaded = fake.loaded;
  fake.failLoads = ["out_of_memory"];
  await assert.rejects(openTab(locks), {
    code: "out_of_memory",
    message: /takes 0\.0 MiB of f32 weights.*Try smaller weights/,
  });
  assert.equal(fake.loaded, loaded);
  const tab = await openTab(locks); // the profile was given back
  assert.ok(!tab.opened.state.isReadOnly);
  await tab.close();
});

test("a model that does not fit is refused before its weights are fetched", async () => {
  const locks = freshBrowser();
  const { fetch } = globalThis;
  const fetched = [];
  globalThis.fetch = (url, init) => {
    const isProbe = init?.headers?.Range === "bytes=0-0";
    if (!isProbe) fetched.push(url);
    return fetch(url, init);
  };
  const big = { modelUrl: "https://models.test/big/" };
  await assert.rejects(openTab(locks, big), { code: "does_not_fit", message: /1\.9 MiB of f32/ });
  globalThis.fetch = fetch;
  assert.deepEqual(
    fetched.map((url) => url.split("/").at(-1)),
    ["config.json", "delta_mem_config.json"],
  );
});
