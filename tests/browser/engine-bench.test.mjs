/**
 * A page measures the same things as the native program and says so in the same JSON. What the numbers
 * are plays no role here. Needs `./dev web` before.
 */
import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { benchInChromium } from "./engine-bench.mjs";
import { ROOT, program } from "./support.mjs";

const FOLDER = join(ROOT, "tests/noise");

test("a page and the program report the same", async () => {
  const names = (await readdir(FOLDER)).filter((name) => /\.(json|jinja|safetensors)$/.test(name));
  const modes = ["off", "tsw"];
  const report = await benchInChromium(FOLDER, names, {
    prefill: [8, 64],
    contexts: [8],
    decodeTokens: 2,
    runs: 1,
    delta: modes,
  });
  const home = await mkdtemp(join(tmpdir(), "deltamem-bench-"));
  let native;
  try {
    const options = ["--prefill", "8,64", "--contexts", "8", "--decode", "2", "--runs", "1"];
    const more = ["--delta", modes.join(","), "--json", "--model", FOLDER];
    native = JSON.parse(program(home, "bench", ...options, ...more));
  } finally {
    await rm(home, { recursive: true });
  }
  assert.deepEqual(Object.keys(report), Object.keys(native));
  for (const list of ["prefill", "decode"]) {
    const which = (entries) =>
      entries.map(({ tokens, context, delta }) => `${tokens ?? context} ${delta}`);
    assert.deepEqual(which(report[list]), which(native[list]));
    for (const [index, entry] of report[list].entries()) {
      assert.deepEqual(Object.keys(entry), Object.keys(native[list][index]));
      assert.ok(entry.tok_s > 0 && entry.fraction_of_limit > 0, JSON.stringify(entry));
    }
  }
  for (const part of ["per_token", "memory_bytes", "limits", "first_token", "tier"]) {
    assert.deepEqual(Object.keys(report[part]), Object.keys(native[part]), part);
  }
  assert.ok(report.adapter.length > 0 && report.limits.read_bytes_per_second > 0);
  assert.ok(report.per_token.dispatches > 10);
  assert.equal(report.per_token.bind_groups_created, 0);
});

test("a peer in the page runs in the same rounds", async () => {
  const names = (await readdir(FOLDER)).filter((name) => /\.(json|jinja|safetensors)$/.test(name));
  const options = { prefill: [8], contexts: [8], decodeTokens: 2, runs: 2, delta: ["off"] };
  const run = (seconds) => {
    const peer = { module: "/pages/clock-peer.mjs", seconds };
    return benchInChromium(FOLDER, names, options, undefined, { peer });
  };
  // two prompts and two tokens warm up; then two rounds of a prompt and of two tokens
  const { peers, prefill } = await run([1, 1, 1, 1, 2, 4, 0.5, 0.25]);
  assert.equal(peers.length, 1);
  const [{ name, prefill: [theirs], decode: [decoded] }] = peers;
  assert.equal(name, "clock");
  assert.deepEqual([theirs.tokens, theirs.tok_s, theirs.rounds], [8, 3, 2]);
  assert.deepEqual([decoded.context, decoded.tok_s], [8, 6]);
  assert.equal(prefill[0].rounds, 2);
  assert.ok(theirs.ratios[0].delta === "off" && theirs.ratios[0].ratio > 0);
  await assert.rejects(run([1, 1, 1]), /\(peer\): clock: decode: the clock stopped/);
});
