/** The shapes of other libraries over a whole session, which has the fake model at its end. */
import assert from "node:assert/strict";
import test from "node:test";
import { generateText, isStepCount, jsonSchema, Output, streamText, tool } from "ai";
import { load } from "./load.mjs";

const gpu = { requestAdapter: async () => ({}) };
Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });
globalThis.ProgressEvent ??= class extends Event {
  constructor(type, { loaded, total }) {
    super(type);
    Object.assign(this, { loaded, total });
  }
};
globalThis.fetch = async (url) => {
  const isThere = /(config|tokenizer|delta_mem_config)\.json$|safetensors$/.test(url);
  return isThere ? new Response("{}") : new Response("", { status: 404 });
};
globalThis.AI_SDK_LOG_WARNINGS = false;

const { LanguageModel, createClient, createDeltamem } = await load("language-model", "openai", "ai-sdk");
const model = "https://models.test/fake/";
const settings = { worker: false, ephemeral: true, store: "none" };

async function withSession(job) {
  const session = await LanguageModel.create({ ...settings, model });
  const turns = [];
  session.addEventListener("turn", ({ detail }) => turns.push(detail));
  try {
    await job(session, turns);
  } finally {
    session.destroy();
  }
}

test("OpenAI's shape: what was seen is recognised and not written again", () =>
  withSession(async (session, turns) => {
    const { completions } = createClient({ session }).chat;
    const messages = [{ role: "user", content: "one" }];
    const first = await completions.create({ messages });
    assert.equal(first.choices[0].message.content, "you said one");
    const { norm } = await session.memory.info();

    messages.push(first.choices[0].message, { role: "user", content: "two" });
    let text = "";
    let usage;
    const stream = await completions.create({ messages, stream: true, stream_options: { include_usage: true } });
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, "you said two");
    assert.equal(usage.prompt_tokens_details.cached_tokens, "one".length + "you said one".length);
    assert.ok(usage.prompt_tokens >= usage.prompt_tokens_details.cached_tokens + "two".length);
    assert.deepEqual(turns.map(({ rollback }) => rollback), [null, null]);
    const written = (await session.memory.info()).norm / norm;
    assert.ok(written < 3, `the second turn wrote ${written} times the first`);
  }));

test("OpenAI's shape: another conversation leaves the memory of the first", () =>
  withSession(async (session, turns) => {
    const { completions } = createClient({ session }).chat;
    const norm = async () => (await session.memory.info()).norm;
    const messages = [{ role: "user", content: "one" }];
    messages.push((await completions.create({ messages })).choices[0].message, { role: "user", content: "two" });
    await completions.create({ messages });
    const first = await norm();
    await completions.create({ messages: [{ role: "user", content: "six" }] });
    assert.equal(await norm(), (first * 9) / 6, "three more letters");
    assert.deepEqual((await session.history()).map(({ content }) => content), ["six", "you said six"]);
    assert.deepEqual(turns.map(({ rollback }) => rollback), [null, null, null]);
  }));

test("OpenAI's shape: what was said before, by prompt, stays in the memory too", () =>
  withSession(async (session) => {
    await session.prompt("one");
    const { norm } = await session.memory.info();
    const { completions } = createClient({ session }).chat;
    const both = ["six", "ten"].map((content) => completions.create({ messages: [{ role: "user", content }] }));
    const replies = (await Promise.all(both)).map(({ choices }) => choices[0].message.content);
    assert.deepEqual(replies, ["you said six", "you said ten"]);
    assert.equal((await session.memory.info()).norm, 3 * norm);
  }));

test("OpenAI's shape: a tool is called and answered", () =>
  withSession(async (session, turns) => {
    const { completions } = createClient({ session }).chat;
    const tools = [{ type: "function", function: { name: "add", parameters: { type: "object" } } }];
    const messages = [{ role: "user", content: 'call add {"a":1}' }];
    const { choices } = await completions.create({ messages, tools });
    assert.equal(choices[0].finish_reason, "tool_calls");
    const [call] = choices[0].message.tool_calls;
    assert.deepEqual(call.function, { name: "add", arguments: '{"a":1}' });
    messages.push(choices[0].message, { role: "tool", tool_call_id: call.id, content: "2" });
    const answer = await completions.create({ messages, tools });
    assert.equal(answer.choices[0].message.content, "the tool said 2");
    assert.equal(turns[1].rollback, null, "the call that was sent back is the one that was made");
  }));

test("OpenAI's shape: a reply follows a schema, and an abort ends it", () =>
  withSession(async (session) => {
    const { completions } = createClient({ session }).chat;
    const messages = [{ role: "user", content: "one" }];
    const schema = { type: "object" };
    const { choices } = await completions.create({
      messages,
      response_format: { type: "json_schema", json_schema: { name: "said", schema } },
    });
    assert.deepEqual(JSON.parse(choices[0].message.content), { said: "one" });

    let text = "";
    const stream = await completions.create({ messages: [{ role: "user", content: "a b c d e f" }], stream: true });
    for await (const chunk of stream) {
      text += chunk.choices[0].delta.content ?? "";
      if (text.includes("a")) stream.controller.abort();
    }
    assert.ok(!text.includes("f"), text);
    const last = await completions.create({ messages });
    assert.equal(last.choices[0].message.content, "you said one", "the session goes on");
  }));

test("AI SDK: one conversation of several calls, thoughts included", () =>
  withSession(async (session, turns) => {
    const fake = createDeltamem({ session })("fake");
    const messages = [{ role: "user", content: "think of one" }];
    const first = await generateText({ model: fake, messages });
    assert.equal(first.text, "you said think of one");
    assert.equal(first.reasoningText, "hm");
    messages.push(...first.response.messages, { role: "user", content: "two" });
    const second = streamText({ model: fake, messages });
    assert.equal(await second.text, "you said two");
    assert.ok((await second.usage).inputTokenDetails.cacheReadTokens > 0);
    assert.deepEqual(turns.map(({ rollback }) => rollback), [null, null]);
  }));

test("AI SDK: tools run in a loop, and an object follows its schema", () =>
  withSession(async (session, turns) => {
    const fake = createDeltamem({ session })("fake");
    const add = tool({
      description: "Adds.",
      inputSchema: jsonSchema({ type: "object" }),
      execute: async ({ a, b }) => a + b,
    });
    const prompt = 'call add {"a":1,"b":2}';
    const result = streamText({ model: fake, prompt, tools: { add }, stopWhen: isStepCount(3) });
    assert.equal(await result.text, "the tool said 3");
    assert.equal((await result.steps).length, 2);
    assert.equal(turns[1].rollback, null);

    const schema = jsonSchema({ type: "object", properties: { said: { type: "string" } } });
    const { output } = await generateText({ model: fake, prompt: "x", output: Output.object({ schema }) });
    assert.deepEqual(output, { said: "x" });
  }));

test("AI SDK: a model makes its session with progress, once, and ends it", async () => {
  const fake = createDeltamem(settings)(model);
  const progress = [];
  assert.equal(await fake.createSessionWithProgress((done) => progress.push(done)), fake);
  assert.equal(progress.at(-1), 1);
  assert.deepEqual(progress, [...progress].sort((a, b) => a - b), "it only grows");
  assert.equal((await generateText({ model: fake, prompt: "one" })).text, "you said one");
  const session = await fake.session();
  assert.equal(session, await fake.session());
  await fake.destroy();
  await assert.rejects(session.prompt("two"), { name: "AbortError" });
});
