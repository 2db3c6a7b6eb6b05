/**
 * The demo page as `deltamem serve` shows it, in a real Chromium: the first minute, with the model and the
 * memory on the server. Needs `node web/build.mjs` before (`--fake` does as well: the page's own model is
 * not used); the settings are in tests/browser/page-support.mjs.
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  EMPTY,
  answer,
  memory,
  press,
  ready,
  say,
  settle,
  shot,
  shown,
  withBrowser,
} from "../browser/page-support.mjs";
import { SITE } from "../../web/serve.mjs";
import { Server } from "./server.mjs";

const ADA = "My name is Ada and I live in Lisbon.";
const WHERE = "Where do I live?";
let server;

before(async () => {
  server = await Server.begin({ more: ["--page", SITE] });
});

after(() => server?.end());

/** A page of the server; nothing else is asked, and the page's policy is never broken. */
const inBrowser = (job, at = server) =>
  withBrowser(at.address, async (context) => {
    const page = await context.newPage();
    await page.goto(at.address);
    await job(page, context);
  });
const lastReply = (page) => page.locator(".message.assistant").last().innerText();

test("the page talks to the server, whose memory outlives it", async () => {
  await inBrowser(async (page) => {
    await ready(page);
    assert.equal(await page.locator("#model-name").textContent(), "nano");
    assert.match(await page.locator("#welcome-text").textContent(), /which the server keeps/);
    assert.deepEqual(await memory(page), EMPTY);
    await say(page, ADA);
    assert.match(await lastReply(page), /Lisbon[\s\S]*memory updated, ‖S‖ 0\.00 → \d+\.\d\d/);
    const told = await memory(page);
    assert.deepEqual([told.generation, told.ledger], [1, 1]);
    assert.ok(Number(told.norm) > 0);
    // the heat map, norms and gauges of every layer
    assert.equal(await page.locator("#layer-rows tr").count(), 4);
    assert.doesNotMatch(await page.locator("#layer-rows").innerText(), /–/);
    await shot(page, "served");

    await server.restart();
    await page.reload();
    await ready(page);
    assert.deepEqual(await memory(page), told);
    assert.match(await shown(page), /Lisbon[\s\S]*starts with an empty context/);
    await say(page, WHERE);
    assert.match(await lastReply(page), /Lisbon/);

    await press(page, "New chat");
    await page.getByRole("button", { name: /With and without/ }).click();
    await say(page, WHERE);
    const both = await page.locator("#messages").innerText();
    assert.match(both, /You live in Lisbon[\s\S]*You have not told me where you live/);
    await page.getByRole("button", { name: "With and without memory", exact: true }).click();
    assert.equal((await memory(page)).generation, 2);

    await press(page, "Undo");
    assert.deepEqual((await memory(page)).ledger, 1);
    assert.equal((await memory(page)).norm, told.norm);
    await press(page, "Undo");
    assert.equal((await memory(page)).norm, "0.000");
  });
});

test("profiles, temporary chats, branches and files", async () => {
  await inBrowser(async (page) => {
    await ready(page);
    await page.locator("#open-profiles").click();
    await page.locator("#new-profile").fill("eve");
    await page.keyboard.press("Enter");
    await page.locator("#profile-name", { hasText: "eve" }).waitFor();
    await ready(page);
    await say(page, ADA);
    await page.getByRole("button", { name: "Temporary" }).click();
    await settle(page);
    assert.equal((await memory(page)).norm, "0.000");
    await say(page, WHERE);
    assert.doesNotMatch(await lastReply(page), /Lisbon/);
    await page.getByRole("button", { name: "Temporary" }).click();
    await settle(page);
    const told = await memory(page);
    assert.equal(told.generation, 1);

    const downloading = page.waitForEvent("download");
    await page.getByRole("button", { name: "Export…" }).click();
    await answer(page, {}, "Export");
    const file = await (await downloading).path();
    await page.getByRole("button", { name: "Branch…" }).click();
    await answer(page, { "Name of the new profile": "eve-2" }, "Branch");
    await page.locator("#profile-name", { hasText: "eve-2" }).waitFor();
    await settle(page);
    assert.equal((await memory(page)).norm, told.norm);
    await page.getByRole("button", { name: "Forget…" }).click();
    await answer(page, {}, "Forget");
    await page.locator(".toast", { hasText: "Forgotten" }).waitFor();
    await settle(page);
    assert.deepEqual(await memory(page), EMPTY);
    await page.locator("#file").setInputFiles(file);
    await page.locator(".toast", { hasText: "Imported" }).waitFor();
    await settle(page);
    assert.equal((await memory(page)).norm, told.norm);
    await say(page, WHERE);
    assert.match(await lastReply(page), /Lisbon/);
  });
});

test("a server with a token asks for it, and nothing is shown without", async () => {
  const guarded = await Server.begin({ token: "a-token", more: ["--page", SITE] });
  try {
    await assert.rejects(
      inBrowser(async (page) => {
        await page.getByText("This server wants its token").waitFor();
        await answer(page, { Token: "wrong" }, "Go on");
        await page.getByText("This server wants its token").waitFor();
        await page.locator("#ask-dialog[open]").waitFor();
        await answer(page, { Token: "a-token" }, "Go on");
        await ready(page);
        await say(page, ADA);
        assert.match(await lastReply(page), /Lisbon/);
        await page.reload();
        await ready(page);
      }, guarded),
      // Chromium itself logs the two refusals, and nothing else
      (error) => {
        const problems = error.actual;
        assert.ok(Array.isArray(problems) && problems.length === 2, error.message);
        for (const problem of problems) assert.match(problem, /401/);
        return true;
      },
    );
  } finally {
    await guarded.end();
  }
});
