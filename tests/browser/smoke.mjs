// The wasm build in a real Chromium: loads the nano model, talks, moves its memory out and in, and
// compares tokens and memory file with the native program. Needs `./dev web`, cargo, and Chromium
// (/usr/bin/chromium, or what the variable DELTAMEM_CHROMIUM names).
//
//   npm ci --prefix web && node tests/browser/smoke.mjs

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRequire } from 'node:module';

// the one development environment for JavaScript is web/
const { chromium } = createRequire(new URL('../../web/package.json', import.meta.url))('playwright-core');

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const PROMPT = 'Remember that the red key opens the north door.';
const N_TOKENS = 24;
// A fixed moment, so that two exports of one memory are the same bytes.
const NOW_MS = 1_800_000_000_000;

const FOLDERS = { dist: join(ROOT, 'pkg/dist'), nano: join(ROOT, 'models/nano') };
const TYPES = { '.js': 'text/javascript', '.wasm': 'application/wasm', '.json': 'application/json' };
const MODEL_FILES = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'chat_template.jinja',
  'model.safetensors',
  'delta_mem_config.json',
  'delta_mem_adapter.safetensors',
];

/** Serves an empty page and the files directly in FOLDERS. */
async function serve() {
  const server = createServer(async (request, response) => {
    if (request.url === '/') {
      response.setHeader('content-type', 'text/html');
      response.end('<!doctype html><title>smoke</title><link rel="icon" href="data:,">');
      return;
    }
    const [, folder, name] = /^\/(dist|nano)\/([\w.-]+)$/.exec(request.url) ?? [];
    try {
      const bytes = await readFile(join(FOLDERS[folder], name));
      response.setHeader('content-type', TYPES[extname(name)] ?? 'application/octet-stream');
      response.end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
}

/** Runs in the page. Everything it returns is plain JSON. */
async function talk({ modelFiles, prompt, nTokens, nowMs }) {
  const { default: init, WebModel } = await import('/dist/deltamem.js');
  const seconds = async (action) => {
    const begin = performance.now();
    const value = await action();
    return [value, (performance.now() - begin) / 1000];
  };
  const failure = async (action) => {
    try {
      await action();
    } catch (error) {
      const { name, code, message } = error;
      return { name, code, message, isError: error instanceof Error };
    }
    return null;
  };
  const said = (content) => JSON.stringify([{ role: 'user', content }]);
  const same = (a, b) => a.length === b.length && a.every((value, index) => value === b[index]);

  const [, initSeconds] = await seconds(() => init());
  const files = new Map();
  for (const name of modelFiles) {
    const response = await fetch(`/nano/${name}`);
    files.set(name, new Uint8Array(await response.arrayBuffer()));
  }
  const progress = [];
  const exact = JSON.stringify({ name: 'nano', weights: 'f32', kv: 'f32', context: 512 });
  const [model, loadSeconds] = await seconds(() =>
    WebModel.load(files, exact, (done, total) => progress.push([done, total])),
  );
  const greedy = JSON.stringify({ temperature: 0, maxTokens: nTokens });
  const memoryInfo = async () => JSON.parse(await model.memoryInfo(nowMs));

  let pieces = '';
  const emptyMemory = await memoryInfo();
  const turn = JSON.parse(
    await model.turn(said(prompt), greedy, (kind, text) => {
      if (kind === 'answer') pieces += text;
      return true;
    }),
  );
  const info = JSON.parse(model.info());
  const memory = await memoryInfo();
  const messages = JSON.parse(model.messages());
  const context = { usage: model.contextUsage(), window: model.contextWindow() };
  const measured = model.measure('red key');

  // out, away, and in again
  const exported = await model.exportMemory(nowMs);
  const states = await model.memoryStates();
  await model.forget();
  const forgotten = await memoryInfo();
  const forgottenStates = await model.memoryStates();
  const damaged = exported.slice();
  damaged[damaged.length - 40] ^= 1;
  const damagedImport = await failure(() => model.importMemory(damaged));
  const isUntouched = same(await model.memoryStates(), forgottenStates);
  await model.importMemory(exported);
  const isSameMemory = same(await model.memoryStates(), states);
  const isSameFile = same(await model.exportMemory(nowMs), exported);

  // a second turn, its ends, and taking it back
  const usage = model.contextUsage();
  const running = model.turn(said('Go on.'), greedy, () => false);
  const overlapping = await failure(() => model.turn(said('Me too.'), greedy, () => true));
  const cancelled = JSON.parse(await running);
  const wasUndone = await model.undoTurn();
  const isUsageRestored = model.contextUsage() === usage;
  const isMemoryRestored = same(await model.memoryStates(), states);
  const thrown = await failure(() =>
    model.turn(said('Go on.'), greedy, () => {
      throw new TypeError('from the callback');
    }),
  );
  model.setWritePaused(true);
  await model.newContext();
  const resumed = JSON.parse(await model.resume(JSON.stringify(messages)));
  await model.newContext();

  const failures = {
    emptyMessage: await failure(() => model.turn(said(' '), greedy, () => true)),
    unknownOption: await failure(() => model.turn(said('Hi'), '{"tempreature":0}', () => true)),
    noFiles: await failure(() => WebModel.load(new Map(), '{}', () => {})),
    wrongFiles: await failure(() => WebModel.load({ 'config.json': 'text' }, '{}', () => {})),
    badWeights: await failure(() => WebModel.load(files, '{"weights":"q5"}', () => {})),
  };
  const truncated = new Map(files);
  truncated.set('model.safetensors', files.get('model.safetensors').slice(0, 100_000));
  failures.truncatedModel = await failure(() => WebModel.load(truncated, '{}', () => {}));
  model.free();
  // as on a page that may not use WebGPU
  Object.defineProperty(navigator, 'gpu', { value: undefined, configurable: true });
  failures.noWebGpu = await failure(() => WebModel.load(files, '{}', () => {}));
  delete navigator.gpu;

  // every other way through the shaders that this model has
  const variants = [];
  const sampled = { temperature: 0.8, topK: 40, repetitionPenalty: 1.1, seed: 7, maxTokens: 4 };
  for (const [options, writeGranularity, baseTier] of [
    [{ weights: 'f16', kv: 'f16' }, 'token', false],
    [{ weights: 'q8', kv: 'f16' }, 'message_mean', false],
    [{ weights: 'q4', kv: 'f32' }, 'sentence_mean', false],
    [{ weights: 'f32', kv: 'f32' }, 'token', true],
  ]) {
    const changed = new Map(files);
    const config = JSON.parse(new TextDecoder().decode(files.get('delta_mem_config.json')));
    config.memory_write_granularity = writeGranularity;
    changed.set('delta_mem_config.json', new TextEncoder().encode(JSON.stringify(config)));
    const wanted = JSON.stringify({ ...options, baseTier, context: 512, date: '2026-11-20' });
    const other = await WebModel.load(changed, wanted, () => {});
    const [text, turnSeconds] = await seconds(() =>
      other.turn(said(prompt), JSON.stringify(sampled), () => true),
    );
    variants.push({
      ...options,
      writeGranularity,
      turnSeconds,
      turn: JSON.parse(text),
      norm: JSON.parse(await other.memoryInfo(nowMs)).norm,
      foreignMemory: await failure(() => other.importMemory(exported)),
    });
    other.free();
  }

  return {
    initSeconds, loadSeconds, progress, info, emptyMemory, turn, pieces, memory, messages, context,
    measured, forgotten, damagedImport, isUntouched, isSameMemory, isSameFile, overlapping, cancelled,
    wasUndone, isUsageRestored, isMemoryRestored, thrown, resumed, failures, variants,
    exported: Array.from(exported),
  };
}

function deltamem(...args) {
  const output = execFileSync('cargo', ['run', '--quiet', '--bin', 'deltamem', '--', ...args], {
    cwd: ROOT,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return JSON.parse(output);
}

function check(result) {
  const { turn, memory, failures } = result;
  assert.equal(result.info.name, 'nano');
  assert.equal(result.info.weights, 'f32');
  assert.ok(result.info.adapter.length > 0 && result.info.notice.length > 0);
  assert.match(result.info.identity, /^[0-9a-f]{64}$/);
  const [done, total] = result.progress.at(-1);
  assert.ok(done === total && total > 100_000, `progress ended at ${done} of ${total}`);

  assert.equal(result.pieces, turn.answer);
  assert.equal(turn.generatedTokens, turn.generatedIds.length);
  assert.ok(turn.generatedTokens > 0);
  assert.deepEqual(result.messages.map((message) => message.role), ['user', 'assistant']);
  assert.equal(result.context.usage, (turn.closing ?? turn.prompt).fullTokens);
  assert.equal(result.context.window, 512);
  assert.ok(result.measured >= 2);

  assert.equal(result.emptyMemory.norm, 0);
  assert.ok(memory.norm > 0 && Number.isFinite(memory.norm));
  assert.equal(memory.counters.turns, 1);
  assert.equal(memory.counters.tokensWritten, result.context.usage);
  assert.equal(result.forgotten.norm, 0);
  assert.equal(result.damagedImport?.code, 'format');
  assert.ok(result.isUntouched, 'a refused import changed the memory');
  assert.ok(result.isSameMemory, 'an imported memory differs from the exported one');
  assert.ok(result.isSameFile, 'exporting an imported memory gives other bytes');

  assert.match(result.overlapping?.message ?? '', /recursive use/);
  assert.equal(result.cancelled.stopReason, 'cancelled');
  assert.ok(result.wasUndone && result.isUsageRestored && result.isMemoryRestored);
  assert.deepEqual([result.thrown?.name, result.thrown?.code], ['TypeError', undefined]);
  assert.ok(result.resumed.suffixTokens > 0);
  for (const [name, code] of [
    ['emptyMessage', 'messages'],
    ['unknownOption', 'setting'],
    ['noFiles', 'setting'],
    ['wrongFiles', 'setting'],
    ['badWeights', 'setting'],
    ['truncatedModel', 'format'],
    ['noWebGpu', 'no_adapter'],
  ]) {
    const failure = failures[name];
    assert.equal(failure?.code, code, `${name}: ${JSON.stringify(failure)}`);
    assert.equal(failure.name, 'DeltamemError');
    assert.ok(failure.isError && failure.message.length > 0);
  }
  for (const variant of result.variants) {
    const what = JSON.stringify(variant);
    assert.ok(variant.norm > 0 && Number.isFinite(variant.norm), what);
    assert.ok(variant.turn.generatedTokens > 0, what);
    // the last variant is the first one on the base tier: its memory is the same one's
    const fits = variant.weights === 'f32' && variant.writeGranularity === 'token';
    assert.equal(variant.foreignMemory?.code, fits ? undefined : 'memory_mismatch', what);
  }
}

async function compareWithNative(result) {
  const native = deltamem(
    'generate', PROMPT, '--json', '--weights', 'f32', '--kv', 'f32', '--context', '512',
    '--temperature', '0', '--max-tokens', String(N_TOKENS),
  );
  assert.deepEqual(result.turn.generatedIds, native.generated_ids, 'other tokens than natively');
  // sums in another order on another adapter: single precision, a hundred writes
  const [after, nativeAfter] = [result.turn.memoryNorms[1], native.memory_norms.after];
  assert.ok(Math.abs(after - nativeAfter) <= 1e-3 * nativeAfter, `${after} and ${nativeAfter}`);

  const folder = await mkdtemp(join(tmpdir(), 'deltamem-smoke-'));
  try {
    const file = join(folder, 'browser.dmem');
    await writeFile(file, Uint8Array.from(result.exported));
    const shown = deltamem('memory', 'show', file, '--json');
    // everything that binds a memory to a model is the same on both sides
    const binding = ['backbone', 'backbone_fingerprint', 'weights', 'adapter_hash', 'write_mode', 'layers'];
    for (const key of binding) {
      assert.ok(native.memory[key] !== undefined, key);
      assert.deepEqual(shown[key], native.memory[key], key);
    }
    assert.deepEqual(shown.counters, native.memory.counters);
    assert.equal(shown.created_ms, NOW_MS);
  } finally {
    await rm(folder, { recursive: true });
  }
}

const server = await serve();
const browser = await chromium.launch({
  executablePath: process.env.DELTAMEM_CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--no-sandbox',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--enable-unsafe-webgpu',
    '--use-webgpu-adapter=swiftshader',
  ],
});
try {
  const page = await browser.newPage();
  const complaints = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(String(error)));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  let result;
  try {
    result = await page.evaluate(talk, {
      modelFiles: MODEL_FILES, prompt: PROMPT, nTokens: N_TOKENS, nowMs: NOW_MS,
    });
  } finally {
    for (const complaint of complaints) console.log('page:', complaint);
  }
  const { turn, info } = result;
  console.log(`adapter "${info.adapter}", tier ${JSON.stringify(info.tier)}`);
  console.log(`wasm ready ${result.initSeconds.toFixed(2)} s, model ${result.loadSeconds.toFixed(2)} s`);
  console.log(
    `prompt ${turn.promptTokens} tokens ${turn.promptSeconds.toFixed(2)} s, ` +
      `${turn.generatedTokens} tokens ${turn.decodeSeconds.toFixed(2)} s ` +
      `(${(turn.generatedTokens / turn.decodeSeconds).toFixed(2)} tok/s)`,
  );
  for (const { weights, kv, writeGranularity, turnSeconds } of result.variants) {
    console.log(`${weights}/${kv}/${writeGranularity}: 4 tokens ${turnSeconds.toFixed(2)} s`);
  }
  check(result);
  assert.deepEqual(complaints, [], 'the page complained');
  await compareWithNative(result);
  console.log('smoke: passed');
} finally {
  await browser.close();
  server.close();
}
