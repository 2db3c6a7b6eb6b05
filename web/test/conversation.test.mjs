import assert from "node:assert/strict";
import test from "node:test";
import { abortAt, fake, freshBrowser, openTab } from "./tabs.mjs";

const user = (content) => ({ role: "user", content });

test("initial prompts begin every context and are not written", async () => {
  const initialPrompts = [
    { role: "system", content: "be brief" },
    user("hi"),
    { role: "assistant", content: "hello" },
  ];
  const tab = await openTab(freshBrowser(), { initialPrompts });
  const texts = ["be brief", "hi", "hello"];
  assert.deepEqual((await tab.everything()).texts, texts);
  assert.equal((await tab.info()).norm, 0);
  assert.ok(tab.opened.state.contextUsage > 0);
  await tab.say("one");
  assert.equal((await tab.everything()).texts.length, 5);
  await tab.call("newContext");
  assert.deepEqual((await tab.everything()).texts, texts);
  assert.equal((await tab.info()).norm, 6);
  // another system message, as a face brings it, does not stay
  await tab.complete([{ role: "system", content: "be long" }, user("two")]);
  await tab.call("newContext");
  assert.deepEqual((await tab.everything()).texts, texts);
  await tab.close();
});

test("a history that goes on feeds only what is new; one that differs says so", async () => {
  const tab = await openTab(freshBrowser());
  const history = [user("one")];
  const first = await tab.complete(history);
  history.push({ role: "assistant", content: first.turn.answer }, user("two"));
  const second = await tab.complete(history);
  assert.equal(second.turn.rollback, null);
  assert.equal(second.turn.promptTokens, "oneyou said onetwo".length);
  assert.equal(second.turn.prefixTokens, "oneyou said one".length);
  assert.equal((await tab.info()).norm, 12);
  const changed = await tab.complete([...history.slice(0, 2), user("three")]);
  assert.equal(changed.turn.rollback.memory, "restored");
  assert.equal((await tab.info()).norm, 16);
  // back to the commit before, which had the other question
  await tab.call("undo");
  assert.equal((await tab.info()).norm, 12);
  assert.deepEqual((await tab.everything()).texts, ["one", "you said one"]);
  await tab.close();
});

test("appended messages are in the context, in the memory and in the store", async () => {
  const tab = await openTab(freshBrowser());
  await tab.call("append", [user("note"), { role: "assistant", content: "noted" }]);
  assert.deepEqual(await tab.everything(), {
    norm: 18,
    generation: 1,
    texts: ["note", "noted"],
    ledger: [["append", "note\n\nnoted"]],
  });
  await tab.say("next");
  await tab.call("undo");
  await tab.call("undo");
  assert.deepEqual(await tab.everything(), { norm: 0, generation: 4, texts: [], ledger: [] });
  await tab.close();
});

test("written text is in the memory only, with an entry of its own", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("hello");
  assert.deepEqual(await tab.call("writeMemory", "the sky"), { tokensWritten: 7 });
  const { norm, texts, ledger } = await tab.everything();
  assert.deepEqual([norm, texts.length], [24, 2]);
  assert.deepEqual(ledger, [["turn", "hello"], ["write", "the sky"]]);
  // the turn is not the newest change any more
  await assert.rejects(tab.call("takeBack"), { code: "nothing_to_undo" });
  await tab.call("undo");
  assert.equal((await tab.info()).norm, 10);
  assert.deepEqual(await tab.call("takeBack"), [user("hello")]);
  assert.deepEqual((await tab.everything()).texts, []);
  assert.equal((await tab.info()).norm, 0);
  await tab.close();
});

test("a restored snapshot is a change that can be undone", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("a");
  await tab.say("bb");
  await tab.call("restore", 1);
  assert.deepEqual(await tab.everything(), {
    norm: 2,
    generation: 3,
    texts: ["a", "you said a", "bb", "you said bb"],
    ledger: [["turn", "a"], ["turn", "bb"], ["restore", ""]],
  });
  await tab.call("undo");
  assert.equal((await tab.info()).norm, 6);
  await tab.call("restore", 0);
  assert.equal((await tab.info()).norm, 0);
  await assert.rejects(tab.call("restore", 99), { code: "no_snapshot" });
  await tab.close();
});

test("a question is taken back with the tools' results that followed it", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("before");
  await tab.say("question");
  const result = { role: "tool", name: "clock", content: "noon" };
  await tab.call("turn", { messages: [result], isHistory: false, settings: {} });
  assert.equal((await tab.call("ledger")).at(-1).promptRole, "tool");
  assert.deepEqual(await tab.call("takeBack"), [user("question")]);
  const { norm, texts, ledger } = await tab.everything();
  assert.deepEqual([norm, texts.length, ledger], [12, 2, [["turn", "before"]]]);
  await tab.close();
});

test("taking back works where the model has no checkpoint any more, or another one", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("one");
  await tab.say("two");
  tab.model.undoable = [];
  await tab.call("takeBack");
  assert.equal((await tab.info()).norm, 6);
  await tab.say("three");
  tab.model.undoable.at(-1)[0] = 99;
  await tab.call("takeBack");
  assert.deepEqual((await tab.everything()).texts, ["one", "you said one"]);
  assert.equal((await tab.info()).norm, 6);
  await tab.close();
});

test("a full window forgets the oldest turns, and undo finds what is left", async () => {
  const tab = await openTab(freshBrowser(), { contextTokens: 50 });
  const evicted = [];
  for (const text of ["first", "second", "third", "fourth"]) {
    evicted.push((await tab.say(text)).turn.evictedMessages);
  }
  assert.deepEqual(evicted, [0, 0, 2, 2]);
  assert.deepEqual((await tab.everything()).texts, [
    "third",
    "you said third",
    "fourth",
    "you said fourth",
  ]);
  await tab.call("undo");
  assert.deepEqual((await tab.everything()).texts, ["third", "you said third"]);
  assert.equal((await tab.info()).norm, 32);
  await assert.rejects(tab.say("much too long".repeat(3), { overflow: "error" }), {
    code: "context_full",
  });
  await tab.close();
});

test("initial prompts stay in a full window, and after a lost device", async () => {
  const initialPrompts = [
    { role: "system", content: "sys" },
    user("hi"),
    { role: "assistant", content: "hello" },
  ];
  const tab = await openTab(freshBrowser(), { initialPrompts, contextTokens: 60 });
  for (const text of ["first", "second", "third"]) await tab.say(text);
  const texts = ["sys", "hi", "hello", "second", "you said second", "third", "you said third"];
  assert.deepEqual((await tab.everything()).texts, texts);
  await tab.model.lose();
  await tab.say("fourth");
  assert.deepEqual((await tab.everything()).texts, [
    ...texts.slice(0, 3),
    ...texts.slice(5),
    "fourth",
    "you said fourth",
  ]);
  await tab.call("undo");
  await tab.call("undo");
  assert.deepEqual((await tab.everything()).texts, texts.slice(0, 3));
  await tab.call("undo"); // the first two turns are in the memory only
  assert.equal((await tab.info()).norm, 10);
  await tab.close();
});

test("comparing answers with and without memory, and leaves everything as it was", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("hello");
  const before = await tab.everything();
  const parked = fake.parked;
  const request = { messages: [user("what?")], isHistory: false, settings: {} };
  const { on, off } = await tab.call("compare", request);
  assert.deepEqual(on.memoryNorms, [10, 20]);
  assert.deepEqual(off.memoryNorms, [0, 0]);
  const [first, second] = tab.model.calls.slice(-2);
  assert.equal(first.options.seed, second.options.seed);
  assert.equal(typeof first.options.seed, "number");
  assert.deepEqual([first.write, second.write], [true, false]);
  // the second half of the pieces is the other side's
  assert.deepEqual([...new Set(tab.pieces.slice(3).map(({ side }) => side))], ["on", "off"]);
  assert.deepEqual(await tab.everything(), before);
  // while the first side's prompt is read, and the second's
  for (const skipped of [1, 5]) {
    await assert.rejects(tab.call("compare", request, abortAt("prompt", skipped)), {
      name: "AbortError",
    });
    fake.onStep = () => {};
  }
  assert.deepEqual(await tab.everything(), before);
  assert.equal(fake.parked, parked);
  await tab.call("undo");
  assert.equal((await tab.info()).norm, 0);
  await tab.close();
});

test("a clone branches context and memory; each goes its way on the same weights", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks);
  const loads = fake.models.length;
  await tab.say("hello");
  const clone = await tab.clone();
  assert.ok(clone.opened.state.isEphemeral);
  assert.deepEqual(await clone.everything(), await tab.everything());
  await clone.say("branch");
  await tab.say("trunk!!");
  assert.equal((await clone.info()).norm, 22);
  assert.equal((await tab.info()).norm, 24);
  assert.deepEqual((await clone.everything()).texts, ["hello", "you said hello", "branch", "you said branch"]);
  await clone.call("setPaused", true);
  await tab.say("x");
  assert.equal((await tab.info()).norm, 26);
  assert.equal((await clone.say("unwritten")).turn.memoryNorms[1], 22);
  // it can go back further than its own beginning
  await clone.call("setPaused", false);
  for (let turns = 0; turns < 3; turns += 1) await clone.call("undo");
  assert.deepEqual((await clone.everything()).texts, []);
  assert.equal((await clone.info()).norm, 0);
  assert.equal((await tab.everything()).texts.length, 6);
  assert.equal(fake.models.length, loads);
  await clone.call("close");
  await assert.rejects(clone.say("late"), { code: "worker" });
  assert.ok((await tab.say("on")).isCommitted);
  assert.equal(fake.parked, 0);
  await tab.close();
  assert.equal(fake.models.at(-1).isFreed, true);
});

test("a clone with a profile takes the memory there, if it is empty", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks);
  await tab.say("hello");
  await tab.say("again");
  const clone = await tab.clone({ profile: "branch" });
  assert.ok(!clone.opened.state.isEphemeral);
  assert.deepEqual(await clone.everything(), await tab.everything());
  assert.ok((await clone.say("more")).isCommitted);
  await assert.rejects(tab.clone({ profile: "branch" }), { code: "busy" });
  await clone.call("close");
  await assert.rejects(tab.clone({ profile: "branch" }), { code: "profile_exists" });
  const profiles = await tab.call("profiles");
  assert.deepEqual(
    profiles.map(({ profile, generation, norm }) => [profile, generation, norm]),
    [["ada", 2, 20], ["branch", 3, 28]],
  );
  await assert.rejects(tab.call("forgetProfile", "ada"), { code: "busy" });
  const visit = await openTab(locks, { profile: "branch" });
  await visit.call("undo");
  assert.equal((await visit.info()).norm, 20);
  await assert.rejects(tab.call("forgetProfile", "branch"), { code: "busy" });
  await visit.close();
  await tab.call("forgetProfile", "branch");
  assert.deepEqual((await tab.call("profiles")).map(({ profile }) => profile), ["ada"]);
  await tab.close();
});
