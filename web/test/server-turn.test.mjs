import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./load.mjs";

const { requestBody } = await load("server-turn");

test("a server is told how the model is told of tools, unless it is the template's way", () => {
  const hello = [{ role: "user", content: "Hello." }];
  const around = { model: "nano", tools: [], thinking: true, hasMemory: true };
  const body = (toolFormat) => requestBody(hello, {}, { ...around, toolFormat });
  assert.deepEqual(body("template").deltamem, { memory: true, gauges: false, overflow: "evict" });
  assert.equal(body("python").deltamem.tool_format, "python");
  assert.deepEqual(body("xml").chat_template_kwargs, { enable_thinking: true });
  const goingOn = { ...around, toolFormat: "template" };
  assert.equal(requestBody(hello, { continueFinalMessage: true }, goingOn).continue_final_message, true);
  assert.ok(!("continue_final_message" in requestBody(hello, {}, goingOn)));
});
