/**
 * Weights in a real Chromium: its file system, locks, quota and network, and how they reach the GPU.
 * Needs `./dev web` before. DELTAMEM_CHROMIUM names the browser, by default /usr/bin/chromium.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, readdir, readlink, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { ModelServer, modelFiles, noise, sha256 } from "../../web/test/model-server.mjs";
import { LAUNCH, launchProfile } from "./support.mjs";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { build } = require("esbuild");

const root = fileURLToPath(new URL("../../", import.meta.url));
const PIECE = 8 << 20;
const WEIGHTS = noise(2 * PIECE + 12_345);

const PAGE = `<!doctype html><title>weights</title><link rel="icon" href="data:,"><script>
  const worker = new Worker("worker.js", { type: "module" });
  const pending = new Map();
  let next = 0;
  worker.addEventListener("message", ({ data }) => pending.get(data.id)(data));
  globalThis.call = (name, args) => new Promise((resolve) => {
    pending.set(++next, resolve);
    worker.postMessage({ id: next, name, args });
  });
</script>`;

let server;
/** Another origin, as a model hub is. */
let hub;
let nano;

before(async () => {
  assert.ok(existsSync(LAUNCH.executablePath), `no browser at ${LAUNCH.executablePath}; set DELTAMEM_CHROMIUM`);
  assert.ok(existsSync(join(root, "pkg/dist/deltamem.js")), "run `./dev web` first");
  const { outputFiles } = await build({
    entryPoints: [join(root, "tests/browser/weights-worker.mjs")],
    bundle: true,
    format: "esm",
    target: "es2022",
    write: false,
  });
  server = await new ModelServer().listen();
  hub = await new ModelServer().listen();
  hub.headers = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": "ETag, Content-Range",
  };
  server.add("site", {
    "index.html": Buffer.from(PAGE),
    "worker.js": Buffer.from(outputFiles[0].contents),
    "deltamem.js": await readFile(join(root, "pkg/dist/deltamem.js")),
    "deltamem_bg.wasm": await readFile(join(root, "pkg/dist/deltamem_bg.wasm")),
  });
  nano = {};
  for (const name of await readdir(join(root, "models/nano"))) {
    if (/\.(json|jinja|safetensors)$/.test(name)) {
      nano[name] = await readFile(join(root, "models/nano", name));
    }
  }
});

after(() => {
  server?.close();
  hub?.close();
});

/** Runs the program that `cargo run` builds. */
function run(program, args) {
  const built = process.env.DELTAMEM_BIN;
  const cargo = ["run", "--quiet", "--bin", program, "--", ...args];
  const { status } = spawnSync(built ?? "cargo", built ? args : cargo, { cwd: root, stdio: ["ignore", "ignore", "inherit"] });
  assert.equal(status, 0);
}

/** A browser profile of its own; `job` gets how to start the browser and where it lies. */
async function withProfile(job) {
  const folder = await mkdtemp(join(tmpdir(), "deltamem-weights-"));
  let context;
  try {
    await job(async () => (context = await launchProfile(folder)), folder);
  } finally {
    await context?.close().catch(() => undefined);
    server.rule = () => false;
    hub.rule = () => false;
    server.forget();
    hub.forget();
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

async function newTab(context) {
  const page = await context.newPage();
  await page.goto(`${server.url}site/index.html`);
  const call = async (name, ...args) => {
    const answer = await page.evaluate(([name, args]) => globalThis.call(name, args), [name, args]);
    if (answer.error) throw Object.assign(new Error(answer.error.message), answer.error);
    return answer.value;
  };
  return { page, call, failure: (...args) => call(...args).then(assert.fail, (error) => error) };
}

/** Everything that is open has the server's bytes. */
async function assertSame(tab, files) {
  const hashes = await tab.call("hashes");
  for (const [name, hash] of Object.entries(hashes)) assert.equal(hash, sha256(files[name]), name);
}

async function until(condition) {
  for (let tries = 0; tries < 1000; tries += 1) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.fail("it never came");
}

test("a killed browser goes on inside the file, and needs no server afterwards", async () => {
  const files = modelFiles(WEIGHTS);
  const url = hub.add("killed", files);
  await withProfile(async (start, folder) => {
    const tab = await newTab(await start());
    let isHeld = true;
    hub.rule = ({ path, from }) => isHeld && path.endsWith("safetensors") && from === PIECE;
    void tab.call("open", url).catch(() => undefined);
    const other = await newTab(tab.page.context());
    await until(async () => (await other.call("probe", url)).storedBytes >= WEIGHTS.length - PIECE);
    assert.equal((await other.call("probe", url)).state, "downloading");
    const pid = Number((await readlink(join(folder, "SingletonLock"))).split("-").at(-1));
    process.kill(pid, "SIGKILL");
    await until(() => !existsSync(`/proc/${pid}`));

    isHeld = false;
    hub.forget();
    const again = await newTab(await start());
    assert.equal((await again.call("probe", url)).state, "partial");
    const { notice, progress } = await again.call("open", url);
    assert.equal(notice, null);
    assert.equal(progress[0][0], 0);
    assert.equal(progress.at(-1)[0], progress.at(-1)[1]);
    await assertSame(again, files);
    const ranges = hub.requests.filter(({ path, to }) => path.endsWith("safetensors") && to > 1);
    assert.deepEqual(ranges.map(({ from, to }) => [from, to]), [[PIECE, 2 * PIECE]]);

    // the next visit, without the server
    hub.rule = ({ response }) => response.destroy();
    const offline = await newTab(again.page.context());
    await offline.call("open", url);
    await assertSame(offline, files);
    const [model] = await offline.call("list");
    assert.deepEqual([model.url, model.isComplete], [url, true]);
    assert.deepEqual(await offline.call("verify", url), []);
    assert.equal((await offline.failure("remove", url)).code, "busy");
    await again.call("close");
    await offline.call("close");
    await offline.call("remove", url);
    assert.deepEqual(await offline.call("list"), []);
  });
});

test("wrong bytes are refused and do not block; a server's change is noticed", async () => {
  const files = modelFiles(WEIGHTS);
  const spoilt = Buffer.from(WEIGHTS);
  spoilt[PIECE + 3] ^= 1;
  const url = server.add("wrong", { ...files, "model.safetensors": spoilt });
  const expected = { sha256: { "model.safetensors": sha256(WEIGHTS) } };
  await withProfile(async (start) => {
    const tab = await newTab(await start());
    const error = await tab.failure("open", url, expected);
    assert.deepEqual([error.name, error.code], ["DeltamemError", "integrity"]);
    server.add("wrong", files);
    await tab.call("open", url, expected);
    await assertSame(tab, files);
    const config = Buffer.from('{"model_type":"qwen3"}');
    server.add("wrong", { "config.json": config });
    server.forget();
    await tab.call("open", url);
    await assertSame(tab, { ...files, "config.json": config });
    assert.ok(server.sent("safetensors") < 10);
  });
});

test("two tabs share one download", async () => {
  const files = modelFiles(WEIGHTS);
  const url = server.add("shared", files);
  await withProfile(async (start) => {
    const context = await start();
    const [first, second] = [await newTab(context), await newTab(context)];
    let release;
    const held = new Promise((resolve) => (release = resolve));
    server.rule = async ({ path, from, status, body, response, record }) => {
      if (!path.endsWith("safetensors") || from !== PIECE) return false;
      await held;
      response.writeHead(status, { "content-length": body.length });
      for (let at = 0; at < body.length; at += PIECE / 8) {
        await new Promise((resolve) => setTimeout(resolve, 150));
        record.sent += PIECE / 8;
        response.write(body.subarray(at, at + PIECE / 8));
      }
      response.end();
      return true;
    };
    const opening = [first.call("open", url)];
    await until(() => server.sent("safetensors") > PIECE);
    opening.push(second.call("open", url));
    await until(() => server.requests.filter(({ path }) => path.endsWith("config.json")).length > 2);
    release();
    for (const { notice } of await Promise.all(opening)) assert.equal(notice, null);
    assert.ok(server.sent("safetensors") < WEIGHTS.length + 10, `${server.sent("safetensors")} bytes`);
    // both read it at the same time
    await Promise.all([assertSame(first, files), assertSame(second, files)]);
    const heard = await second.call("progress");
    assert.ok(heard.some(([done, total]) => done > 0 && done < total));
    await Promise.all([first.call("close"), second.call("close")]);
    // also where the one who comes first has the file for itself
    for (const tab of [first, second]) {
      await tab.call("knowOneMode");
      await tab.call("open", url);
    }
    await Promise.all([assertSame(first, files), assertSame(second, files)]);
  });
});

test("where the browser has no room or refuses, the model is in memory, and that is said", async () => {
  const files = modelFiles(WEIGHTS);
  const url = server.add("memory", files);
  await withProfile(async (start) => {
    const tab = await newTab(await start());
    const devtools = await tab.page.context().newCDPSession(tab.page);
    const origin = new URL(server.url).origin;
    await devtools.send("Storage.overrideQuotaForOrigin", { origin, quotaSize: 5_000_000 });
    const full = await tab.call("open", url);
    // Chromium promises 10 GB whatever it gives, so that pages cannot tell browsers apart.
    assert.match(full.notice, /not kept on this device.*17 MB.*storage was full before that/s);
    await assertSame(tab, files);
    await devtools.send("Storage.overrideQuotaForOrigin", { origin });
    await tab.call("refuseStorage");
    const refused = await tab.call("open", url);
    assert.match(refused.notice, /storage is refused here/);
    await assertSame(tab, files);
  });
});

test("weights go to the GPU in pieces, whole or in shards, and a lost device is told", async () => {
  const single = server.add("nano", nano);
  const { "model.safetensors": weights, ...rest } = nano;
  const sharded = server.add("shards", { ...rest, ...shards(weights) });
  await withProfile(async (start) => {
    const tab = await newTab(await start());
    await tab.call("open", single);
    const options = { weights: "f32", kv: "f32", context: 256, name: "nano" };
    const { info } = await tab.call("load", options);
    assert.match(info.identity, /^[0-9a-f]{64}$/);
    assert.equal(await tab.call("readBack"), 0);
    const codes = { throws: "io", nothing: "format", nonsense: "format", tooMany: "format" };
    for (const [read, code] of Object.entries(codes)) {
      const error = await tab.failure("loadBroken", read);
      assert.equal(error.code, code, `${read}: ${error.message}`);
    }
    assert.match((await tab.failure("loadBroken", "throws")).message, /the disk is gone/);
    await tab.call("open", sharded);
    assert.equal((await tab.call("load", options)).info.identity, info.identity);
    const { first, later, lost } = await tab.call("loseDevice");
    assert.ok(["device_lost", "read"].includes(first), first);
    assert.equal(later, "device_lost");
    assert.equal(lost.length, 1);
    // all is well with another device, and who lets go of it is told nothing
    await tab.call("load", options);
    assert.equal(await tab.call("readBack"), 0);
    assert.deepEqual(await tab.call("free"), lost);
  });
});

test("a GGUF file is a model by its address, reckoned from its header before it comes", async () => {
  const folder = await mkdtemp(join(tmpdir(), "deltamem-gguf-"));
  const path = join(folder, "nano-q8_0.gguf");
  run("deltamem", ["convert", "models/nano", path, "--type", "q8_0"]);
  const gguf = await readFile(path);
  await rm(folder, { recursive: true });
  const adapter = Object.fromEntries(Object.entries(nano).filter(([name]) => /^delta/.test(name)));
  hub.add("gguf", { "nano-q8_0.gguf": gguf, ...adapter });
  const url = `${hub.url}gguf/nano-q8_0.gguf`;
  await withProfile(async (start) => {
    const tab = await newTab(await start());
    const absent = await tab.call("probe", url, true);
    assert.equal(absent.state, "absent");
    assert.ok(absent.downloadBytes >= gguf.length);
    assert.ok(hub.sent("gguf") <= 2 ** 20 + 10);
    const { fits, weights, weightBytes, parameters } = absent.reckoned;
    assert.deepEqual([fits, weights, parameters], [true, "GGUF", 1_721_472]);
    // a byte a weight, and a scale of two for 32
    assert.ok(weightBytes > 1.06 * parameters && weightBytes < 1.07 * parameters, `${weightBytes}`);
    const { names } = await tab.call("open", url);
    assert.deepEqual(names.sort(), Object.keys({ "nano-q8_0.gguf": 0, ...adapter }).sort());
    const { info } = await tab.call("load", { context: 256 });
    assert.match(info.identity, /^[0-9a-f]{64}$/);
    assert.equal(await tab.call("readBack"), 0);
    await tab.call("free");
    hub.rule = ({ response }) => response.destroy();
    const offline = await tab.call("probe", url, true);
    assert.deepEqual(offline.reckoned, absent.reckoned);
    assert.equal(offline.state, "complete");
    hub.rule = () => false;
    hub.files.set("gguf/nano-q8_0.gguf", gguf.subarray(0, 5000));
    await tab.call("close");
    await tab.call("remove", url);
    const cut = await tab.failure("probe", url, true);
    assert.equal(cut.code, "format");
  });
});

test("a large model leaves the wasm memory small", async (context) => {
  const files = largeModel();
  const url = server.add("large", files);
  const size = files["model.safetensors"].length;
  assert.ok(size > 100e6);
  await withProfile(async (start) => {
    const tab = await newTab(await start());
    const config = files["config.json"].toString();
    const footprint = await tab.call("inspect", config, { weights: "q8", context: 512 });
    assert.ok(footprint.fits, footprint.reason);
    assert.ok(footprint.weightBytes > size / 2 && footprint.weightBytes < 0.6 * size);
    assert.ok(footprint.largestBufferBytes <= footprint.maxBindingBytes);
    const huge = JSON.stringify({ ...JSON.parse(config), max_position_embeddings: 4_000_000 });
    const refused = await tab.call("inspect", huge, { context: 4_000_000 });
    assert.equal(refused.fits, false);
    assert.match(refused.reason, /one buffer of \d+ MB, this GPU allows \d+ MB/);

    assert.equal((await tab.call("open", url)).notice, null);
    const { grownBytes } = await tab.call("load", { weights: "q8", context: 512 });
    context.diagnostic(`${size} bytes of weights: the wasm memory grew by ${grownBytes}`);
    assert.ok(grownBytes < 40e6, `the wasm memory grew by ${grownBytes} bytes for ${size}`);
  });
});

/** A safetensors file from `name → [dtype, shape, bytes]`. */
function safetensors(tensors) {
  const header = {};
  let at = 0;
  for (const [name, [dtype, shape, bytes]] of tensors) {
    header[name] = { dtype, shape, data_offsets: [at, (at += bytes.length)] };
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...tensors.map(([, [, , bytes]]) => bytes)]);
}

/** The same tensors in two files and an index. */
function shards(weights) {
  const length = Number(weights.readBigUInt64LE());
  const { __metadata__, ...header } = JSON.parse(weights.subarray(8, 8 + length));
  const tensors = Object.entries(header).map(([name, { dtype, shape, data_offsets: [from, to] }]) => [
    name,
    [dtype, shape, weights.subarray(8 + length + from, 8 + length + to)],
  ]);
  const half = tensors.length >> 1;
  const names = [1, 2].map((n) => `model-0000${n}-of-00002.safetensors`);
  const map = Object.fromEntries(tensors.map(([name], i) => [name, names[i < half ? 0 : 1]]));
  return {
    [names[0]]: safetensors(tensors.slice(0, half)),
    [names[1]]: safetensors(tensors.slice(half)),
    "model.safetensors.index.json": Buffer.from(JSON.stringify({ weight_map: map })),
  };
}

/** A model with small random weights and the built-in one's text files, without an adapter. */
function largeModel() {
  const config = { ...JSON.parse(nano["config.json"]), hidden_size: 1024, head_dim: 64 };
  Object.assign(config, { num_attention_heads: 16, num_key_value_heads: 4, vocab_size: 16_384 });
  Object.assign(config, { intermediate_size: 4096, max_position_embeddings: 4096 });
  const [h, ffn, kv] = [1024, 4096, 256];
  const shapes = [["model.embed_tokens.weight", [config.vocab_size, h]]];
  for (let layer = 0; layer < config.num_hidden_layers; layer += 1) {
    for (const [name, ...shape] of [
      ["input_layernorm", h],
      ["self_attn.q_proj", h, h],
      ["self_attn.k_proj", kv, h],
      ["self_attn.v_proj", kv, h],
      ["self_attn.o_proj", h, h],
      ["post_attention_layernorm", h],
      ["mlp.gate_proj", ffn, h],
      ["mlp.up_proj", ffn, h],
      ["mlp.down_proj", h, ffn],
    ]) {
      shapes.push([`model.layers.${layer}.${name}.weight`, shape]);
    }
  }
  shapes.push(["model.norm.weight", [h]]);
  // 0.01 in bfloat16 with random signs and low bits
  const random = noise(1 << 20);
  for (let at = 1; at < random.length; at += 2) random[at] = 0x3c | (random[at] & 0x80);
  const tensors = shapes.map(([name, shape]) => {
    const bytes = Buffer.alloc(2 * shape.reduce((a, b) => a * b));
    for (let at = 0; at < bytes.length; at += random.length) random.copy(bytes, at);
    return [name, ["BF16", shape, bytes]];
  });
  const { "delta_mem_config.json": _, "delta_mem_adapter.safetensors": __, ...texts } = nano;
  return {
    ...texts,
    "config.json": Buffer.from(JSON.stringify(config)),
    "model.safetensors": safetensors(tensors),
  };
}
