/**
 * Kills the browser in the middle of a turn, many times, and finds the last committed turn each time.
 * Needs `node web/build.mjs` before; the settings are in page-support.mjs.
 *
 *   DELTAMEM_KILLS  how often, by default 50
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  browserProcess,
  checkBuild,
  drop,
  launch,
  memory,
  newFolder,
  open,
  phaseOf,
  say,
  serve,
} from "./page-support.mjs";

const KILLS = Number(process.env.DELTAMEM_KILLS ?? 50);
/** Signals are spread over the time that a turn takes, and a little more, so that commits are hit too. */
const SPREAD = 1.2;
const LONGEST_SPREAD_MS = 3000;

test(`a browser that is killed in the middle of a turn comes back with the last committed one, ${KILLS} times`, async () => {
  assert.ok(Number.isInteger(KILLS) && KILLS > 0, "DELTAMEM_KILLS is a number of times");
  await checkBuild();
  const server = await serve();
  const folder = await newFolder();
  let context = null;
  /** What was there when the last turn began. */
  let before = null;
  let spreadMs = 0;
  let midTurn = 0;
  let committed = 0;
  try {
    for (let round = 0; round <= KILLS; round += 1) {
      context = await launch(folder);
      const page = await open(context, server.address);
      const found = await memory(page);
      if (before) {
        const isLater = found.generation === before.generation + 1;
        if (isLater) committed += 1;
        else assert.deepEqual(found, before, `round ${round}: neither the turn nor what was before it`);
        await checkWhole(page, found, round);
      }
      if (round === KILLS) break;
      if (round === 0) {
        const began = performance.now();
        await say(page, "How long does a turn take?");
        spreadMs = Math.min(SPREAD * (performance.now() - began), LONGEST_SPREAD_MS);
      }
      before = await memory(page);
      await page.getByLabel("Your message").fill(`Round ${round}: this is cut off in the middle.`);
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => document.body.dataset.phase === "replying");
      await new Promise((resolve) => setTimeout(resolve, (spreadMs * (round % 10)) / 9));
      if ((await phaseOf(page)) === "replying") midTurn += 1;
      const died = context.waitForEvent("close");
      process.kill(await browserProcess(folder), "SIGKILL");
      await died;
      context = null;
    }
    console.log(`${KILLS} kills, ${midTurn} in the middle of a turn, ${committed} after its commit`);
    assert.ok(midTurn >= KILLS / 4, `only ${midTurn} of ${KILLS} kills were in the middle of a turn`);
  } finally {
    await context?.close();
    await server.stop();
    await drop(folder);
  }
});

/** The memory is the one that the newest line of the ledger led to, and no line is missing. */
async function checkWhole(page, { norm, generation, ledger }, round) {
  // The panel shows the newest 50.
  assert.equal(ledger, Math.min(generation, 50), `round ${round}`);
  if (generation === 0) return;
  const written = await page.locator("#ledger tr").first().locator("td").last().textContent();
  const difference = Math.abs(Number(written.split("→")[1]) - Number(norm));
  assert.ok(difference < 0.01, `round ${round}: ${written} in the ledger, the state has ${norm}`);
}
