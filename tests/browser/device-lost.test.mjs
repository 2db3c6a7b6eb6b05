/**
 * The GPU device is destroyed under the package in Chromium: in the middle of a reply, while nothing
 * runs, and while the model is loaded. Nothing hangs, nothing committed is lost, and the session goes
 * on. Needs `./dev web` before.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { PATIENCE_MS, ROOT, launchChromium, openPage, serve } from "./support.mjs";

let server;
let browser;

before(async () => {
  assert.ok(existsSync(join(ROOT, "pkg/dist/deltamem.js")), "run `./dev web` first");
  server = await serve({
    dist: join(ROOT, "pkg/dist"),
    // its replies are long enough to be cut in the middle
    noise: join(ROOT, "tests/noise"),
    pages: join(ROOT, "tests/browser/pages"),
  });
  browser = await launchChromium();
});

after(async () => {
  await browser?.close();
  server?.close();
});

/** Runs `job` with a page of its own profile; the page has a session in `window.session`. */
async function withSession(job) {
  const context = await browser.newContext();
  try {
    const requests = [];
    context.on("request", (request) => requests.push(request));
    const page = await openPage(context, server.address);
    await page.evaluate(open);
    await job(page, requests);
  } finally {
    await context.close();
  }
}

/** Runs in the page. */
async function open() {
  const { LanguageModel } = await import("/dist/index.js");
  const session = await LanguageModel.create({
    model: "/noise/",
    workerUrl: "/pages/lossy-worker.mjs",
    weights: "f32",
    contextTokens: 512,
  });
  const channel = new BroadcastChannel("device");
  let lastId = 0;
  const events = [];
  for (const kind of ["devicelost", "devicerestored"]) {
    session.addEventListener(kind, (event) => events.push({ kind, reason: event.detail?.reason }));
  }
  const isOver = () => events.at(-1)?.kind === "devicerestored";
  Object.assign(window, {
    session,
    /** How many submissions there were so far. */
    submissions: () =>
      new Promise((resolve) => {
        lastId += 1;
        const id = lastId;
        const take = ({ data }) => {
          if (data.answers !== id) return;
          channel.removeEventListener("message", take);
          resolve(data.submissions);
        };
        channel.addEventListener("message", take);
        channel.postMessage({ id });
      }),
    /** Destroys the device after so many more. */
    destroyAfter: (count) => channel.postMessage({ destroyAfter: count }),
    /** The events of one loss, once all is there again. */
    restored: async () => {
      while (!isOver()) {
        await new Promise((resolve) => session.addEventListener("devicerestored", resolve, { once: true }));
      }
      return events.splice(0);
    },
    /** Everything that a loss must leave as it was. */
    look: async () => ({
      states: Array.from((await session.memory.states()).data),
      generation: session.memory.generation,
      history: await session.history(),
      contextUsage: session.contextUsage,
    }),
    /** A reply that is the same each time in the same place. */
    say: (text, onAnswer) => {
      const reply = session.promptStreaming(text, { temperature: 0, maxTokens: 24 });
      return (async () => {
        for await (const piece of reply) onAnswer?.(piece);
      })();
    },
  });
}

const LOSS = ["devicelost", "devicerestored"];

test("a device lost in the middle of a reply costs that reply, and nothing else", { timeout: 2 * PATIENCE_MS }, async () => {
  await withSession(async (page, requests) => {
    const { events, error, pieces, before, after, again } = await page.evaluate(async () => {
      const { session, submissions, destroyAfter, restored, look, say } = window;
      const begin = await submissions();
      await say("My name is Ada, and I keep bees.");
      const ofOneTurn = (await submissions()) - begin;
      const before = await look();
      // each token of a reply is a submission, so half of a turn's are in the middle of it
      destroyAfter(Math.round(ofOneTurn / 2));
      await submissions(); // the worker has heard it
      let pieces = 0;
      let error = null;
      try {
        await say("What do I keep?", () => (pieces += 1));
      } catch (thrown) {
        error = { name: thrown.name, code: thrown.code, message: thrown.message };
      }
      const events = await restored();
      const after = await look();
      await say("What do I keep?");
      return { events, error, pieces, before, after, again: await look() };
    });
    assert.equal(error?.code, "device_lost", JSON.stringify(error));
    assert.equal(error.name, "DeltamemError");
    assert.ok(pieces > 0, "the reply had not begun");
    assert.deepEqual(events.map(({ kind }) => kind), LOSS);
    assert.ok(events[0].reason.length > 0);
    assert.equal(before.generation, 1);
    assert.ok(before.states.some((value) => value !== 0));
    assert.deepEqual(after, before);
    assert.equal(again.generation, 2);
    assert.equal(again.history.length, before.history.length + 2);
    assert.notDeepEqual(again.states, before.states);
    // the second time the weights came from this device; asking for one byte tells whether they changed
    const downloads = requests.filter(
      (request) => request.url().endsWith("/noise/model.safetensors") && !request.headers().range,
    );
    assert.equal(downloads.length, 1);
  });
});

test("a device lost while nothing runs comes back by itself, more than once", { timeout: 2 * PATIENCE_MS }, async () => {
  await withSession(async (page) => {
    await page.evaluate(() => window.say("My name is Ada."));
    const before = await page.evaluate(() => window.look());
    for (let round = 0; round < 2; round += 1) {
      const events = await page.evaluate(async () => {
        window.destroyAfter(0);
        return window.restored();
      });
      assert.deepEqual(events.map(({ kind }) => kind), LOSS);
      assert.deepEqual(await page.evaluate(() => window.look()), before);
    }
    await page.evaluate(() => window.say("And yours?"));
    assert.equal((await page.evaluate(() => window.look())).generation, 2);
  });
});

test("a device lost while the model is loaded ends the loading", { timeout: PATIENCE_MS }, async () => {
  const context = await browser.newContext();
  try {
    const page = await openPage(context, server.address);
    const error = await page.evaluate(async () => {
      const { LanguageModel } = await import("/dist/index.js");
      try {
        await LanguageModel.create({
          model: "/noise/",
          workerUrl: "/pages/lossy-worker.mjs?destroyAfter=1",
          ephemeral: true,
        });
      } catch (thrown) {
        return { name: thrown.name, code: thrown.code, message: thrown.message };
      }
      return null;
    });
    assert.equal(error?.code, "device_lost", JSON.stringify(error));
  } finally {
    await context.close();
  }
});
