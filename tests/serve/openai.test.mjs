/**
 * `deltamem serve` asked by OpenAI's own client for JavaScript, on the built-in model and the CPU twin:
 * streams, schemas, tools, errors, and a memory that outlives the server. Needs `npm ci --prefix web`
 * before, and cargo or the built program.
 */
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ROOT, Server } from "./server.mjs";

// the one development environment for JavaScript is web/
const OpenAI = createRequire(join(ROOT, "web/package.json"))("openai");

const ADA = { role: "user", content: "My name is Ada and I live in Lisbon." };
const WHERE = { role: "user", content: "Where do I live?" };
const TOKEN = "a-token";

let server;

before(async () => {
  server = await Server.begin({ token: TOKEN });
});

after(() => server?.end());

/** A client as anyone would make it, for one profile. */
function client(profile, options = {}) {
  return new OpenAI({
    baseURL: `${server.address}/v1`,
    apiKey: TOKEN,
    defaultHeaders: { "X-Memory-Profile": profile },
    maxRetries: 0,
    ...options,
  });
}

const ask = (openai, messages, more = {}) => openai.chat.completions.create({ model: "nano", messages, ...more });

test("models are listed", async () => {
  const names = [];
  for await (const model of client("default").models.list()) names.push(model.id);
  assert.deepEqual(names, ["nano"]);
  assert.equal((await client("default").models.retrieve("nano")).owned_by, "deltamem");
});

test("a stream has pieces, a usage and an end", async () => {
  const stream = await ask(client("stream"), [ADA], { stream: true, stream_options: { include_usage: true } });
  let text = "";
  let usage = null;
  const reasons = [];
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    if (chunk.choices[0]?.finish_reason) reasons.push(chunk.choices[0].finish_reason);
    usage = chunk.usage ?? usage;
  }
  assert.match(text, /Lisbon/);
  assert.deepEqual(reasons, ["stop"]);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  const helped = client("helper").chat.completions.stream({ model: "nano", messages: [ADA] });
  assert.equal((await helped.finalMessage()).content, text);
});

test("a reply is held to a schema, also in a stream with tools at hand", async () => {
  const schema = {
    type: "object",
    properties: { city: { enum: ["Lisbon", "Oslo"] } },
    required: ["city"],
    additionalProperties: false,
  };
  const response_format = { type: "json_schema", json_schema: { name: "home", schema, strict: true } };
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const tools = [{ type: "function", function: { name: "weather", description: "Says the weather.", parameters } }];
  const openai = client("schema");
  const first = await openai.chat.completions
    .stream({ model: "nano", messages: [ADA], tools })
    .finalChatCompletion();
  const { message } = first.choices[0];
  assert.match(message.content, /Lisbon/);
  const parsed = await openai.chat.completions
    .stream({ model: "nano", messages: [ADA, message, WHERE], tools, tool_choice: "none", response_format })
    .finalContent();
  assert.ok(["Lisbon", "Oslo"].includes(JSON.parse(parsed).city), parsed);

  // a call and its result in a history: the model, which was never taught calls, is told of them
  const told = async (city) => {
    const call = { id: "call_1", type: "function", function: { name: "weather", arguments: JSON.stringify({ city }) } };
    const history = [
      { role: "user", content: "How is the weather?" },
      { role: "assistant", content: null, tool_calls: [call] },
      { role: "tool", tool_call_id: "call_1", content: "Sunny." },
    ];
    return ask(client(`tools-${city.length}`), history, { tools, max_tokens: 8 });
  };
  const [short, long] = [await told("Oslo"), await told("Oslo and all that lies around it")];
  assert.ok(["stop", "length"].includes(short.choices[0].finish_reason));
  assert.ok(short.choices[0].message.content.length > 0);
  assert.ok(long.usage.prompt_tokens > short.usage.prompt_tokens);
});

test("calls are made where they are required, of the function that is named, and one at a time", async () => {
  const city = { type: "object", properties: { city: { enum: ["Lisbon", "Oslo"] } }, required: ["city"], additionalProperties: false };
  const tools = ["weather", "population"].map((name) => ({
    type: "function",
    function: { name, description: `Says the ${name}.`, parameters: city },
  }));
  const openai = client("calls");
  const max_tokens = 200; // it spells what it was not taught
  const whole = await ask(openai, [ADA], { tools, max_tokens, tool_choice: "required", parallel_tool_calls: false });
  const { message, finish_reason } = whole.choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.equal(message.tool_calls.length, 1);
  const [{ id, function: call }] = message.tool_calls;
  assert.ok(["weather", "population"].includes(call.name));
  assert.ok(["Lisbon", "Oslo"].includes(JSON.parse(call.arguments).city), call.arguments);

  // the result goes back, and the next call is of the other function
  const result = { role: "tool", tool_call_id: id, content: "Sunny." };
  const name = call.name === "weather" ? "population" : "weather";
  const tool_choice = { type: "function", function: { name } };
  const streamed = await openai.chat.completions
    .stream({ model: "nano", messages: [ADA, message, result], tools, max_tokens, tool_choice })
    .finalChatCompletion();
  assert.deepEqual(streamed.choices[0].message.tool_calls.map(({ function: made }) => made.name), [name]);
  assert.ok(streamed.usage === undefined || streamed.usage.completion_tokens > 0);

  const named = (other) => ask(openai, [ADA], { tools, tool_choice: { type: "function", function: { name: other } } });
  await assert.rejects(named("nothing"), (error) => error.status === 400 && error.param === "tool_choice");
  const held = [{ ...tools[0], function: { ...tools[0].function, parameters: { not: {} } } }];
  const wrong = ask(openai, [ADA], { tools: held, tool_choice: "required" });
  await assert.rejects(wrong, (error) => error.status === 400 && error.param === "tools");
});

test("a reply goes on in a message that the client begins", async () => {
  const openai = client("begun");
  const told = (await ask(openai, [ADA])).choices[0].message;
  const history = [ADA, told, WHERE, { role: "assistant", content: "You live in" }];
  const goingOn = { temperature: 0, continue_final_message: true };
  const { content } = (await ask(openai, history, goingOn)).choices[0].message;
  assert.match(content, /Lisbon/);
  assert.doesNotMatch(content, /You live in/);
  const stream = await ask(openai, history, { ...goingOn, add_generation_prompt: false, stream: true });
  let streamed = "";
  for await (const chunk of stream) streamed += chunk.choices[0]?.delta.content ?? "";
  assert.equal(streamed, content);
  await assert.rejects(ask(openai, history, { ...goingOn, add_generation_prompt: true }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.code, error.param], ["invalid_value", "continue_final_message"]);
    return true;
  });
  await assert.rejects(ask(openai, history), OpenAI.BadRequestError);
});

test("a text goes on without a conversation", async () => {
  const openai = client("text");
  const wanted = { model: "nano", prompt: "My name is", max_tokens: 4, temperature: 0 };
  const whole = await openai.completions.create({ ...wanted, echo: true });
  assert.ok(whole.choices[0].text.startsWith("My name is"));
  assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
  let text = "My name is";
  for await (const chunk of await openai.completions.create({ ...wanted, stream: true })) {
    text += chunk.choices[0].text;
  }
  assert.equal(text, whole.choices[0].text);
  await assert.rejects(openai.completions.create({ ...wanted, suffix: "." }), OpenAI.BadRequestError);
});

test("errors are those that the client knows", async () => {
  const openai = client("errors");
  await assert.rejects(ask(client("errors", { apiKey: "wrong" }), [ADA]), OpenAI.AuthenticationError);
  await assert.rejects(ask(openai, [ADA], { n: 2 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.code, error.param, error.type], ["unsupported", "n", "invalid_request_error"]);
    return true;
  });
  await assert.rejects(ask(openai, [ADA], { model: "gpt-5" }), OpenAI.NotFoundError);
  await assert.rejects(ask(openai, [], { stream: true }), OpenAI.BadRequestError);
  await assert.rejects(ask(client("No Name"), [ADA]), OpenAI.BadRequestError);
});

test("a stream that is left and a request that is given up leave the server free", async () => {
  const openai = client("left");
  const stream = await ask(openai, [ADA], { stream: true });
  for await (const _ of stream) break;
  const controller = new AbortController();
  const asked = ask(openai, [ADA]);
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(
    openai.chat.completions.create({ model: "nano", messages: [ADA] }, { signal: controller.signal }),
    OpenAI.APIUserAbortError,
  );
  assert.match((await asked).choices[0].message.content, /Lisbon/);
});

test("a memory outlives the server, and profiles know nothing of each other", async () => {
  const told = await ask(client("ada"), [ADA]);
  await ask(client("ben"), [{ role: "user", content: "My name is Ben and I live in Oslo." }]);
  await server.restart();
  const where = async (profile) => (await ask(client(profile), [WHERE])).choices[0].message.content;
  assert.match(await where("ada"), /Lisbon/);
  const ben = await where("ben");
  assert.match(ben, /Oslo/);
  assert.doesNotMatch(ben, /Lisbon/);
  assert.doesNotMatch(await where("nobody"), /Lisbon|Oslo/);

  // a conversation of before the restart goes on, and is not memorised again
  const shown = async () => (await client("ada").get("/memory")).counters.tokens_written;
  const n_before = await shown();
  const history = [ADA, told.choices[0].message, WHERE];
  const reply = await ask(client("ada"), history);
  assert.match(reply.choices[0].message.content, /Lisbon/);
  const n_new = (await shown()) - n_before;
  assert.ok(n_new > 0 && n_new < told.usage.total_tokens, `${n_new} of ${told.usage.total_tokens}`);
});
