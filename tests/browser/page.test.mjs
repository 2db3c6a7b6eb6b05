/**
 * The demo page in a real Chromium, as a person uses it: talk, reload, undo, export, import, forget,
 * two tabs. Needs `node web/build.mjs` before; takes the screenshots on the way.
 *
 *   DELTAMEM_CHROMIUM     the browser, by default /usr/bin/chromium
 *   DELTAMEM_SCREENSHOTS  where the screenshots go, by default target/screenshots
 */
import assert from "node:assert/strict";
import { mkdtemp, mkdir, readFile, readlink, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { SITE, siteServer } from "../../web/serve.mjs";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const root = fileURLToPath(new URL("../../", import.meta.url));
const screenshots = process.env.DELTAMEM_SCREENSHOTS ?? join(root, "target/screenshots");
const executablePath = process.env.DELTAMEM_CHROMIUM ?? "/usr/bin/chromium";
/** Not at the top of the host, as on GitHub Pages. */
const BASE = "/some/folder/";
/** A software adapter on a busy machine is slow. */
const PATIENCE_MS = 120_000;
let server;
let address;

before(async () => {
  assert.ok(existsSync(join(SITE, "deltamem.js")), "run `node web/build.mjs` first");
  assert.ok(existsSync(executablePath), `no browser at ${executablePath}; set DELTAMEM_CHROMIUM`);
  await mkdir(screenshots, { recursive: true });
  server = siteServer(BASE);
  await new Promise((resolve) => server.listen(0, "localhost", resolve));
  address = `http://localhost:${server.address().port}${BASE}`;
});

after(() => server?.close());

function launch(folder, options = {}) {
  return chromium.launchPersistentContext(folder, {
    executablePath,
    headless: true,
    acceptDownloads: true,
    viewport: { width: 1280, height: 860 },
    args: [
      "--no-sandbox",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--enable-unsafe-webgpu",
      "--use-webgpu-adapter=swiftshader",
    ],
    ...options,
  });
}

/** A browser with a storage of its own; `problems` collects what must not happen. */
async function withBrowser(job, options = {}) {
  const folder = await mkdtemp(join(tmpdir(), "deltamem-browser-"));
  const context = await launch(folder, options);
  context.setDefaultTimeout(PATIENCE_MS);
  const problems = [];
  context.on("request", (request) => {
    if (!/^(blob|data):/.test(request.url()) && !request.url().startsWith(address)) {
      problems.push(`request to ${request.url()}`);
    }
  });
  context.on("console", (message) => {
    if (message.type() === "error") problems.push(`console: ${message.text()}`);
  });
  context.on("weberror", (error) => problems.push(`uncaught: ${error.error()}`));
  try {
    await job(context, problems);
    assert.deepEqual(problems, []);
  } finally {
    await context.close();
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

async function open(context) {
  const page = await context.newPage();
  await page.goto(address);
  await ready(page);
  return page;
}

async function ready(page) {
  await page.waitForFunction(() => ["ready", "failed"].includes(document.body.dataset.phase));
  const error = await page.locator("#error").textContent();
  assert.equal(await page.locator("body").getAttribute("data-phase"), "ready", error);
}

/** Waits for a phase that has begun to end. */
async function settle(page) {
  await page.waitForFunction(() => document.body.dataset.phase === "ready");
  assert.equal(await page.locator("#error").isVisible(), false, await errorOf(page));
}

const errorOf = (page) => page.locator("#error").textContent();

async function say(page, text) {
  await page.getByLabel("Your message").fill(text);
  await page.keyboard.press("Enter");
  await settle(page);
}

/**
 * Says something and runs `act` while the reply is forming, until `act` says that it came in time:
 * replies are random, and some end after a token or two. `prepare` runs before each attempt.
 */
async function interrupt(page, text, act, prepare = async () => undefined) {
  for (let attempt = 0; attempt < 20; attempt += 1) {
    await prepare();
    await page.getByLabel("Your message").fill(text);
    await page.keyboard.press("Enter");
    const seen = await page.waitForFunction(() => {
      if (document.body.dataset.phase === "ready") return "over";
      return document.querySelector(".waiting")?.textContent.length > 12 && "forming";
    });
    if ((await seen.jsonValue()) === "forming" && (await act())) return;
    await settle(page);
  }
  assert.fail("no reply could be caught while it was forming");
}

async function press(page, name) {
  await page.getByRole("button", { name }).click();
  await settle(page);
}

async function memory(page) {
  const text = async (id) => (await page.locator(id).textContent()).replaceAll(",", "");
  return {
    norm: await text("#norm"),
    generation: Number(await text("#generation")),
    ledger: await page.locator("#ledger tr").count(),
  };
}

const EMPTY = { norm: "0.000", generation: 0, ledger: 0 };

const shot = (page, name, fullPage = true) =>
  page.screenshot({ path: join(screenshots, `${name}.png`), fullPage });

test("what is said is remembered over a reload, undone, exported, imported, forgotten", async () => {
  await withBrowser(async (context) => {
    const page = await open(context);
    assert.deepEqual(await memory(page), EMPTY);
    assert.match(await page.locator("#status").textContent(), /nano/);
    assert.ok(await page.locator("#notice").isVisible());

    await say(page, "My name is Ada, and I keep bees behind the house.");
    const one = await memory(page);
    assert.ok(Number(one.norm) > 0);
    assert.deepEqual([one.generation, one.ledger], [1, 1]);
    assert.match(await page.locator(".message.assistant").last().textContent(), /saved/);

    await say(page, "What is my name?");
    const two = await memory(page);
    assert.deepEqual([two.generation, two.ledger], [2, 2]);
    assert.notEqual(two.norm, one.norm);
    await shot(page, "light");

    await page.reload();
    await ready(page);
    assert.deepEqual(await memory(page), two);
    assert.match(await page.locator("#context").textContent(), /^context \d+ of/);
    assert.match(await page.locator("#log").textContent(), /bees[\s\S]*generation 2/);

    await press(page, "Undo");
    assert.deepEqual(await memory(page), { norm: one.norm, generation: 3, ledger: 1 });

    const downloading = page.waitForEvent("download");
    await press(page, "Export");
    const download = await downloading;
    assert.match(download.suggestedFilename(), /^nano-.*\.dmem$/);
    const file = await readFile(await download.path());
    assert.equal(file.subarray(0, 8).toString(), "deltamem");

    await page.getByRole("button", { name: "Forget…" }).click();
    await page.getByRole("button", { name: "Keep it" }).click();
    assert.equal((await memory(page)).norm, one.norm);
    await page.getByRole("button", { name: "Forget…" }).click();
    await page.getByRole("button", { name: "Forget", exact: true }).click();
    await page.waitForFunction(() => document.querySelector("#norm").textContent === "0.000");
    await settle(page);
    assert.deepEqual(await memory(page), EMPTY);
    assert.doesNotMatch(await page.locator("body").textContent(), /bees/);
    await page.reload();
    await ready(page);
    assert.deepEqual(await memory(page), EMPTY);
    assert.doesNotMatch(await page.locator("body").textContent(), /bees/);

    const chosen = { name: "memory.dmem", mimeType: "application/octet-stream", buffer: file };
    await page.locator("#file").setInputFiles(chosen);
    await page.waitForFunction(() => document.querySelector("#generation").textContent === "1");
    await settle(page);
    assert.deepEqual(await memory(page), { norm: one.norm, generation: 1, ledger: 0 });
    await page.locator("#file").setInputFiles({ ...chosen, buffer: Buffer.from("deltamem?") });
    await page.locator("#error").waitFor({ state: "visible" });
    assert.match(await errorOf(page), /\(format\)/);
    assert.equal((await memory(page)).norm, one.norm);
  });
});

test("a reply is streamed, a stopped one stays, pausing stops writing, a new context keeps the memory", async () => {
  await withBrowser(async (context) => {
    const page = await open(context);
    await interrupt(page, "Tell me a long story about the bees and the house.", async () => {
      await page.evaluate(() => document.querySelector("#stop").click());
      await settle(page);
      return /stopped.*saved/.test(await page.locator(".message.assistant").last().textContent());
    });
    const stopped = await memory(page);
    assert.equal(stopped.generation, stopped.ledger);
    assert.ok(Number(stopped.norm) > 0);

    await press(page, "New context");
    assert.equal((await memory(page)).norm, stopped.norm);

    await press(page, "Pause");
    await say(page, "This is not written.");
    assert.equal((await memory(page)).norm, stopped.norm);
    await press(page, "Pause");
    await say(page, "This is written.");
    assert.notEqual((await memory(page)).norm, stopped.norm);
  });
});

test("the second tab reads and follows, and takes over when the first closes", async () => {
  await withBrowser(async (context) => {
    const first = await open(context);
    await say(first, "Hello from the first tab.");
    const second = await open(context);
    assert.match(await second.locator("#badges").textContent(), /read-only/);
    assert.deepEqual(await memory(second), await memory(first));
    assert.ok(await second.getByRole("button", { name: "Forget…" }).isDisabled());
    await say(second, "Only read.");
    assert.match(await second.locator(".message.assistant").last().textContent(), /not written/);

    await say(first, "Once more.");
    await second.waitForFunction(() => document.querySelector("#generation").textContent === "2");
    assert.deepEqual(await memory(second), await memory(first));
    await shot(second, "read-only");

    await first.close();
    await second.waitForFunction(
      () => !document.querySelector("#badges").textContent.includes("read-only"),
    );
    await say(second, "Now it is mine.");
    assert.equal((await memory(second)).generation, 3);
  });
});

test("a browser that is killed in the middle of a turn comes back with the last committed one", async () => {
  const folder = await mkdtemp(join(tmpdir(), "deltamem-browser-"));
  let context = await launch(folder);
  try {
    context.setDefaultTimeout(PATIENCE_MS);
    const page = await open(context);
    await say(page, "This is committed.");
    const killed = await browserProcess(folder);
    const died = context.waitForEvent("close");
    let committed;
    await interrupt(
      page,
      "This is cut off in the middle of the reply.",
      async () => {
        process.kill(killed, "SIGKILL");
        await died;
        return true;
      },
      async () => (committed = await memory(page)),
    );
    context = await launch(folder);
    context.setDefaultTimeout(PATIENCE_MS);
    const after = await open(context);
    const found = await memory(after);
    // The reply may have ended while the signal was on its way: then the whole turn is there.
    if (found.generation === committed.generation) assert.deepEqual(found, committed);
    assert.ok([committed.generation, committed.generation + 1].includes(found.generation));
    assert.equal(found.ledger, found.generation);
    const written = await after.locator("#ledger tr").first().locator("td").last().textContent();
    const difference = Math.abs(Number(written.split("→")[1]) - Number(found.norm));
    assert.ok(difference < 0.01, `${written} in the ledger, the state has ${found.norm}`);
  } finally {
    await context.close();
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  }
});

/** The browser leaves a link `SingletonLock` to `host-PID` in its folder. */
async function browserProcess(folder) {
  return Number((await readlink(join(folder, "SingletonLock"))).split("-").at(-1));
}

test("without WebGPU the page says what to do", async () => {
  await withBrowser(async (context) => {
    const page = await context.newPage();
    await page.addInitScript(() => {
      Object.defineProperty(Navigator.prototype, "gpu", { get: () => undefined });
    });
    await page.goto(address);
    await page.locator("#error").waitFor({ state: "visible" });
    assert.match(await errorOf(page), /WebGPU.*\(no_adapter\)/);
    assert.ok(await page.getByLabel("Your message").isDisabled());
    await shot(page, "no-webgpu");
  });
});

test("dark, and on a phone, nothing is cut off", async () => {
  await withBrowser(
    async (context) => {
      const page = await open(context);
      await say(page, "My name is Ada, and I keep bees behind the house.");
      await shot(page, "dark");
      for (const [name, colorScheme] of [["phone-light", "light"], ["phone-dark", "dark"]]) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width: 390, height: 844 });
        const overflow = await page.evaluate(
          () => document.documentElement.scrollWidth - document.documentElement.clientWidth,
        );
        assert.equal(overflow, 0, "the page scrolls sideways");
        await shot(page, name);
      }
    },
    { colorScheme: "dark" },
  );
});
