/** Sessions without end: what a page holds of them stops growing. */
import assert from "node:assert/strict";
import test from "node:test";
import { IDBKeyRange } from "fake-indexeddb";
import { load } from "./load.mjs";

globalThis.IDBKeyRange = IDBKeyRange;
const { ModelContext, Steps, VOLATILE_LEDGER, VolatileHome, memoryStep } = await load(
  "model-context",
  "steps",
  "memory-home",
);

const N_TURNS = 1000;

test("what left the window is not held as it was reported, and what is in it is", () => {
  const system = { role: "system", content: "Be brief." };
  let messages = [system];
  const host = { messages: () => messages, model: { contextUsage: () => messages.length } };
  const context = new ModelContext(host, [system]);
  const held = [];
  for (let n = 0; n < N_TURNS; n += 1) {
    const question = [{ role: "user", content: `question ${n}` }];
    const evictedMessages = messages.length > 6 ? 2 : 0;
    const raw = { role: "assistant", content: `<think>hm ${n}</think>answer ${n}` };
    messages = [system, ...messages.slice(1 + evictedMessages), ...question, raw];
    const turn = { answer: `answer ${n}`, thoughts: `hm ${n}`, toolCalls: [], evictedMessages, rollback: null };
    context.settle(context.addTurn(question, turn));
    held.push(context.reportedReplies + context.steps.length);
    const replies = context.history().filter(({ role }) => role === "assistant");
    assert.ok(replies.every(({ content, reasoning }) => /^answer/.test(content) && /^hm/.test(reasoning)));
    assert.equal(replies.at(-1).content, `answer ${n}`);
  }
  assert.equal(context.copy().reportedReplies, 3);
  assert.ok(held.at(-1) <= held[5] && Math.max(...held) <= 8, `${Math.max(...held)} things are held`);
  // what was taken back goes, too
  messages = messages.slice(0, -2);
  context.settle();
  assert.equal(context.reportedReplies, 2);
});

test("changes of the memory alone are not counted for ever", () => {
  const steps = new Steps();
  for (let n = 0; n < N_TURNS; n += 1) steps.push({ ...memoryStep(), generation: n });
  assert.ok(steps.length <= 256);
  assert.equal(steps.last.generation, N_TURNS - 1);
});

test("the ledger of a session that stores nothing has an end", async () => {
  const home = new VolatileHome();
  for (let n = 0; n < N_TURNS; n += 1) {
    const content = { bytes: new Uint8Array([n]), savedMs: n, norm: n };
    await home.commit(n, content, { kind: "turn", prompt: `${n}` });
  }
  const ledger = await home.ledger();
  assert.equal(ledger.length, VOLATILE_LEDGER);
  assert.equal(ledger.at(-1).prompt, `${N_TURNS - 1}`);
  // the newest can be taken back as before
  await home.undo(N_TURNS, { bytes: new Uint8Array(), savedMs: 0, norm: 0 });
  assert.equal((await home.ledger()).at(-1).prompt, `${N_TURNS - 2}`);
});
