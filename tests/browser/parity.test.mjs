/**
 * Every committed parity case in real browsers: the wasm build in a dedicated worker, in Chromium on
 * SwiftShader and in Firefox as a second engine, held against the same limit as natively. Needs
 * `./dev web` before. Firefox is left out, with the reason, where there is none (`firefox.mjs`).
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { firefoxPath, launchFirefox } from "./firefox.mjs";
import { ROOT, launchChromium, openPage, serve } from "./support.mjs";

/** Of max|a−b| / max|expected|, as in the fixtures. */
const LIMIT = 1e-4;
const FIXTURES = join(ROOT, "tests/fixtures");
/** Held against f16 weights too where the adapter has them: one of each architecture. */
const HALVED = ["c_msw4", "i10_kitchen_sink", "k_qwen3_tsw"];

let server;
let cases;

before(async () => {
  assert.ok(existsSync(join(ROOT, "pkg/dist/deltamem.js")), "run `./dev web` first");
  const folders = (await readdir(FIXTURES)).filter((name) => existsSync(join(FIXTURES, name, "case.json")));
  cases = await Promise.all(
    folders.sort().map(async (name) => ({ name, names: await readdir(join(FIXTURES, name)) })),
  );
  assert.ok(cases.length >= 13, `only ${cases.length} cases`);
  server = await serve({
    dist: join(ROOT, "pkg/dist"),
    fixtures: FIXTURES,
    pages: join(ROOT, "tests/browser/pages"),
  });
});

after(() => server?.close());

/** Runs in the page: replays a case in the worker that the page has, or gets now. */
function replayInWorker(request) {
  window.replayer ??= new Worker("/pages/self-test-worker.mjs", { type: "module" });
  const { replayer } = window;
  return new Promise((resolve) => {
    replayer.onmessage = ({ data }) => resolve(data);
    replayer.onerror = (event) => resolve({ error: `the worker failed: ${event.message}` });
    replayer.postMessage(request);
  });
}

function line(engine, { name, adapter, ...report }) {
  const number = (error) => (error === null ? "not finite" : error.toExponential(1));
  return (
    `${engine} "${adapter}" ${name}: logits ${number(report.logitsError)}, ` +
    `reads ${number(report.readsError)}, states ${number(report.statesError)}, ` +
    `greedy ${report.greedyMatching}/${report.greedyTokens}, ${report.seconds.toFixed(1)} s`
  );
}

/** `evaluate(function, argument)` runs in a page of the engine. */
async function replayAll(t, engine, evaluate) {
  for (const { name, names } of cases) {
    const request = (options) => ({ folder: `/fixtures/${name}`, names, options });
    await t.test(name, async () => {
      const { report, error } = await evaluate(replayInWorker, request({}));
      assert.equal(error, undefined);
      console.log(line(engine, report));
      assert.equal(report.name, name);
      assert.ok(report.passed, report.reason);
      assert.ok(report.logitsError > 0, "nothing was computed");
      for (const kind of ["logitsError", "readsError", "statesError"]) {
        assert.ok(report[kind] !== null && report[kind] < LIMIT, `${kind} ${report[kind]}`);
      }
      assert.equal(report.greedyMatching, report.greedyTokens);
      if (!report.hasF16 || !HALVED.includes(name)) return;
      // f16 has its own errors: told, and only held to be numbers
      const half = await evaluate(replayInWorker, request({ weights: "f16" }));
      assert.equal(half.error, undefined);
      console.log(line(`${engine} f16`, half.report));
      assert.equal(half.report.passed, null);
      assert.notEqual(half.report.logitsError, null);
    });
  }
}

test("Chromium gives what the reference gave", async (t) => {
  const browser = await launchChromium();
  try {
    const complaints = [];
    const page = await openPage(browser, server.address, complaints);
    await replayAll(t, "Chromium", (action, argument) => page.evaluate(action, argument));
    assert.deepEqual(complaints, []);
  } finally {
    await browser.close();
  }
});

test("Firefox gives what the reference gave", { skip: !firefoxPath() && "there is no Firefox" }, async (t) => {
  const browser = await launchFirefox(firefoxPath());
  try {
    await browser.goto(`${server.address}/`);
    const hasAdapter = await browser.evaluate(
      async () => ((await navigator.gpu?.requestAdapter()) ?? null) !== null,
    );
    if (!hasAdapter && !process.env.DELTAMEM_REQUIRE_GPU) {
      t.skip("this Firefox finds no GPU");
      return;
    }
    assert.ok(hasAdapter, "this Firefox finds no GPU");
    await replayAll(t, "Firefox", (action, argument) => browser.evaluate(action, argument));
    assert.deepEqual(browser.complaints, []);
  } finally {
    await browser.close();
  }
});
