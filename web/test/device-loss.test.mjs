import assert from "node:assert/strict";
import test from "node:test";
import { fake, freshBrowser, openTab, tick, until } from "./tabs.mjs";

const user = (content) => ({ role: "user", content });

for (const isEphemeral of [false, true]) {
  const kind = isEphemeral ? "an ephemeral" : "a stored";
  test(`${kind} session goes on after the device was lost in the middle of a reply`, async () => {
    const tab = await openTab(freshBrowser(), {
      isEphemeral,
      initialPrompts: [{ role: "system", content: "be brief" }],
    });
    await tab.say("hello");
    const before = await tab.everything();
    const lost = tab.model;
    const failed = tab.say("lose");
    const queued = tab.say("next");
    await assert.rejects(failed, { code: "device_lost", message: /can be asked again/ });
    assert.equal((await queued).turn.answer, "you said next");
    assert.deepEqual(tab.events, ["devicelost", "devicerestored"]);
    assert.notEqual(tab.model, lost);
    assert.ok(lost.isFreed);
    assert.deepEqual(tab.model.history.slice(0, 3).map(({ content }) => content), before.texts);
    assert.equal((await tab.info()).norm, before.norm + 8);
    assert.deepEqual((await tab.everything()).ledger, [["turn", "hello"], ["turn", "next"]]);
    // both turns can still be taken back, though the new device has no checkpoint of the first
    await tab.call("undo");
    assert.deepEqual(await tab.everything(), { ...before, generation: 3 });
    await tab.call("undo");
    assert.equal((await tab.info()).norm, 0);
    assert.deepEqual((await tab.everything()).texts, ["be brief"]);
    await tab.close();
  });
}

test("a device lost while nothing runs is had again without being asked", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("hello");
  const before = await tab.everything();
  await tab.model.lose("the driver was updated");
  await until(() => tab.events.length === 2);
  assert.deepEqual(tab.events, ["devicelost", "devicerestored"]);
  assert.deepEqual(await tab.everything(), before);
  await tab.close();
});

test("a call that never returns after the loss is given up", async () => {
  const tab = await openTab(freshBrowser());
  fake.hangsWhenLost = true;
  await assert.rejects(tab.say("lose"), { code: "device_lost" });
  fake.hangsWhenLost = false;
  assert.equal((await tab.say("hello")).turn.answer, "you said hello");
  await tab.close();
});

test("what cannot be rebuilt is tried three times, and again at the next call", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("hello");
  fake.failLoads = Array(6).fill("no_adapter");
  await tab.model.lose();
  await until(() => fake.failLoads.length === 3);
  await tick();
  await assert.rejects(tab.say("lost"), { code: "device_lost", message: /the next call tries again/ });
  assert.equal(fake.failLoads.length, 0);
  assert.deepEqual(tab.events, ["devicelost"]);
  assert.ok((await tab.say("back")).isCommitted);
  assert.deepEqual(tab.events, ["devicelost", "devicerestored"]);
  assert.equal((await tab.info()).norm, 18);
  await tab.close();
});

test("every session of the worker comes back, with its own memory and context", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say("hello");
  const clone = await tab.clone();
  await clone.say("branch");
  const [ofTab, ofClone] = [await tab.everything(), await clone.everything()];
  await clone.call("setPaused", true);
  const compared = tab.call("compare", {
    messages: [user("lose")],
    isHistory: false,
    settings: {},
  });
  await assert.rejects(compared, { code: "device_lost" });
  assert.deepEqual(await clone.everything(), ofClone);
  assert.deepEqual(await tab.everything(), ofTab);
  assert.equal((await clone.say("x")).turn.memoryNorms[1], ofClone.norm);
  assert.deepEqual([tab.events, clone.events].map((events) => events.length), [2, 2]);
  assert.equal(fake.parked, 1);
  await tab.close();
  assert.equal(fake.parked, 0);
});
