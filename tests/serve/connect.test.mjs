/**
 * `LanguageModel.connect` against a running `deltamem serve`: the session that a page has, with model and
 * memories on the server. Needs `npm ci --prefix web`; no browser.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { load } from "../../web/test/load.mjs";
import { Server } from "./server.mjs";

const { LanguageModel } = await load("language-model");
const ADA = "My name is Ada and I live in Lisbon.";
const WHERE = "Where do I live?";
const TOKEN = "a-token";

let server;

before(async () => {
  server = await Server.begin({ token: TOKEN });
});

after(() => server?.end());

const connect = (profile, more = {}) =>
  LanguageModel.connect({ server: server.address, token: TOKEN, profile, ...more });

/** What a session's memory is, in few words. */
async function about({ memory }) {
  const [{ norm, counters }, ledger, states] = await Promise.all([
    memory.info(),
    memory.ledger(),
    memory.states(),
  ]);
  const stateNorm = Math.hypot(...states.data);
  assert.ok(Math.abs(stateNorm - norm) < 1e-3 * Math.max(norm, 1), `${stateNorm} is not ${norm}`);
  return { norm, turns: counters.turns, kinds: ledger.map(({ kind }) => kind).join() };
}

test("what is said is remembered in a new context, undone step by step, and forgotten", async () => {
  const session = await connect("steps");
  assert.equal(session.isOnServer, true);
  assert.equal(session.model.name, "nano");
  const empty = await about(session);
  assert.deepEqual(empty, { norm: 0, turns: 0, kinds: "" });
  const turns = [];
  session.addEventListener("turn", ({ detail }) => turns.push(detail));
  let text = "";
  for await (const piece of session.promptStreaming(ADA, { gauges: true })) text += piece;
  assert.match(text, /Lisbon/);
  assert.equal(turns[0].answer, text);
  assert.equal(turns[0].isCommitted, true);
  assert.equal(turns[0].gauges.length, (await session.memory.info()).layers.length);
  assert.ok(turns[0].memoryNorms[1] > turns[0].memoryNorms[0]);
  const one = await about(session);
  assert.deepEqual([one.turns, one.kinds, session.memory.generation], [1, "turn", 1]);
  assert.ok(session.contextUsage > 0);

  await session.newContext();
  assert.deepEqual(await session.history(), []);
  assert.match(await session.prompt(WHERE), /Lisbon/);
  assert.match(await session.prompt(WHERE), /Lisbon/);
  assert.ok(turns[2].prefixTokens > 0, "the conversation was recognised");
  assert.equal((await about(session)).kinds, "turn,turn,turn");

  await session.memory.write("I have a cat called Luna.");
  assert.equal((await about(session)).kinds, "turn,turn,turn,write");
  for (const kinds of ["turn,turn,turn", "turn,turn", "turn"]) {
    await session.memory.undo();
    assert.equal((await about(session)).kinds, kinds);
  }
  assert.deepEqual(await about(session), one);
  assert.deepEqual(await session.history(), []);
  await session.memory.undo();
  assert.deepEqual(await about(session), empty);
  await assert.rejects(session.memory.undo(), { code: "nothing_to_undo" });
  assert.doesNotMatch(await session.prompt(WHERE), /Lisbon/);
  await session.memory.forget();
  assert.deepEqual([await about(session), session.memory.generation], [empty, 0]);
});

test("a reply is given again, and what the one before wrote is gone", async () => {
  const session = await connect("again");
  await session.prompt(ADA, { seed: 1 });
  const before = await about(session);
  assert.match(await session.regenerate({ seed: 1 }), /Lisbon/);
  const after = await about(session);
  assert.deepEqual([after.turns, after.kinds], [1, "turn"]);
  assert.ok(Math.abs(after.norm - before.norm) < 1e-4 * before.norm);
  assert.equal((await session.history()).length, 2);
});

test("with the memory and without it", async () => {
  const session = await connect("compare");
  await session.prompt(ADA);
  await session.newContext();
  const before = await about(session);
  const pieces = { on: "", off: "" };
  const onPiece = (side, text) => (pieces[side] += text);
  const { on, off } = await session.compare(WHERE, { seed: 7, onPiece });
  assert.match(on.answer, /Lisbon/);
  assert.doesNotMatch(off.answer, /Lisbon/);
  assert.deepEqual(pieces, { on: on.answer, off: off.answer });
  assert.deepEqual([await about(session), await session.history()], [before, []]);
  assert.match(await session.prompt(WHERE), /Lisbon/);
});

test("memories move: export, import, branch, snapshots, profiles", async () => {
  const session = await connect("source");
  await session.prompt(ADA);
  const one = await about(session);
  const file = await session.memory.export();
  const sealed = await session.memory.export({ passphrase: "secret" });
  const other = await connect("target");
  await other.memory.import(file);
  assert.match(await other.prompt(WHERE), /Lisbon/);
  await other.memory.forget();
  await assert.rejects(other.memory.import(sealed), { code: "passphrase" });
  await other.memory.import(sealed, { passphrase: "secret" });
  assert.equal((await about(other)).norm, one.norm);
  await assert.rejects(other.memory.import(new Blob(["no memory"])), { code: "format" });

  const branch = await session.clone({ profile: "branch" });
  assert.equal((await about(branch)).norm, one.norm);
  assert.match(await branch.prompt(WHERE), /Lisbon/);
  const { counters } = await branch.memory.info();
  assert.equal(counters.turns, 2, "the copied turn was not written again");
  assert.deepEqual(await about(session), one);
  await assert.rejects(session.clone({ profile: "branch" }), { code: "profile_exists" });

  const [older] = await branch.memory.snapshots();
  assert.equal(older.norm, one.norm);
  await branch.memory.restore(older.generation);
  assert.equal((await about(branch)).norm, one.norm);
  const profiles = await session.memory.profiles();
  const found = profiles.find(({ profile }) => profile === "branch");
  assert.equal(found.identity, session.model.identity);
  await session.memory.forgetProfile("branch");
  assert.equal((await session.memory.profiles()).some(({ profile }) => profile === "branch"), false);
});

test("a temporary session, a paused one and an aborted reply write nothing", async () => {
  const session = await connect("quiet");
  await session.memory.pause();
  await session.prompt(ADA);
  assert.equal((await about(session)).turns, 0);
  await session.memory.resume();
  await session.newContext();
  await session.prompt(ADA);
  const before = await about(session);

  const reading = await session.clone();
  assert.match(await reading.prompt(WHERE), /Lisbon/);
  await reading.memory.forget();
  assert.equal((await about(reading)).norm, 0);
  assert.doesNotMatch(await reading.prompt(WHERE), /Lisbon/);
  await assert.rejects(reading.memory.write("x"), { code: "unsupported" });
  reading.destroy();

  const controller = new AbortController();
  const { signal } = controller;
  // reading so much takes longer than it takes to give up, however fast the machine
  const reply = session.prompt(`${"Good morning! ".repeat(300)}${WHERE}`, { signal });
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(reply, { name: "AbortError" });
  assert.equal((await session.history()).length, 2);
  assert.deepEqual(await about(session), before);
  assert.match(await session.prompt(WHERE), /Lisbon/);
});

test("constraints and tools are passed on", async () => {
  const session = await connect("shape");
  assert.match(await session.prompt(ADA, { responseConstraint: /(Oslo|Rome)/ }), /^(Oslo|Rome)$/);
  const schema = { type: "object", properties: { a: { enum: [1, 2] } }, required: ["a"] };
  const options = { responseConstraint: { ...schema, additionalProperties: false } };
  assert.ok([1, 2].includes(JSON.parse(await session.prompt(WHERE, options)).a));
  assert.ok((await session.measureContextUsage(ADA)) > 3);
  const call = { name: "weather", arguments: { city: "Oslo" } };
  const report = await session.complete([
    { role: "user", content: "How is the weather?" },
    { role: "assistant", content: "", toolCalls: [call] },
    { role: "tool", name: "weather", content: "Sunny." },
  ]);
  assert.ok(report.answer.length > 0);
});

test("errors say what is wrong", async () => {
  await assert.rejects(connect("x", { token: "wrong" }), { code: "invalid_api_key" });
  await assert.rejects(connect("No Name"), { code: "setting" });
  const nobody = LanguageModel.connect({ server: "http://127.0.0.1:1/" });
  await assert.rejects(nobody, { code: "network" });
  const session = await connect("errors");
  await assert.rejects(session.memory.setPassphrase("x"), { code: "unsupported" });
  await assert.rejects(session.prompt(ADA, { temperature: -1 }), { code: "setting" });
});

test("a memory outlives the server", async () => {
  const session = await connect("lasting");
  await session.prompt(ADA);
  await server.restart();
  assert.match(await session.prompt(WHERE), /Lisbon/);
  const again = await connect("lasting");
  assert.match(await again.prompt(WHERE), /Lisbon/);
});
