/**
 * A memory moves between the page and the native program: a file made in Chromium is read natively,
 * gives the same logits, goes on the same way, and comes back byte for byte; and the other way round.
 * Needs `./dev web` before, and cargo or the built program.
 *
 *   DELTAMEM_BIN  the program, by default what `cargo run` builds
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { MODEL_FILES, ROOT, launchChromium, openPage, program, serve } from "./support.mjs";

/** Of max|a−b| / max|b|: f32 sums in another order on another adapter. */
const LIMIT = 1e-4;
const SAID = "My name is Ada, and the red key opens the north door.";
const ASKED = "Which key opens the north door?";
const N_TOKENS = 16;
/** Of all runs; f32 on both sides, so that only the order of sums differs. */
const EXACT = ["--weights", "f32", "--kv", "f32", "--context", "512"];
const NOW_MS = 1_800_000_000_000;

let folder;
let server;
let browser;
let page;
const complaints = [];

before(async () => {
  assert.ok(existsSync(join(ROOT, "pkg/dist/deltamem.js")), "run `./dev web` first");
  folder = await mkdtemp(join(tmpdir(), "deltamem-file-"));
  server = await serve({ dist: join(ROOT, "pkg/dist"), nano: join(ROOT, "models/nano") });
  browser = await launchChromium();
  page = await openPage(browser, server.address, complaints);
  await page.evaluate(load, MODEL_FILES);
});

after(async () => {
  await browser?.close();
  server?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** Runs in the page: leaves the built-in model in `window.model`. */
async function load(names) {
  const { default: init, WebModel } = await import("/dist/deltamem.js");
  await init();
  const files = new Map();
  for (const name of names) {
    const response = await fetch(`/nano/${name}`);
    files.set(name, new Uint8Array(await response.arrayBuffer()));
  }
  const options = { name: "nano", weights: "f32", kv: "f32", context: 512 };
  const ignore = () => undefined;
  window.model = await WebModel.load(files, JSON.stringify(options), ignore, ignore);
}

/** Runs in the page: a greedy reply in an empty context. */
async function turnInPage([text, maxTokens]) {
  await window.model.newContext();
  const messages = JSON.stringify([{ role: "user", content: text }]);
  const options = JSON.stringify({ temperature: 0, maxTokens });
  return JSON.parse(await window.model.turn(messages, options, () => true));
}

const exportFromPage = async (nowMs) =>
  Buffer.from(
    await page.evaluate(async (now) => Array.from(await window.model.exportMemory(now)), nowMs),
  );

const importIntoPage = (bytes) =>
  page.evaluate(
    (values) => window.model.importMemory(Uint8Array.from(values)),
    Array.from(bytes),
  );

/** The logits for ASKED with an empty context. */
const probeInPage = () =>
  page.evaluate(async (text) => {
    await window.model.newContext();
    return Array.from(await window.model.probe(text));
  }, ASKED);

const probeNatively = (file) =>
  JSON.parse(program(folder, "probe", ASKED, "--memory", file, "--json", ...EXACT));

async function exportNatively(profile) {
  const file = join(folder, `${profile}.dmem`);
  program(folder, "memory", "export", profile, file, "--force", "--weights", "f32");
  return readFile(file);
}

async function importNatively(bytes, profile) {
  const file = join(folder, `${profile}-in.dmem`);
  await writeFile(file, bytes);
  program(folder, "memory", "import", file, profile, "--weights", "f32");
}

/** Header and states of a memory file, as docs/memory-format.md has them. */
function parts(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  assert.equal(bytes.subarray(0, 8).toString(), "deltamem");
  const [headerBytes, statesBytes] = [view.getUint32(12, true), view.getUint32(16, true)];
  const header = JSON.parse(bytes.subarray(20, 20 + headerBytes).toString());
  const states = bytes.subarray(20 + headerBytes, 20 + headerBytes + statesBytes);
  return { header, states, values: new Float32Array(Uint8Array.from(states).buffer) };
}

function assertClose(found, expected, what) {
  assert.equal(found.length, expected.length, what);
  let [difference, largest] = [0, 0];
  for (let index = 0; index < expected.length; index += 1) {
    difference = Math.max(difference, Math.abs(found[index] - expected[index]));
    largest = Math.max(largest, Math.abs(expected[index]));
  }
  const error = difference / largest;
  console.log(`${what}: ${error.toExponential(1)}`);
  assert.ok(error < LIMIT, `${what}: ${error}`);
}

test("a memory made in Chromium gives the same natively, and goes on the same way", async () => {
  const turn = await page.evaluate(turnInPage, [SAID, N_TOKENS]);
  assert.ok(turn.generatedTokens > 0 && turn.memoryNorms[1] > 0);
  const made = await exportFromPage(NOW_MS);
  const logits = await probeInPage();
  const file = join(folder, "chromium.dmem");
  await writeFile(file, made);

  const native = probeNatively(file);
  assertClose(native.logits, logits, "logits with the page's memory");
  assert.notDeepEqual(native.logits, native.logits_without, "the memory changes nothing");
  assert.deepEqual(native.memory.counters, parts(made).header.counters);

  // the next turn, on both sides from the same file
  await importNatively(made, "ada");
  const answer = ["generate", ASKED, "--json", "--temperature", "0", "--max-tokens", String(N_TOKENS)];
  const next = JSON.parse(program(folder, ...answer, "--memory", "ada", "--save", ...EXACT));
  const nextInPage = await page.evaluate(turnInPage, [ASKED, N_TOKENS]);
  assert.deepEqual(nextInPage.generatedIds, next.generated_ids);
  const after = parts(await exportNatively("ada"));
  const afterInPage = parts(await exportFromPage(NOW_MS));
  assertClose(afterInPage.values, after.values, "states after the next turn");
  assert.deepEqual(afterInPage.header.identity, after.header.identity);
  // only the native store counts generations here
  const { generation, ...counters } = after.header.counters;
  assert.deepEqual(afterInPage.header.counters, { generation: 0, ...counters });
  assert.equal(generation, 2);
});

test("a memory made natively gives the same in Chromium", async () => {
  const talk = ["generate", SAID, "--json", "--temperature", "0", "--max-tokens", String(N_TOKENS)];
  program(folder, ...talk, "--memory", "bea", "--save", ...EXACT);
  const made = await exportNatively("bea");
  await importIntoPage(made);
  assertClose(await probeInPage(), probeNatively("bea").logits, "logits with the program's memory");
});

test("what nobody changes comes back byte for byte", async () => {
  const made = await exportNatively("bea");
  const { header } = parts(made);
  assert.equal(header.counters.generation, 1);
  await importIntoPage(made);
  // the page stamps what it exports, so give it the moment of the last change
  const fromPage = await exportFromPage(header.updated_ms);
  assert.deepEqual(fromPage, made);
  await importNatively(fromPage, "cleo");
  assert.deepEqual(await exportNatively("cleo"), made);
  assert.deepEqual(complaints, []);
});
