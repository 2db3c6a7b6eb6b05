/**
 * The page's numbers in BENCHMARKS.md, as JSON on standard output: sizes of what is downloaded, time
 * to the first token on a first and on a second visit, decoding, and what committing a turn's memory
 * takes. Built-in model; Chromium on SwiftShader, which emulates a GPU. Needs `./dev web` before.
 *
 *   node tests/browser/bench.mjs
 */
import { execFileSync } from "node:child_process";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT, launchProfile, openPage, serve } from "./support.mjs";

const N_VISITS = 5;
const N_COMMITS = 50;
const N_REPLIES = 20;

/** Bytes of what a page loads, as they are and compressed. */
async function sizes() {
  const folder = join(ROOT, "pkg/dist");
  const names = (await readdir(folder)).filter((name) => /\.(js|wasm)$/.test(name));
  const entries = names.sort().map(async (name) => {
    const file = join(folder, name);
    // the same tool as in scripts/build-wasm: others compress a little differently
    const gzip = execFileSync("gzip", ["-9", "-c", file], { maxBuffer: 64 << 20 }).length;
    return [name, { bytes: (await stat(file)).size, gzip }];
  });
  return Object.fromEntries(await Promise.all(entries));
}

/** Runs in the page: from the navigation to the first token, in milliseconds. */
async function visit() {
  const { LanguageModel } = await import("/dist/index.js");
  const imported = performance.now();
  const progress = { filesMs: 0 };
  window.session = await LanguageModel.create({
    model: "/nano/",
    workerUrl: "/pages/timed-worker.mjs",
    weights: "f16",
    contextTokens: 1024,
    monitor: (monitor) =>
      monitor.addEventListener("downloadprogress", (event) => {
        if (event.loaded === 1) progress.filesMs = performance.now() - imported;
      }),
  });
  const created = performance.now();
  const reader = window.session.promptStreaming("Hello.", { temperature: 0, maxTokens: 8 }).getReader();
  await reader.read();
  const first = performance.now();
  while (!(await reader.read()).done);
  return {
    createMs: created - imported,
    filesMs: progress.filesMs,
    firstTokenAfterCreateMs: first - created,
    firstTokenMs: first,
    adapter: window.session.model.adapter,
  };
}

/** Runs in the page: what each of `n` short turns stored, and how long that took. */
async function commit(n) {
  const { session } = window;
  const channel = new BroadcastChannel("commits");
  let told = [];
  channel.onmessage = ({ data }) => told.push(data);
  const commits = [];
  const bytes = [];
  for (let turn = 0; turn < n; turn += 1) {
    // an emptied context, so that only the memory grows older
    if (turn % 10 === 0) await session.newContext();
    told = [];
    await session.prompt(`This is turn ${turn}.`, { temperature: 0, maxTokens: 2 });
    bytes.push((await session.memory.info()).lastCommitBytes);
    // a channel has no order with the worker's own messages
    for (let wait = 0; told.length === 0 && wait < 100; wait += 1) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    // the last writing transaction of a turn is its commit
    if (told.length > 0) commits.push(told.at(-1));
  }
  return { commits, bytes };
}

/** Runs in the page: tokens a second of `n` replies in an empty context, after the first token of each. */
async function decode(n) {
  const { session } = window;
  let [tokens, seconds] = [0, 0];
  session.addEventListener("turn", ({ detail }) => {
    tokens += detail.generatedTokens - 1;
    seconds += detail.decodeSeconds;
  });
  for (let reply = 0; reply < n; reply += 1) {
    await session.newContext();
    await session.prompt("My name is Ada, I live in Lisbon and I play the piano.", { seed: reply });
  }
  return tokens / seconds;
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const medians = (records) =>
  Object.fromEntries(
    Object.keys(records[0]).map((key) => {
      const values = records.map((record) => record[key]);
      return [key, typeof values[0] === "number" ? Math.round(median(values)) : values[0]];
    }),
  );

const server = await serve(
  {
    dist: join(ROOT, "pkg/dist"),
    nano: join(ROOT, "models/nano"),
    pages: join(ROOT, "tests/browser/pages"),
  },
  // as a static host does: only then the browser keeps the compiled module
  { "cache-control": "max-age=3600" },
);
try {
  const cold = [];
  const warm = [];
  let rest;
  let version;
  for (let round = 0; round < N_VISITS; round += 1) {
    const profile = await mkdtemp(join(tmpdir(), "deltamem-bench-"));
    try {
      for (const visits of [cold, warm]) {
        const context = await launchProfile(profile);
        try {
          version = context.browser()?.version() ?? "";
          const page = await openPage(context, server.address);
          visits.push(await page.evaluate(visit));
          if (visits === warm && round === N_VISITS - 1) {
            const { commits, bytes } = await page.evaluate(commit, N_COMMITS);
            const rate = await page.evaluate(decode, N_REPLIES);
            rest = {
              commits: commits.length,
              commitMs: Number(median(commits.map(({ ms }) => ms)).toFixed(2)),
              commitDurability: commits[0]?.durability,
              storedBytesPerTurn: median(bytes),
              decodeTokensPerSecond: Number(rate.toFixed(1)),
            };
          }
        } finally {
          await context.close();
        }
      }
    } finally {
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    }
  }
  const result = {
    date: new Date().toISOString().slice(0, 10),
    browser: `Chromium ${version}`,
    cores: cpus().length,
    sizes: await sizes(),
    cold: medians(cold),
    warm: medians(warm),
    ...rest,
  };
  console.log(JSON.stringify(result, null, 2));
} finally {
  server.close();
}
