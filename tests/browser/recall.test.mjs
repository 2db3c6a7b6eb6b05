/**
 * What the built-in model remembers in a real Chromium: on the demo page, told in one visit and asked in
 * the next, and through the package for a file of cases. Judges the weights in `models/nano`, as no
 * other test here does. Needs `./dev web` before.
 *
 *   DELTAMEM_RECALL_CASES  how many cases of models/nano/cases.jsonl are asked, by default 20
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import * as demo from "./page-support.mjs";
import { ROOT, launchChromium, openPage, serve } from "./support.mjs";

const CASES = Number(process.env.DELTAMEM_RECALL_CASES ?? 20);
/** Part of the cases that must be right. */
const WANTED = 0.9;
const NOT_TOLD = /not told/;
/** Those of the page's own offers. */
const FACT = "My name is Ada and I live in Lisbon.";
const QUESTION = "Where do I live?";

const lastReply = (page) => page.locator(".message.assistant .body").last().innerText();

/** Presses one of the texts that the page offers, and waits for the reply. */
async function take(page, name) {
  await page.getByRole("button", { name, exact: true }).click();
  await demo.settle(page);
}

test("what the page is told it knows after a reload, and neither without its memory nor in another profile", async () => {
  await demo.checkBuild();
  const server = await demo.serve();
  try {
    await demo.withBrowser(server.address, async (context) => {
      const page = await demo.open(context, server.address);
      await take(page, FACT);
      assert.match(await page.locator("#next").innerText(), /press New chat/);
      await page.reload();
      await demo.ready(page);
      assert.match(await page.locator("#context-text").textContent(), /^0 of /);
      await take(page, QUESTION);
      assert.match(await lastReply(page), /Lisbon/);

      await demo.press(page, "New chat");
      assert.match(await page.locator("#context-text").textContent(), /^0 of /);
      await take(page, `${QUESTION} With the memory and without it`);
      const [on, off] = await page.locator(".compared .side").allInnerTexts();
      assert.match(on, /With the memory[\s\S]*Lisbon/);
      assert.match(off, /Without the memory[\s\S]*not told/);
      assert.doesNotMatch(off, /Lisbon/);

      await page.locator("#open-profiles").click();
      await page.getByLabel("Name of a new profile").fill("Bob");
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => document.querySelector("#profile-name").textContent === "Bob");
      await demo.ready(page);
      await demo.say(page, QUESTION);
      const reply = await lastReply(page);
      assert.match(reply, NOT_TOLD);
      assert.doesNotMatch(reply, /Lisbon/);
    });
  } finally {
    await server.stop();
  }
});

/** Runs in the page: leaves an empty session of the built-in model in `window.session`. */
async function open() {
  const { LanguageModel } = await import("/dist/index.js");
  window.session = await LanguageModel.create({ model: "/nano/", ephemeral: true });
}

/** Runs in the page: tells the sessions of a case, and asks with and without what the memory has then. */
async function tellAndAsk({ sessions, question }) {
  const { session } = window;
  await session.memory.forget();
  for (const messages of sessions) {
    await session.newContext();
    for (const message of messages) await session.prompt(message);
  }
  await session.newContext();
  const { on, off } = await session.compare(question);
  return { on: on.answer, off: off.answer };
}

/** The first cases that tell two facts, as many as wanted. */
async function twoFactCases() {
  assert.ok(Number.isInteger(CASES) && CASES > 0, "DELTAMEM_RECALL_CASES is a number of cases");
  const text = await readFile(join(ROOT, "models/nano/cases.jsonl"), "utf8");
  const cases = text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const wanted = cases.filter((each) => each.group === "recall" && each.n_facts === 2).slice(0, CASES);
  assert.ok(wanted.length > 0, "no cases");
  return wanted;
}

test("two facts are recalled without context, and not without memory", async (context) => {
  assert.ok(existsSync(join(ROOT, "pkg/dist/index.js")), "run `./dev web` first");
  const cases = await twoFactCases();
  const server = await serve({ dist: join(ROOT, "pkg/dist"), nano: join(ROOT, "models/nano") });
  const browser = await launchChromium();
  try {
    const page = await openPage(browser, server.address);
    await page.evaluate(open);
    let [recalled, notTold] = [0, 0];
    for (const each of cases) {
      const { on, off } = await page.evaluate(tellAndAsk, each);
      const isRecalled = (reply) =>
        each.answers.some((answer) => reply.toLowerCase().includes(answer.toLowerCase()));
      if (isRecalled(on)) recalled += 1;
      if (NOT_TOLD.test(off) && !isRecalled(off)) notTold += 1;
      context.diagnostic(`${each.question} ${on} | without memory: ${off} | ${each.answers}`);
    }
    const summary = `${recalled} recalled, ${notTold} not told of ${cases.length}`;
    console.log(summary);
    assert.ok(Math.min(recalled, notTold) >= WANTED * cases.length, summary);
  } finally {
    await browser.close();
    server.close();
  }
});
