import assert from "node:assert/strict";
import test from "node:test";
import { createProviderRegistry, generateObject, generateText, isStepCount, jsonSchema, Output, streamText, tool } from "ai";
import { load } from "./load.mjs";
import { scriptedSession } from "./scripted-session.mjs";

const { createDeltamem, deltamem } = await load("ai-sdk");

globalThis.AI_SDK_LOG_WARNINGS = false;

/** A model over the given replies, and what reached the session. */
function modelOver(...replies) {
  const session = scriptedSession(...replies);
  return { model: createDeltamem({ session })("/models/nano/"), calls: session.calls };
}

const rejectsWith = (code, job) =>
  assert.rejects(job, (error) => (error.lastError ?? error).code === code, `not ${code}`);

test("generateText gives text, thoughts, usage and what the memory made of it", async () => {
  const { model, calls } = modelOver({ pieces: [["thought", "hm"], ["answer", "Hi."]] });
  const result = await generateText({
    model,
    instructions: "Be brief.",
    prompt: "Hello.",
    temperature: 0,
    topK: 3,
    topP: 0.9,
    seed: 4,
    maxOutputTokens: 5,
    stopSequences: ["END"],
    providerOptions: { deltamem: { write: false, minP: 0.1 } },
  });
  assert.equal(result.text, "Hi.");
  assert.equal(result.reasoningText, "hm");
  assert.equal(result.finishReason, "stop");
  assert.equal(result.rawFinishReason, "end_of_sequence");
  assert.equal(result.usage.inputTokens, 20);
  assert.equal(result.usage.inputTokenDetails.cacheReadTokens, 12);
  assert.equal(result.usage.inputTokenDetails.noCacheTokens, 8);
  assert.equal(result.usage.outputTokens, 7);
  assert.equal(result.response.modelId, "/models/nano/");
  assert.deepEqual(result.providerMetadata.deltamem.memoryNorms, [0, 1]);
  assert.equal(result.providerMetadata.deltamem.isCommitted, true);
  assert.deepEqual(calls[0].history, [
    { role: "system", content: "Be brief." },
    { role: "user", content: "Hello." },
  ]);
  const { signal, ...options } = calls[0].options;
  assert.deepEqual(options, {
    temperature: 0,
    topK: 3,
    topP: 0.9,
    seed: 4,
    maxTokens: 5,
    stop: ["END"],
    write: false,
    minP: 0.1,
    tools: [],
  });
});

test("streamText brings the reply in pieces, thoughts apart", async () => {
  const { model } = modelOver({ pieces: [["thought", "h"], ["thought", "m"], ["answer", "Hi "], ["answer", "you"]] });
  const result = streamText({ model, prompt: "Hello." });
  const parts = [];
  for await (const { type, text } of result.stream) parts.push(text === undefined ? type : `${type} ${text}`);
  assert.deepEqual(parts, [
    "start",
    "start-step",
    "reasoning-start",
    "reasoning-delta h",
    "reasoning-delta m",
    "reasoning-end",
    "text-start",
    "text-delta Hi ",
    "text-delta you",
    "text-end",
    "finish-step",
    "finish",
  ]);
  assert.equal(await result.text, "Hi you");
  assert.equal((await result.usage).inputTokenDetails.cacheReadTokens, 12);
});

const schema = jsonSchema({ type: "object", properties: { name: { type: "string" } }, required: ["name"] });

test("a schema becomes the constraint of the reply", async () => {
  const json = { pieces: [["answer", '{"name":'], ["answer", '"Ada"}']] };
  const { model, calls } = modelOver(json, json, json);
  const { output } = await generateText({ model, prompt: "Who?", output: Output.object({ schema }) });
  assert.deepEqual(output, { name: "Ada" });
  const { object } = await generateObject({ model, prompt: "Who?", schema });
  assert.deepEqual(object, { name: "Ada" });
  const streamed = streamText({ model, prompt: "Who?", output: Output.object({ schema }) });
  assert.deepEqual(await streamed.output, { name: "Ada" });
  for (const { options } of calls) assert.deepEqual(options.responseConstraint.required, ["name"]);
});

test("JSON without a schema is some object", async () => {
  const { model, calls } = modelOver({ pieces: [["answer", "{}"]] });
  await generateText({ model, prompt: "Any.", output: Output.json() });
  assert.deepEqual(calls[0].options.responseConstraint, { type: "object" });
});

const tools = {
  add: tool({
    description: "Adds.",
    inputSchema: jsonSchema({ type: "object", properties: { a: { type: "number" }, b: { type: "number" } } }),
    execute: async ({ a, b }) => ({ sum: a + b }),
  }),
};
const call = { toolCalls: [{ name: "add", arguments: { a: 1, b: 2 } }], pieces: [["thought", "sum"]] };

test("a tool is run and its result goes back with the whole history", async () => {
  for (const ask of [generateText, streamText]) {
    const { model, calls } = modelOver(call, { pieces: [["answer", "3"]] });
    const result = ask({ model, prompt: "1 + 2?", tools, stopWhen: isStepCount(3) });
    assert.equal(await (ask === streamText ? result.text : result.then(({ text }) => text)), "3");
    assert.equal(calls.length, 2);
    assert.deepEqual(calls[0].options.tools.map(({ name, description }) => [name, description]), [["add", "Adds."]]);
    const [user, reply, answer] = calls[1].history;
    const [{ id }] = reply.toolCalls;
    assert.deepEqual(user, { role: "user", content: "1 + 2?" });
    assert.deepEqual(reply, {
      role: "assistant",
      content: "",
      reasoning: "sum",
      toolCalls: [{ id, name: "add", arguments: { a: 1, b: 2 } }],
    });
    assert.deepEqual(answer, { role: "tool", content: '{"sum":3}', toolCallId: id, name: "add" });
  }
});

test("a tool's input is a stream of its own", async () => {
  const { model } = modelOver(call);
  const { stream } = await model.doStream({
    prompt: [{ role: "user", content: [{ type: "text", text: "1 + 2?" }] }],
    tools: [{ type: "function", name: "add", inputSchema: {} }],
  });
  const parts = [];
  for await (const part of stream) parts.push(part);
  assert.deepEqual(parts.map(({ type }) => type), [
    "stream-start",
    "response-metadata",
    "reasoning-start",
    "reasoning-delta",
    "reasoning-end",
    "tool-input-start",
    "tool-input-delta",
    "tool-input-end",
    "tool-call",
    "finish",
  ]);
  assert.equal(parts[8].toolCallId, parts[5].id);
  assert.deepEqual(parts[9].finishReason, { unified: "tool-calls", raw: "end_of_sequence" });
});

test("settings that the model does not have are warned of or refused", async () => {
  const { model, calls } = modelOver({}, {}, {}, {});
  const prompt = [{ role: "user", content: [{ type: "text", text: "Hello." }] }];
  const provided = { type: "provider", id: "other.search", name: "search", args: {} };
  const { warnings } = await model.doGenerate({ prompt, presencePenalty: 1, frequencyPenalty: 1, tools: [provided] });
  assert.deepEqual(warnings.map(({ type, feature }) => [type, feature]), [
    ["unsupported", "provider-defined tool other.search"],
    ["unsupported", "presencePenalty"],
    ["unsupported", "frequencyPenalty"],
  ]);
  const add = { type: "function", name: "add", inputSchema: {} };
  const asked = { prompt, tools: [add], responseFormat: { type: "json" } };
  await rejectsWith("unsupported", model.doGenerate(asked));
  const image = { type: "file", mediaType: "image/png", data: { type: "data", data: "" } };
  await rejectsWith("unsupported", model.doGenerate({ prompt: [{ role: "user", content: [image] }] }));
  await rejectsWith("setting", model.doGenerate({ prompt, providerOptions: { deltamem: { profile: "x" } } }));
  await rejectsWith("setting", model.doGenerate({ prompt, providerOptions: { deltamem: { minP: "x" } } }));
  assert.equal(calls.length, 1);
  await model.doGenerate({ ...asked, toolChoice: { type: "none" } });
  assert.equal(calls.length, 2);
  await model.doGenerate({ prompt, tools: [add], toolChoice: { type: "required" } });
  await model.doGenerate({ prompt, tools: [add], toolChoice: { type: "tool", toolName: "add" } });
  assert.deepEqual(calls.slice(2).map(({ options }) => options.toolChoice), ["required", { name: "add" }]);
});

test("reasoning switches thinking", async () => {
  const { model, calls } = modelOver({}, {}, {}, {});
  const prompt = [{ role: "user", content: [{ type: "text", text: "Hello." }] }];
  const deltamemOptions = { deltamem: { thinking: false } };
  await model.doGenerate({ prompt });
  await model.doGenerate({ prompt, reasoning: "none" });
  await model.doGenerate({ prompt, reasoning: "high" });
  await model.doGenerate({ prompt, reasoning: "high", providerOptions: deltamemOptions });
  assert.deepEqual(calls.map(({ options }) => options.thinking), [undefined, false, true, false]);
});

test("system messages at the beginning become one", async () => {
  const { model, calls } = modelOver({});
  await model.doGenerate({
    prompt: [
      { role: "system", content: "One." },
      { role: "system", content: "Two." },
      { role: "user", content: [{ type: "text", text: "Hello." }] },
    ],
  });
  assert.deepEqual(calls[0].history[0], { role: "system", content: "One.\n\nTwo." });
  assert.equal(calls[0].history.length, 2);
});

test("an abort ends a reply and a stream", async () => {
  const many = Array.from({ length: 50 }, () => ["answer", "x"]);
  const { model, calls } = modelOver({ pieces: many }, { pieces: many });
  const whole = new AbortController();
  const reply = generateText({ model, prompt: "Hello.", abortSignal: whole.signal });
  setTimeout(() => whole.abort(), 5);
  await assert.rejects(reply, { name: "AbortError" });

  const streamed = new AbortController();
  let isAborted = false;
  let text = "";
  const result = streamText({
    model,
    prompt: "Hello.",
    abortSignal: streamed.signal,
    onAbort: () => (isAborted = true),
    onError: ({ error }) => assert.fail(error),
  });
  for await (const piece of result.textStream) {
    text += piece;
    if (text.length === 3) streamed.abort();
  }
  assert.ok(isAborted);
  assert.ok(text.length >= 3 && text.length < 50, text);
  assert.ok(calls[1].options.signal.aborted);
});

test("an error of the session is an error of the call", async () => {
  const fail = Object.assign(new Error("the GPU refused"), { code: "gpu" });
  const { model } = modelOver({ fail }, { pieces: [["answer", "Hi"]], fail });
  await rejectsWith("gpu", generateText({ model, prompt: "Hello.", maxRetries: 0 }));
  const errors = [];
  const { stream } = streamText({ model, prompt: "Hello.", onError: ({ error }) => errors.push(error.code) });
  const types = [];
  for await (const { type } of stream) types.push(type);
  assert.ok(types.includes("error"));
  assert.deepEqual(errors, ["gpu"]);
});

test("a model with a given session is available at once and leaves that session alone", async () => {
  const { model, calls } = modelOver({});
  assert.equal(await model.availability(), "available");
  const progress = [];
  assert.equal(await model.createSessionWithProgress((done) => progress.push(done)), model);
  assert.deepEqual(progress, [1]);
  await model.destroy();
  await model.doGenerate({ prompt: [{ role: "user", content: [{ type: "text", text: "Hello." }] }] });
  assert.equal(calls.length, 1);
});

test("a model asked for twice is one, and a registry finds it", () => {
  const provider = createDeltamem({ profile: "ada" });
  const model = provider("/models/nano/");
  assert.equal(provider("/models/nano/"), model);
  assert.equal(provider.languageModel("/models/nano/"), model);
  assert.notEqual(provider("/models/nano/", { profile: "bob" }), model);
  assert.equal(createProviderRegistry({ deltamem: provider }).languageModel("deltamem:/models/nano/"), model);
  assert.throws(() => provider.embeddingModel("x"), { code: "unsupported" });
});

test("without WebGPU a model by its address says so", async () => {
  assert.equal(await deltamem("https://models.test/nano/").availability(), "unavailable");
  await rejectsWith("no_adapter", deltamem("https://models.test/nano/").createSessionWithProgress());
});
