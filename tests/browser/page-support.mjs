/**
 * What the page's test stands on: a server, browsers with a storage of their own, and the small moves
 * of a person.
 *
 *   DELTAMEM_CHROMIUM     the browser, by default /usr/bin/chromium
 *   DELTAMEM_SCREENSHOTS  where the screenshots go, by default target/screenshots
 *   DELTAMEM_FAKE=1       the page was built with --fake: no GPU work, but everything else
 */
import assert from "node:assert/strict";
import { cp, mkdtemp, mkdir, readFile, readdir, readlink, rm } from "node:fs/promises";
import { existsSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { SITE, siteServer } from "../../web/serve.mjs";
import { LAUNCH, MODEL_FILES } from "./support.mjs";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { chromium } = require("playwright-core");

export const AXE_FILE = require.resolve("axe-core/axe.min.js");
export const isFake = process.env.DELTAMEM_FAKE === "1";
const root = fileURLToPath(new URL("../../", import.meta.url));
const screenshots = process.env.DELTAMEM_SCREENSHOTS ?? join(root, "target/screenshots");
/** Not at the top of the host, as on GitHub Pages. */
const BASE = "/some/folder/";
/** A software adapter on a busy machine is slow. */
export const PATIENCE_MS = isFake ? 20_000 : 120_000;

/** Checks that the page was built, and with what. */
export async function checkBuild() {
  assert.ok(existsSync(join(SITE, "index.html")), "run `node web/build.mjs` first");
  assert.ok(existsSync(LAUNCH.executablePath), `no browser at ${LAUNCH.executablePath}; set DELTAMEM_CHROMIUM`);
  const assets = await readdir(join(SITE, "assets"));
  const hasWasm = assets.some((name) => name.endsWith(".wasm"));
  assert.equal(hasWasm, !isFake, "the page was built with --fake, or DELTAMEM_FAKE is set and it was not");
  await mkdir(screenshots, { recursive: true });
}

/** A server of the page; `site` is another folder than the built one. */
export async function serve(site = SITE) {
  const server = siteServer(BASE, site);
  await new Promise((resolve) => server.listen(0, "localhost", resolve));
  const { port } = server.address();
  return {
    address: `http://localhost:${port}${BASE}`,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** A server of the page with the model of noise in the built-in one's place: its replies are long. */
export async function serveNoise() {
  const site = await newFolder();
  await cp(SITE, site, { recursive: true });
  for (const name of MODEL_FILES) await cp(join(root, "tests/noise", name), join(site, "models/nano", name));
  const own = await serve(site);
  return {
    ...own,
    async stop() {
      await own.stop();
      await drop(site);
    },
  };
}

/** Another host with a model's files, in no hurry with the weights; `asked` lists what was wanted. */
export async function serveSlowly(folder) {
  const asked = [];
  let isSlow = true;
  const server = createServer(async (request, response) => {
    const name = new URL(request.url, "http://localhost").pathname.slice("/model/".length);
    response.setHeader("access-control-allow-origin", "*");
    response.setHeader("access-control-allow-headers", "*");
    response.setHeader("access-control-expose-headers", "*");
    if (request.method === "OPTIONS") return void response.writeHead(204).end();
    asked.push(name);
    const bytes = await readFile(join(folder, name)).catch(() => null);
    if (!bytes) return void response.writeHead(404).end();
    response.setHeader("content-length", bytes.length);
    if (request.method === "HEAD") return void response.end();
    for (let at = 0; at < bytes.length && !response.destroyed; at += 65_536) {
      response.write(bytes.subarray(at, at + 65_536));
      if (isSlow && name === "model.safetensors") await new Promise((resolve) => setTimeout(resolve, 300));
    }
    response.end();
  });
  await new Promise((resolve) => server.listen(0, "localhost", resolve));
  return {
    address: `http://localhost:${server.address().port}/model/`,
    asked,
    hurry: () => (isSlow = false),
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

export async function launch(folder, options = {}) {
  const context = await chromium.launchPersistentContext(folder, {
    ...LAUNCH,
    acceptDownloads: true,
    viewport: { width: 1280, height: 860 },
    ...options,
  });
  context.setDefaultTimeout(PATIENCE_MS);
  return context;
}

export const newFolder = () => mkdtemp(join(tmpdir(), "deltamem-browser-"));
export const drop = (folder) => rm(folder, { recursive: true, force: true, maxRetries: 5 });

/** A browser with a storage of its own; `problems` collects what must not happen. */
export async function withBrowser(address, job, options = {}) {
  const folder = await newFolder();
  const context = await launch(folder, options);
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
    await drop(folder);
  }
}

/** Chromium leaves a link `SingletonLock` to `host-PID` in its folder. */
export async function browserProcess(folder) {
  return Number((await readlink(join(folder, "SingletonLock"))).split("-").at(-1));
}

// ---- what a person does -----------------------------------------------------------------------------

export async function open(context, address) {
  const page = await context.newPage();
  await page.goto(address);
  await ready(page);
  return page;
}

export async function ready(page) {
  await page.waitForFunction(() => ["ready", "failed"].includes(document.body.dataset.phase));
  const failure = await page.locator("#failure-text").textContent();
  assert.equal(await phaseOf(page), "ready", failure);
}

export const phaseOf = (page) => page.locator("body").getAttribute("data-phase");

/** Waits for what is under way to end; it must have ended well. */
export async function settle(page) {
  await page.waitForFunction(() => document.body.dataset.phase === "ready");
  const errors = await page.locator(".toast.bad, .reply-error").allTextContents();
  assert.deepEqual(errors, []);
}

export async function say(page, text) {
  await page.getByLabel("Your message").fill(text);
  await page.keyboard.press("Enter");
  await settle(page);
}

/**
 * Says something and runs `act` while the reply is forming, until `act` says that it came in time:
 * replies are random, and some end after a token or two.
 */
export async function interrupt(page, text, act) {
  for (let attempt = 0; attempt < 20; attempt += 1) {
    await page.getByLabel("Your message").fill(text);
    await page.keyboard.press("Enter");
    const seen = await page.waitForFunction(() => {
      if (document.body.dataset.phase === "ready") return "over";
      return document.querySelector(".waiting .body")?.textContent.length > 12 && "forming";
    });
    if ((await seen.jsonValue()) === "forming" && (await act())) return;
    await settle(page);
  }
  assert.fail("no reply could be caught while it was forming");
}

export async function press(page, name) {
  await page.getByRole("button", { name, exact: true }).click();
  await settle(page);
}

/** Answers the dialog that asks. */
export async function answer(page, fields, ok) {
  const box = page.locator("#ask-dialog");
  for (const [label, value] of Object.entries(fields)) await box.getByLabel(label).fill(value);
  await box.getByRole("button", { name: ok, exact: true }).click();
}

export async function memory(page) {
  const text = async (id) => (await page.locator(id).textContent()).replaceAll(",", "");
  return {
    norm: await text("#norm"),
    generation: Number(await text("#generation")),
    ledger: await page.locator("#ledger tr").count(),
  };
}

export const EMPTY = { norm: "0.000", generation: 0, ledger: 0 };

/** All that was said, as far as it is shown. */
export const shown = (page) => page.locator("#messages").innerText();

/** Everything that this page's origin stores, as text: databases and local storage. */
export function stored(page) {
  return page.evaluate(async () => {
    const found = [JSON.stringify(localStorage)];
    const settled = (request) =>
      new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
      });
    const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value).join() : value);
    for (const { name, version } of await indexedDB.databases()) {
      const database = await settled(indexedDB.open(name, version));
      for (const store of database.objectStoreNames) {
        const all = await settled(database.transaction(store).objectStore(store).getAll());
        found.push(`${name}/${store}: ${JSON.stringify(all, plain)}`);
      }
      database.close();
    }
    return found.join("\n");
  });
}

export const shot = (target, name) => target.screenshot({ path: join(screenshots, `${name}.png`) });
