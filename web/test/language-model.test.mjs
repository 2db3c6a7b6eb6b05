/** The whole library on the page (`worker: false`), from `LanguageModel` to the fake model and back. */
import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./load.mjs";
import { FakeLocks, abortAt, fake, freshBrowser, tick, until } from "./tabs.mjs";

const { LanguageModel, DeltamemError } = await load("index");
const created = [];

globalThis.ProgressEvent ??= class extends Event {
  constructor(type, init) {
    super(type);
    Object.assign(this, init);
  }
};

async function open(options = {}) {
  const model = await LanguageModel.create({
    model: "https://models.test/fake/",
    worker: false,
    ephemeral: true,
    store: "none",
    ...options,
  });
  created.push(model);
  return model;
}

test.beforeEach(() => {
  freshBrowser();
  const navigator = {
    gpu: { requestAdapter: async () => ({}) },
    locks: new FakeLocks(),
    storage: { persist: async () => true, estimate: async () => ({ quota: 1e9, usage: 0 }) },
  };
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
});

test.afterEach(async () => {
  for (const model of created.splice(0)) model.destroy();
  await tick(5);
});

const tools = [
  {
    name: "weather",
    description: "Tells the weather",
    inputSchema: { type: "object", properties: { city: { type: "string" } } },
    execute: ({ city }) => `sunny in ${city}`,
  },
];

test("a model is loaded, talks, and frees the GPU when it is destroyed", async () => {
  const progress = [];
  const loaded = fake.loaded;
  const session = await open({
    ephemeral: false,
    monitor: (monitor) => {
      for (const type of ["downloadprogress", "loadprogress"]) {
        monitor.addEventListener(type, ({ loaded }) => progress.push([type, loaded]));
      }
    },
  });
  for (const type of ["downloadprogress", "loadprogress"]) {
    const values = progress.filter(([of]) => of === type).map(([, value]) => value);
    assert.deepEqual([values.at(0), values.at(-1)], [0, 1]);
  }
  const reports = [];
  session.addEventListener("turn", ({ detail }) => reports.push(detail));
  assert.equal(await session.prompt("hello"), "you said hello");
  assert.equal(await session.prompt([{ role: "user", content: [{ type: "text", value: "a" }, { type: "text", value: "b" }] }]), "you said ab");
  const pieces = [];
  for await (const piece of session.promptStreaming({ role: "user", content: "one two" })) {
    pieces.push(piece);
  }
  assert.deepEqual(pieces, ["you ", "said ", "one ", "two"]);
  assert.ok(reports.length === 3 && reports.every(({ isCommitted }) => isCommitted));
  assert.equal(session.contextUsage, (await session.history()).map(({ content }) => content).join("").length);
  await until(() => session.isPersisted);
  assert.equal(await session.measureContextUsage([{ role: "user", content: "123" }, { role: "user", content: "45" }]), 5);
  const pending = session.prompt("late");
  session.destroy();
  await assert.rejects(pending, { name: "AbortError" });
  await assert.rejects(session.prompt("later"), { name: "AbortError" });
  await until(() => fake.loaded === loaded);
});

test("several messages, thoughts, gauges and settings reach the model", async () => {
  const session = await open({ thinking: true });
  const thoughts = [];
  const reports = [];
  session.addEventListener("turn", ({ detail }) => reports.push(detail));
  await session.prompt(
    [
      { role: "user", content: "first" },
      { role: "assistant", content: "answer" },
      { role: "user", content: "think about it" },
    ],
    { onThought: (text) => thoughts.push(text), gauges: true, seed: 7, topK: 3, write: false },
  );
  assert.deepEqual(thoughts, ["hm"]);
  const reply = { role: "assistant", content: "you said think about it", reasoning: "hm" };
  assert.deepEqual((await session.history()).at(-1), reply);
  assert.equal(reports[0].gauges[0].beta, 0.5);
  const { options, messages } = fake.models.at(-1).calls.at(-1);
  assert.deepEqual([options.seed, options.topK, options.write, messages.length], [7, 3, false, 3]);
  assert.equal(fake.models.at(-1).options.thinking, true);
  await session.prompt("think", { thinking: false, toolFormat: "python", onThought: (text) => thoughts.push(text) });
  await session.prompt("think again", { onThought: (text) => thoughts.push(text) });
  assert.deepEqual(thoughts, ["hm"]);
  // both hold for the turns that follow
  const formats = fake.models.at(-1).calls.slice(-3).map(({ options }) => options.toolFormat);
  assert.deepEqual(formats, [undefined, "python", "python"]);
});

test("what is no prompt is refused before the model sees it", async () => {
  const session = await open();
  const refused = [
    [[], "messages"],
    [[{ role: "assistant", content: "x" }], "messages"],
    [[{ role: "robot", content: "x" }], "messages"],
    [[{ role: "user" }], "messages"],
    [[{ role: "user", content: [{ type: "image", value: "x" }] }], "unsupported"],
  ];
  for (const [input, code] of refused) {
    await assert.rejects(session.prompt(input), { code });
    await assert.rejects(session.promptStreaming(input).getReader().read(), { code });
  }
  await assert.rejects(session.prompt(" "), { code: "messages" });
  await assert.rejects(
    open({ initialPrompts: [{ role: "user", content: "x" }, { role: "system", content: "y" }] }),
    { code: "messages", message: /only be the first/ },
  );
  await assert.rejects(open({ tools: [...tools, ...tools] }), { code: "messages" });
  assert.deepEqual(await session.history(), []);
});

test("a constraint is a schema or a RegExp", async () => {
  const session = await open();
  const { calls } = fake.models.at(-1);
  const schema = { type: "object" };
  assert.equal(await session.prompt("x", { responseConstraint: schema }), '{"said":"x"}');
  assert.deepEqual(calls.at(-1).options.constraint, { kind: "json_schema", schema });
  assert.equal(await session.prompt("x", { responseConstraint: /a|b\/c/i }), "(?i)a|b\\/c");
  assert.equal(
    await session.prompt("x", { responseConstraint: /[ab]/, omitResponseConstraintInput: true }),
    "[ab]",
  );
  for (const responseConstraint of [/a/g, /a/su, "a", [], null]) {
    await assert.rejects(session.prompt("x", { responseConstraint }), { code: "unsupported" });
  }
});

test("tools are called and the model goes on with what they say", async () => {
  const session = await open({ tools });
  const answer = await session.prompt('call weather {"city": "Oslo"}');
  assert.equal(answer, "the tool said sunny in Oslo");
  const [question, call, result] = await session.history();
  assert.equal(question.role, "user");
  assert.deepEqual(call.toolCalls, [{ name: "weather", arguments: { city: "Oslo" } }]);
  assert.deepEqual(result, { role: "tool", name: "weather", content: "sunny in Oslo" });
  // the whole question is asked again, tools included
  assert.equal(await session.regenerate(), answer);
  assert.equal((await session.history()).length, 4);
  assert.equal((await session.memory.ledger()).length, 2);
});

test("a tool that fails tells the model, one that calls for itself is stopped, one without execute ends the turn", async () => {
  const [weather] = tools;
  const failing = await open({
    tools: [{ ...weather, execute: () => Promise.reject(new Error("no network")) }],
  });
  assert.match(await failing.prompt('call weather {"city": "x"}'), /the tool said Error: no network/);
  const outside = await open({ tools: [{ ...weather, execute: undefined }] });
  const reports = [];
  outside.addEventListener("turn", ({ detail }) => reports.push(detail));
  assert.equal(await outside.prompt('call weather {"city": "x"}'), "");
  assert.equal(reports[0].toolCalls[0].name, "weather");
  assert.equal(await outside.prompt([{ role: "tool", name: "weather", content: "rain" }]), "the tool said rain");

  let rounds = 0;
  const endless = await open({ tools: [{ ...weather, execute: () => `again ${(rounds += 1)}` }] });
  const model = fake.models.at(-1);
  model.replyTo = () => ({ reply: "", toolCalls: [{ name: "weather", arguments: {} }] });
  await endless.prompt("go");
  assert.equal(rounds, 8);
  const controller = new AbortController();
  const stopped = await open({
    tools: [{ ...weather, execute: () => controller.abort() }],
  });
  await assert.rejects(
    stopped.prompt('call weather {"city": "x"}', { signal: controller.signal }),
    { name: "AbortError" },
  );
  assert.equal((await stopped.history()).length, 2);
});

test("a history is completed with tools of its own, and only what is new is fed", async () => {
  const session = await open();
  const pieces = [];
  const history = [{ role: "user", content: 'call weather {"city": "x"}' }];
  const report = await session.complete(history, { tools });
  assert.deepEqual(report.toolCalls, [{ name: "weather", arguments: { city: "x" } }]);
  history.push(
    { role: "assistant", content: "", toolCalls: report.toolCalls },
    { role: "tool", name: "weather", content: "rain" },
  );
  const next = await session.complete(history, { tools, onAnswer: (text) => pieces.push(text) });
  assert.equal(pieces.join(""), "the tool said rain");
  assert.equal(next.rollback, null);
  assert.equal(next.promptTokens - next.prefixTokens, "rain".length);
  assert.equal(next.isCommitted, false);
  const without = await session.complete([{ role: "user", content: 'call weather {"city": "x"}' }]);
  assert.deepEqual(without.toolCalls, []);
});

test("an abort rejects, and the session goes on", async () => {
  const session = await open();
  await assert.rejects(session.prompt("one two three", { signal: abortAt("prompt", 1) }), {
    name: "AbortError",
  });
  assert.deepEqual(await session.history(), []);
  await assert.rejects(session.prompt("one two three", { signal: abortAt("piece", 2) }), {
    name: "AbortError",
  });
  assert.equal((await session.history()).length, 2);
  const reader = session.promptStreaming("four five six").getReader();
  await reader.read();
  await reader.cancel();
  assert.equal(await session.prompt("next"), "you said next");
  assert.equal((await session.history()).length, 6);
  await assert.rejects(session.prompt("x", { signal: AbortSignal.abort() }), {
    name: "AbortError",
  });
});

test("a load that is given up leaves nothing behind", async () => {
  const loaded = fake.loaded;
  await assert.rejects(open({ signal: abortAt("load") }), { name: "AbortError" });
  await until(() => fake.loaded === loaded);
  const second = await open(); // nobody holds its profile, or the GPU
  assert.equal(await second.prompt("hello"), "you said hello");
});

test("a reply goes on in a message that the prompt begins, and is one with it", async () => {
  const session = await open();
  const question = { role: "user", content: "hello" };
  const begun = { role: "assistant", content: "Well, ", prefix: true };
  assert.equal(await session.prompt([question, begun]), "you said hello");
  const reply = { role: "assistant", content: "Well, you said hello" };
  assert.deepEqual(await session.history(), [question, reply]);
  const [{ prompt, promptRole, reply: told }] = await session.memory.ledger();
  assert.deepEqual([prompt, promptRole, told], ["hello", "user", reply.content]);
  // asked anew, it begins the same; taken back, it is gone
  assert.equal(await session.regenerate(), "you said hello");
  assert.deepEqual(await session.history(), [question, reply]);
  const { answer } = await session.complete([question, reply, { ...question, content: "and" }, begun]);
  assert.equal(answer, "you said and");
  assert.equal((await session.history()).at(-1).content, "Well, you said and");
  await session.memory.undo();
  await session.memory.undo();
  assert.deepEqual(await session.history(), []);
  for (const input of [
    [begun, question],
    [{ ...question, prefix: true }],
    [question, { role: "assistant", content: "Well, " }],
    [question, { ...begun, toolCalls: [{ name: "weather", arguments: {} }] }],
  ]) {
    await assert.rejects(session.prompt(input), { code: "messages" });
  }
  await assert.rejects(session.append([question, begun]), { code: "messages" });
});

test("messages that leave the window are told", async () => {
  const session = await open({ contextTokens: 40 });
  const heard = [];
  session.addEventListener("contextoverflow", ({ detail }) => heard.push(detail.evictedMessages));
  session.oncontextoverflow = ({ type }) => heard.push(type);
  await session.prompt("first");
  assert.deepEqual(heard, []);
  await session.prompt("second one");
  await session.append("a third one!!");
  assert.deepEqual(heard, [2, "contextoverflow", 2, "contextoverflow"]);
});

test("clones share the model; the last one to go ends it", async () => {
  const session = await open();
  const loaded = fake.loaded;
  await session.prompt("hello");
  const clone = await session.clone();
  created.push(clone);
  await clone.prompt("branch");
  assert.equal((await session.history()).length, 2);
  assert.equal((await clone.history()).length, 4);
  session.destroy();
  assert.equal(await clone.prompt("on"), "you said on");
  assert.equal(fake.loaded, loaded);
  clone.destroy();
  await until(() => fake.loaded === loaded - 1);
});

test("comparing tells both replies, and fires no turn", async () => {
  const session = await open();
  await session.prompt("hello");
  const sides = { on: "", off: "" };
  session.addEventListener("turn", () => assert.fail("no turn was had"));
  const { on, off } = await session.compare("what?", {
    seed: 5,
    onPiece: (side, text) => (sides[side] += text),
  });
  assert.deepEqual(sides, { on: on.answer, off: off.answer });
  assert.ok(on.memoryNorms[0] === 10 && off.memoryNorms[0] === 0);
  assert.equal((await session.memory.info()).norm, 10);
});

test("regenerating asks the last question again, streaming too", async () => {
  const session = await open({ ephemeral: false });
  await assert.rejects(session.regenerate(), { code: "nothing_to_undo" });
  await session.prompt("hello");
  await session.prompt("again");
  assert.equal(await session.regenerate({ seed: 2 }), "you said again");
  let text = "";
  for await (const piece of session.regenerateStreaming()) text += piece;
  assert.equal(text, "you said again");
  assert.equal((await session.history()).length, 4);
  assert.deepEqual((await session.memory.ledger()).map(({ prompt }) => prompt), ["hello", "again"]);
  assert.equal((await session.memory.info()).norm, 20);
});

test("the memory's own calls", async () => {
  const session = await open({ ephemeral: false, passphrase: "swordfish" });
  const { memory } = session;
  assert.ok(memory.encrypted && !memory.readOnly && !memory.ephemeral && memory.notice === null);
  assert.deepEqual(await memory.write("fact"), { tokensWritten: 4 });
  assert.equal(memory.generation, 1);
  const file = await memory.export({ passphrase: "other" });
  await memory.undo();
  assert.equal((await memory.info()).norm, 0);
  await assert.rejects(memory.import(file), { code: "passphrase" });
  await memory.import(file, { passphrase: "other" });
  assert.deepEqual((await memory.states()).data, new Float32Array(4).fill(4));
  await memory.restore((await memory.snapshots()).at(-1).generation);
  await memory.setPassphrase(null);
  assert.ok(!memory.encrypted);
  assert.deepEqual((await memory.profiles()).map(({ profile, isEncrypted }) => [profile, isEncrypted]), [
    ["default", false],
  ]);
  await assert.rejects(memory.forgetProfile("default"), { code: "busy" });
  await memory.forget();
  assert.deepEqual(await memory.profiles(), []);
  const large = { size: 65 * 1024 * 1024 };
  await assert.rejects(memory.import(large), { code: "format" });
});

test("a lost device is an event, and the session lives on", async () => {
  const session = await open();
  const events = [];
  session.addEventListener("devicelost", ({ detail }) => events.push(detail.reason));
  session.addEventListener("devicerestored", ({ type }) => events.push(type));
  await session.prompt("hello");
  await assert.rejects(session.prompt("lose"), (error) => {
    assert.ok(error instanceof DeltamemError && error.code === "device_lost");
    return true;
  });
  assert.equal(await session.prompt("again"), "you said again");
  assert.deepEqual(events, ["the fake's device was lost", "devicerestored"]);
});

test("a model is inspected before it is loaded", async () => {
  const worker = false;
  const small = await LanguageModel.inspect({ model: "https://models.test/fake", worker });
  assert.equal(small.availability, "downloadable");
  assert.deepEqual([small.reason, small.quotaBytes, small.footprint.fits], [null, 1e9, true]);
  const big = { model: "https://models.test/big/", worker, weights: "q4", contextTokens: 10 };
  assert.equal(await LanguageModel.availability(big), "unavailable");
  const { reason, footprint } = await LanguageModel.inspect(big);
  assert.match(reason, /does not fit.*1\.9 MiB of q4 weights.*10 tokens/);
  assert.equal(footprint.kvBytes, 20);
  const missing = await LanguageModel.inspect({ model: "https://models.test/x.bin/", worker });
  assert.equal(missing.availability, "downloadable");
  await assert.rejects(open({ model: big.model }), { code: "does_not_fit" });
  navigator.gpu.requestAdapter = async () => null;
  assert.equal(await LanguageModel.availability({ worker }), "unavailable");
  assert.match((await LanguageModel.inspect(big)).reason, /no WebGPU adapter/);
});
