import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./load.mjs";
import { scriptedSession } from "./scripted-session.mjs";

const { createClient } = await load("openai");

const hello = { messages: [{ role: "user", content: "Hello." }] };

/** A client over the given replies: `create` and what reached the session. */
function client(...replies) {
  const session = scriptedSession(...replies);
  const { completions } = createClient({ session }).chat;
  return { create: (params, options) => completions.create(params, options), calls: session.calls };
}

async function readAll(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const rejectsWith = (code, job) => assert.rejects(job, (error) => error.code === code, `not ${code}`);

test("a reply has OpenAI's shape, with thoughts and what was recognised", async () => {
  const { create } = client({ pieces: [["thought", "hm"], ["answer", "Hi, "], ["answer", "you."]] });
  const { id, created, ...completion } = await create({ ...hello, model: "mine" });
  assert.match(id, /^chatcmpl-\w{24}$/);
  assert.ok(Math.abs(created - Date.now() / 1000) < 10);
  assert.deepEqual(completion, {
    object: "chat.completion",
    model: "mine",
    choices: [
      {
        index: 0,
        message: { role: "assistant", content: "Hi, you.", refusal: null, reasoning_content: "hm" },
        finish_reason: "stop",
        logprobs: null,
      },
    ],
    usage: {
      prompt_tokens: 20,
      completion_tokens: 7,
      total_tokens: 27,
      prompt_tokens_details: { cached_tokens: 12 },
    },
  });
});

test("without a model the answer names the session's", async () => {
  const { create } = client();
  assert.equal((await create(hello)).model, "scripted");
});

test("settings reach the session under its own names", async () => {
  const { create, calls } = client();
  await create({
    ...hello,
    temperature: 0,
    top_p: 0.5,
    seed: 7,
    max_tokens: 9,
    max_completion_tokens: 8,
    stop: "END",
    reasoning_effort: "none",
    response_format: { type: "json_object" },
    n: 1,
    logprobs: false,
    presence_penalty: 0,
    user: "ada",
  });
  assert.deepEqual(calls[0].options, {
    temperature: 0,
    topP: 0.5,
    seed: 7,
    maxTokens: 8,
    stop: ["END"],
    thinking: false,
    responseConstraint: { type: "object" },
    tools: [],
  });
  assert.deepEqual(calls[0].history, [{ role: "user", content: "Hello." }]);
});

test("the template's switch for thinking is read, and no other variable", async () => {
  const { create, calls } = client();
  await create({ ...hello, chat_template_kwargs: { enable_thinking: true } });
  await create({ ...hello, chat_template_kwargs: { enable_thinking: true }, reasoning_effort: "none" });
  await create({ ...hello, chat_template_kwargs: null });
  assert.deepEqual(calls.map(({ options }) => options.thinking), [true, false, undefined]);
  await rejectsWith("unsupported", create({ ...hello, chat_template_kwargs: { xml_tools: [] } }));
});

test("null and absent settings leave the session's own", async () => {
  const { create, calls } = client();
  await create({ ...hello, temperature: null, stop: null, seed: undefined, response_format: { type: "text" } });
  assert.deepEqual(calls[0].options, { tools: [] });
});

test("what cannot be honoured is refused by name, and nothing is asked", async () => {
  const { create, calls } = client();
  const refused = [
    { logprobs: true },
    { top_logprobs: 3 },
    { n: 2 },
    { presence_penalty: 0.5 },
    { logit_bias: { 5: 1 } },
    { modalities: ["audio"] },
    { functions: [] },
    { tool_choice: "always" },
    { tool_choice: { type: "custom", custom: { name: "add" } } },
    { tools: [{ type: "custom" }] },
    { response_format: { type: "grammar" } },
    { response_format: { type: "json_object" }, tools: [{ type: "function", function: { name: "add" } }] },
    { messages: [{ role: "function", name: "f", content: "x" }] },
    { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
  ];
  for (const params of refused) {
    await rejectsWith("unsupported", create({ ...hello, ...params }));
    await rejectsWith("unsupported", create({ ...hello, ...params, stream: true }));
  }
  await assert.rejects(create({ ...hello, logprobs: true }), /`logprobs`/);
  await rejectsWith("setting", create({ ...hello, temperature: "hot" }));
  await rejectsWith("messages", create({ messages: [] }));
  await rejectsWith(
    "messages",
    create({
      messages: [
        { role: "assistant", tool_calls: [{ id: "1", type: "function", function: { name: "f", arguments: "[" } }] },
      ],
    }),
  );
  assert.equal(calls.length, 0);
});

const add = {
  type: "function",
  function: { name: "add", description: "Adds.", parameters: { type: "object", required: ["a"] } },
};

test("a tool is called, and its result finds its way back", async () => {
  const toolCalls = [{ name: "add", arguments: { a: 1 } }];
  const { create, calls } = client({ toolCalls }, { pieces: [["answer", "2"]] });
  const messages = [
    { role: "developer", content: "Be brief." },
    { role: "user", content: [{ type: "text", text: "What is " }, { type: "text", text: "1 + 1?" }] },
  ];
  const { choices } = await create({ messages, tools: [add], tool_choice: "auto" });
  const { message, finish_reason: finish } = choices[0];
  assert.equal(finish, "tool_calls");
  assert.equal(message.content, null);
  assert.equal(message.tool_calls[0].function.arguments, '{"a":1}');
  assert.match(message.tool_calls[0].id, /^call_\w{24}$/);
  assert.deepEqual(calls[0].options.tools, [
    { name: "add", description: "Adds.", inputSchema: { type: "object", required: ["a"] } },
  ]);
  const { id } = message.tool_calls[0];
  await create({ messages: [...messages, message, { role: "tool", tool_call_id: id, content: "2" }], tools: [add] });
  assert.deepEqual(calls[1].history, [
    { role: "system", content: "Be brief." },
    { role: "user", content: "What is 1 + 1?" },
    { role: "assistant", content: "", toolCalls: [{ id, name: "add", arguments: { a: 1 } }] },
    { role: "tool", content: "2", toolCallId: id, name: "add" },
  ]);
});

test("a tool that has nothing to say says that", async () => {
  const { create, calls } = client();
  await create({ messages: [...hello.messages, { role: "tool", tool_call_id: "1", content: "" }] });
  assert.deepEqual(calls[0].history[1], { role: "tool", content: "(no output)", toolCallId: "1" });
});

test("a call can be required, and one at a time", async () => {
  const { create, calls } = client({}, {}, {});
  const tools = [{ type: "function", function: { name: "add" } }];
  await create({ ...hello, tools, tool_choice: "required", parallel_tool_calls: false });
  await create({ ...hello, tools, tool_choice: { type: "function", function: { name: "add" } } });
  await create({ ...hello, tools, tool_choice: "auto", parallel_tool_calls: true });
  assert.deepEqual(
    calls.map(({ options }) => [options.toolChoice, options.parallelToolCalls]),
    [["required", false], [{ name: "add" }, undefined], [undefined, undefined]],
  );
});

test("with tool_choice none the model is not told of tools", async () => {
  const { create, calls } = client();
  await create({ ...hello, tools: [add], tool_choice: "none" });
  assert.deepEqual(calls[0].options.tools, []);
});

test("a reply that was cut off says so", async () => {
  for (const stopReason of ["max_tokens", "context_full"]) {
    const { create } = client({ stopReason });
    assert.equal((await create(hello)).choices[0].finish_reason, "length");
  }
  const { create } = client({ stopReason: "stop_string" });
  assert.equal((await create(hello)).choices[0].finish_reason, "stop");
});

test("a stream brings thoughts, text, calls, the end and the usage", async () => {
  const { create } = client({
    pieces: [["thought", "hm"], ["answer", "Hi"]],
    toolCalls: [{ name: "add", arguments: { a: 1 } }],
  });
  const stream = await create({ ...hello, stream: true, stream_options: { include_usage: true } });
  const chunks = await readAll(stream);
  assert.ok(chunks.every(({ id, object }) => id === chunks[0].id && object === "chat.completion.chunk"));
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.prompt_tokens_details.cached_tokens, 12);
  assert.ok(chunks.slice(0, -1).every(({ usage }) => usage === null));
  const deltas = chunks.slice(0, -1).map(({ choices }) => choices[0].delta);
  const { id } = deltas[3].tool_calls[0];
  assert.deepEqual(deltas, [
    { role: "assistant", content: "" },
    { reasoning_content: "hm" },
    { content: "Hi" },
    { tool_calls: [{ index: 0, id, type: "function", function: { name: "add", arguments: '{"a":1}' } }] },
    {},
  ]);
  assert.deepEqual(
    chunks.slice(0, -1).map(({ choices }) => choices[0].finish_reason),
    [null, null, null, null, "tool_calls"],
  );
  await assert.rejects(readAll(stream), /only once/);
});

test("without include_usage no chunk speaks of it", async () => {
  const { create } = client({ pieces: [["answer", "Hi"]] });
  const chunks = await readAll(await create({ ...hello, stream: true }));
  assert.ok(chunks.every((chunk) => !("usage" in chunk) && chunk.choices.length === 1));
});

test("an abort rejects a reply, and ends a stream without an error", async () => {
  const many = Array.from({ length: 50 }, () => ["answer", "x"]);
  const { create, calls } = client({ pieces: many }, { pieces: many }, { pieces: many });
  const whole = new AbortController();
  const reply = create(hello, { signal: whole.signal });
  whole.abort();
  await assert.rejects(reply, { name: "AbortError" });
  await assert.rejects(create(hello, { signal: whole.signal }), { name: "AbortError" });

  const outside = new AbortController();
  let seen = 0;
  for await (const _ of await create({ ...hello, stream: true }, { signal: outside.signal })) {
    seen += 1;
    if (seen === 3) outside.abort();
  }
  assert.ok(seen >= 3 && seen < 50, `${seen} chunks`);

  const stream = await create({ ...hello, stream: true });
  for await (const _ of stream) break;
  assert.ok(calls.at(-1).options.signal.aborted, "leaving the loop ends the reply");
});

test("another conversation begins with an empty context, the same one goes on", async () => {
  const replies = Array.from({ length: 9 }, () => ({ pieces: [["answer", "Hi."]] }));
  const { create, calls } = client(...replies);
  const user = (content) => ({ role: "user", content });
  const reply = { role: "assistant", content: "Hi." };
  const system = { role: "system", content: "Be brief." };
  const asks = async (...messages) => {
    const before = calls.length;
    await create({ messages });
    return calls.slice(before).map((call) => (call === "newContext" ? "new" : "asked"));
  };
  assert.deepEqual(await asks(user("one")), ["asked"]);
  assert.deepEqual(await asks(user("one")), ["asked"], "asked again");
  assert.deepEqual(await asks(user("one"), reply, user("two")), ["asked"]);
  assert.deepEqual(await asks(user("one"), reply, user("three")), ["asked"], "an edit");
  assert.deepEqual(await asks(system, user("one"), reply, user("three")), ["asked"], "other instructions");
  assert.deepEqual(await asks(user("one")), ["new", "asked"], "back at the beginning");
  assert.deepEqual(await asks(system, user("four")), ["new", "asked"]);
  assert.deepEqual(await asks(system, user("four"), reply, user("five")), ["asked"]);
});

test("an error in the middle of a stream reaches the reader", async () => {
  const fail = Object.assign(new Error("the GPU refused"), { code: "gpu" });
  const { create } = client({ pieces: [["answer", "Hi"]], fail });
  await rejectsWith("gpu", create({ ...hello, stream: true }).then(readAll));
});

test("a reply goes on in a last message of the assistant if that is asked for", async () => {
  const { create, calls } = client({ pieces: [["answer", " Lisbon."]] }, { pieces: [["answer", "x"]] });
  const messages = [...hello.messages, { role: "assistant", content: "You live in" }];
  const reply = await create({ messages, continue_final_message: true, add_generation_prompt: false });
  assert.equal(reply.choices[0].message.content, " Lisbon.");
  assert.deepEqual(calls.at(-1).history.at(-1), { ...messages[1], prefix: true });
  await create({ ...hello, add_generation_prompt: true });
  const both = { continue_final_message: true, add_generation_prompt: true };
  await rejectsWith("setting", create({ messages, ...both }));
  await rejectsWith("unsupported", create({ ...hello, add_generation_prompt: false }));
});
