// The wasm build in a real Chromium: loads the nano model, talks, moves its memory out and in, and
// compares tokens and memory file with the native program. Needs `./dev web`, cargo, and Chromium
// (/usr/bin/chromium, or what the variable DELTAMEM_CHROMIUM names).
//
//   npm ci --prefix web && node tests/browser/smoke.mjs

import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MODEL_FILES, ROOT, launchChromium, openPage, program, serve } from './support.mjs';

const PROMPT = 'Remember that the red key opens the north door.';
const N_TOKENS = 24;
// A fixed moment, so that two exports of one memory are the same bytes.
const NOW_MS = 1_800_000_000_000;

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
  const said = (text) => JSON.stringify([{ role: 'user', content: text }]);
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
  model.setWritePaused(false);

  // a whole history, of which only the question is new
  const history = JSON.stringify([...messages, { role: 'user', content: 'And then?' }]);
  const recognised = JSON.parse(
    await model.turnFrom(history, JSON.stringify({ temperature: 0, maxTokens: 4, gauges: true }), () => true),
  );

  // away and back: the reply is the one that would have come anyway
  const parked = await model.park();
  const short = JSON.stringify({ temperature: 0, maxTokens: 4 });
  const stayed = JSON.parse(await model.turn(said('Which one?'), short, () => true));
  const statesThen = await model.memoryStates();
  await model.adopt(parked);
  const returned = JSON.parse(await model.turn(said('Which one?'), short, () => true));
  const isSameBranch = same(await model.memoryStates(), statesThen);

  // a text for the memory alone
  const usageBefore = model.contextUsage();
  const written = JSON.parse(await model.write('The key is under the mat.'));
  const isContextKept = model.contextUsage() === usageBefore;
  await model.newContext();

  // replies that must match, and what no reply can match
  const replyTo = async (constraint, temperature) => {
    await model.newContext();
    const options = { constraint, temperature, seed: 3, maxTokens: 100 };
    return JSON.parse(await model.turn(said('Answer.'), JSON.stringify(options), () => true));
  };
  const schema = {
    type: 'object',
    properties: { colour: { enum: ['red', 'grün'] }, ok: { type: 'boolean' } },
    required: ['colour', 'ok'],
    additionalProperties: false,
  };
  const constrained = [];
  for (const temperature of [0, 1]) {
    constrained.push(await replyTo({ kind: 'json_schema', schema }, temperature));
  }
  const date = await replyTo({ kind: 'regex', pattern: '^20[0-9]{2}-[01][0-9]$' }, 1);
  const badPattern = await failure(() => replyTo({ kind: 'regex', pattern: '(' }, 0));

  // given up while the prompt is read: as if never asked
  await model.newContext();
  const canceller = model.canceller();
  const statesBefore = await model.memoryStates();
  const long = model.turn(said('and so on '.repeat(100)), greedy, () => true);
  setTimeout(() => canceller.cancel());
  const givenUp = await failure(() => long);
  const isAsBefore = same(await model.memoryStates(), statesBefore) && model.contextUsage() === 0;
  canceller.free();

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
    recognised, stayed, returned, isSameBranch, written, isContextKept, constrained, date, badPattern,
    givenUp, isAsBefore,
    exported: Array.from(exported),
  };
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

  assert.equal(result.recognised.prefixTokens, result.resumed.fullTokens);
  assert.ok(result.recognised.promptTokens > result.recognised.prefixTokens);
  assert.equal(result.recognised.gauges.length, memory.layers.length);
  for (const { beta, outputRatio } of result.recognised.gauges) {
    assert.ok(beta > 0 && beta < 1 && outputRatio > 0, JSON.stringify(result.recognised.gauges));
  }
  assert.deepEqual(result.returned.generatedIds, result.stayed.generatedIds);
  assert.ok(result.isSameBranch, 'a conversation that was parked went on differently');
  assert.ok(result.written.tokensWritten > 0 && result.isContextKept);
  for (const { answer, stopReason } of result.constrained) {
    const { colour, ok } = JSON.parse(answer);
    assert.ok(['red', 'grün'].includes(colour) && typeof ok === 'boolean', answer);
    assert.equal(stopReason, 'end_of_sequence');
  }
  assert.match(result.date.answer, /^20[0-9]{2}-[01][0-9]$/);
  assert.equal(result.badPattern?.code, 'constraint');
  assert.equal(result.givenUp?.code, 'cancelled');
  assert.ok(result.isAsBefore, 'a turn that was given up left something behind');
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
  const folder = await mkdtemp(join(tmpdir(), 'deltamem-smoke-'));
  const deltamem = (...args) => JSON.parse(program(folder, ...args));
  try {
    const native = deltamem(
      'generate', PROMPT, '--json', '--weights', 'f32', '--kv', 'f32', '--context', '512',
      '--temperature', '0', '--max-tokens', String(N_TOKENS),
    );
    assert.deepEqual(result.turn.generatedIds, native.generated_ids, 'other tokens than natively');
    // sums in another order on another adapter: single precision, a hundred writes
    const [after, nativeAfter] = [result.turn.memoryNorms[1], native.memory_norms.after];
    assert.ok(Math.abs(after - nativeAfter) <= 1e-3 * nativeAfter, `${after} and ${nativeAfter}`);

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

const site = await serve({ dist: join(ROOT, 'pkg/dist'), nano: join(ROOT, 'models/nano') });
const browser = await launchChromium();
try {
  const complaints = [];
  const page = await openPage(browser, site.address, complaints);
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
  site.close();
}
