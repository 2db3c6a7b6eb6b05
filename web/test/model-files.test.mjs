import assert from "node:assert/strict";
import test from "node:test";
import { modelFiles, noise, send, sha256 } from "./model-server.mjs";
import {
  PIECE,
  WEIGHTS,
  bytesOf,
  disk,
  failure,
  freshDisk,
  open,
  openAndCompare,
  probeModel,
  server,
  store,
  until,
} from "./weights-harness.mjs";

test("a model is fetched once, named by its content and read from the disk afterwards", async () => {
  const url = server.add("once", {
    ...modelFiles(WEIGHTS),
    "chat_template.jinja": Buffer.from("{{ messages }}"),
    "delta_mem_config.json": Buffer.from("{}"),
    "delta_mem_adapter.pt": noise(1000),
  });
  const told = [];
  const opened = await open(url, { told });
  assert.equal(opened.notice, null);
  assert.ok(opened.files.get("config.json") instanceof Uint8Array);
  assert.equal(opened.files.get("model.safetensors").size, WEIGHTS.length);
  assert.ok(bytesOf(opened.files.get("model.safetensors")).equals(WEIGHTS));
  opened.close();
  const [first, last] = [told[0], told.at(-1)];
  assert.equal(first[0], 0);
  assert.equal(last[0], last[1]);
  assert.ok(last[1] > WEIGHTS.length);
  assert.ok(told.every(([done], i) => i === 0 || done >= told[i - 1][0]), "it never goes back");
  assert.ok(disk.folder("blobs").has(sha256(WEIGHTS)));
  assert.equal(disk.folder("parts").size, 0);

  server.forget();
  assert.equal((await openAndCompare(url)).length, 6);
  assert.ok(server.sent() < 10, "only the question whether it is still the newest");
  const [model] = await (await store()).list();
  assert.deepEqual([model.url, model.name, model.isComplete], [url, "once", true]);
  assert.equal(model.files.find(({ name }) => name === "model.safetensors").bytes, WEIGHTS.length);
});

test("a complete model starts without the network, and a pinned one does not even ask", async () => {
  const url = server.add("offline", modelFiles(noise(1000)));
  const pinned = server.add(`pinned/resolve/${"a1".repeat(20)}`, modelFiles(noise(1000)));
  await openAndCompare(url);
  await openAndCompare(pinned);
  server.forget();
  await openAndCompare(pinned);
  assert.equal(server.requests.length, 0);
  server.rule = ({ response }) => response.destroy();
  await openAndCompare(url);
  server.rule = ({ response }) => response.writeHead(503).end();
  await openAndCompare(url);
  assert.equal((await (await store()).list())[1].name, "pinned");
});

test("what changed on the server comes anew, and only that", async () => {
  const url = server.add("changed", modelFiles(WEIGHTS));
  await openAndCompare(url);
  server.files.set("changed/config.json", Buffer.from('{"model_type":"qwen3"}'));
  server.forget();
  await openAndCompare(url);
  assert.ok(server.sent("safetensors") < 10);
  assert.equal(disk.folder("blobs").size, 3, "the old file is gone");
});

test("a part of another version is not gone on with", async () => {
  const url = server.add("replaced", modelFiles(WEIGHTS));
  const controller = new AbortController();
  server.rule = ({ path, from }) => path.endsWith("safetensors") && from === PIECE;
  const killed = failure(open(url, { signal: controller.signal }));
  await until(() => server.sent("safetensors") > PIECE);
  controller.abort();
  await killed;
  server.rule = () => false;
  server.files.set("replaced/model.safetensors", noise(WEIGHTS.length, 7));
  await openAndCompare(url);
});

test("a file that changes while it comes begins again", async () => {
  const url = server.add("moving", modelFiles(WEIGHTS));
  let isChanged = false;
  server.rule = ({ path, from, to }) => {
    if (path.endsWith("safetensors") && to > 1 && from >= PIECE && !isChanged) {
      isChanged = true;
      server.files.set(path, noise(WEIGHTS.length, 9));
      server.etags.set(path, '"another"');
      return false; // still the old bytes, under the old name
    }
    return false;
  };
  const told = [];
  await openAndCompare(url, { told });
  assert.ok(isChanged);
  assert.ok(told.every(([done, total]) => done <= total));
});

test("broken connections, busy servers and waits that are asked for", async () => {
  const url = server.add("flaky", modelFiles(WEIGHTS));
  const times = [];
  let n = 0;
  server.rule = ({ path, to, body, status, response, record }) => {
    if (!path.endsWith("safetensors") || to <= 1) return false;
    n += 1;
    if (n === 1) {
      response.writeHead(429, { "retry-after": "1" }).end();
      times.push(Date.now());
      return true;
    }
    if (n === 2) return void response.writeHead(503).end() ?? true;
    if (n % 2 === 1 && n < 12) {
      // truncated in the middle of what was announced
      response.writeHead(status, { "content-length": body.length });
      record.sent += 100_000;
      response.write(body.subarray(0, 100_000), () => response.destroy());
      return true;
    }
    times.push(Date.now());
    return false;
  };
  const began = Date.now();
  await openAndCompare(url);
  assert.ok(Date.now() - began >= 1000, "Retry-After was heard");
  assert.ok(server.sent("safetensors") < WEIGHTS.length + 200_000, "it goes on where it broke off");
});

test("a server that keeps failing is named, with its status", async () => {
  const url = server.add("broken", modelFiles(WEIGHTS));
  server.rule = ({ path, response }) =>
    path.endsWith("safetensors") && (response.writeHead(503).end(), true);
  const error = await failure(open(url));
  assert.equal(error.code, "network");
  assert.equal(error.status, 503);
  assert.equal(error.url, `${url}model.safetensors`);
  server.rule = ({ path, response }) =>
    path.endsWith("tokenizer.json") && (response.writeHead(403).end(), true);
  assert.match((await failure(open(url))).message, /tokenizer\.json answered 403/);
  // a bucket that does not list says so of what is not there
  server.rule = ({ path, response }) =>
    !server.files.has(path) && (response.writeHead(403).end(), true);
  assert.equal((await openAndCompare(url)).length, 3);
  freshDisk();
  server.rule = () => false;
  server.files.delete("broken/config.json");
  assert.match((await failure(open(url))).message, /config\.json answered 404/);
  server.add("broken", modelFiles(WEIGHTS));
  server.files.delete("broken/model.safetensors");
  assert.match((await failure(open(url))).message, /has neither model\.safetensors nor/);
  const nobody = await failure(open("http://localhost:1/"));
  assert.equal(nobody.code, "network");
  assert.equal(nobody.status, null);
});

test("wrong bytes are refused, deleted, and do not block the next attempt", async () => {
  const url = server.add("wrong", modelFiles(WEIGHTS));
  const right = { "model.safetensors": sha256(WEIGHTS) };
  const spoilt = Buffer.from(WEIGHTS);
  spoilt[PIECE + 5] ^= 1;
  server.files.set("wrong/model.safetensors", spoilt);
  for (const store of ["opfs", "none"]) {
    const error = await failure(open(url, { sha256: right, store }));
    assert.equal(error.code, "integrity");
    assert.match(error.message, new RegExp(right["model.safetensors"]));
  }
  assert.equal(disk.folder("parts").size, 0);
  assert.ok(![...disk.folder("blobs").keys()].includes(sha256(spoilt)));
  server.files.set("wrong/model.safetensors", WEIGHTS);
  await openAndCompare(url, { sha256: right });
  // a stored copy that is not what the caller expects is not used either
  const other = { "model.safetensors": sha256(spoilt) };
  assert.equal((await failure(open(url, { sha256: other }))).code, "integrity");
});

test("the hash that a hub promises is checked", async () => {
  const url = server.add("hub", modelFiles(noise(1000)));
  const digest = sha256(noise(1000));
  server.etags.set("hub/model.safetensors", `"${digest}"`);
  await openAndCompare(url);
  const other = server.add("liar", modelFiles(noise(1000)));
  server.etags.set("liar/model.safetensors", `"${"0".repeat(64)}"`);
  assert.equal((await failure(open(other))).code, "integrity");
});

test("servers without ranges, without lengths, without names for versions, with redirects", async () => {
  const url = server.add("plain", modelFiles(noise(300_000)));
  server.hasRanges = false;
  await openAndCompare(url);
  assert.equal((await (await store()).list())[0].isComplete, true);

  server.hasEtags = false;
  const unnamed = server.add("unnamed", modelFiles(noise(200_000)));
  server.rule = ({ response, body, record }) => {
    if (!body) return false;
    response.writeHead(200); // chunked: no length
    return send(response, body, record).then(() => true);
  };
  const told = [];
  await openAndCompare(unnamed, { told });
  assert.deepEqual(told.at(-1)[0], told.at(-1)[1]);

  Object.assign(server, { hasRanges: true, hasEtags: true });
  const real = server.add("real", modelFiles(WEIGHTS));
  server.add("moved", modelFiles(WEIGHTS));
  server.rule = ({ path, response }) => {
    if (!path.startsWith("moved/")) return false;
    response.writeHead(302, { location: `${real}${path.slice("moved/".length)}` }).end();
    return true;
  };
  await openAndCompare(`${server.url}moved/`);
});

test("a host that hides where a part lies from other origins is resumed all the same", async () => {
  const url = server.add("hidden", modelFiles(WEIGHTS));
  server.hasEtags = false;
  server.headers = { "last-modified": "Fri, 01 May 2026 10:00:00 GMT" };
  let isBroken = true;
  server.rule = ({ path, to, request, response, body, status, record }) => {
    response.removeHeader("content-range");
    const isPart = path.endsWith("safetensors") && to > 1 && request.method === "GET";
    if (!isPart || !isBroken) return false;
    isBroken = false;
    response.writeHead(status, { "content-length": body.length });
    record.sent += 100_000;
    response.write(body.subarray(0, 100_000), () => response.destroy());
    return true;
  };
  await openAndCompare(url);
  const froms = server.requests.filter(({ path }) => path.endsWith("safetensors"));
  assert.ok(froms.some(({ from }) => from > 0 && from % PIECE !== 0), "it went on inside a piece");
});

test("empty files and half-way ends of a stream without ranges", async () => {
  const files = { ...modelFiles(noise(100_000)), "chat_template.jinja": Buffer.alloc(0) };
  const url = server.add("empty", files);
  assert.ok((await openAndCompare(url)).includes("chat_template.jinja"));
  const plain = server.add("cut", modelFiles(noise(400_000)));
  server.hasRanges = false;
  let n = 0;
  server.rule = ({ path, response, body }) => {
    // the first question, then a stream that ends early
    if (!path.endsWith("safetensors") || ++n > 2) return false;
    response.writeHead(200, { "content-length": body.length });
    response.write(body.subarray(0, 50_000), () => response.destroy());
    return true;
  };
  await openAndCompare(plain);
  assert.equal(n, 3);
});

test("shards come under their names, and an index may not point elsewhere", async () => {
  const { "model.safetensors": _, ...small } = modelFiles(noise(1));
  const index = (names) =>
    Buffer.from(JSON.stringify({ weight_map: Object.fromEntries(names.map((n, i) => [`t${i}`, n])) }));
  const names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  const url = server.add("shards", {
    ...small,
    "model.safetensors.index.json": index([...names, names[0]]),
    [names[0]]: noise(500_000, 2),
    [names[1]]: noise(500_000, 3),
  });
  const found = await openAndCompare(url);
  assert.deepEqual(found.filter((name) => name.startsWith("model")), [
    ...names,
    "model.safetensors.index.json",
  ]);
  for (const bad of ["../secret.safetensors", "a/b.safetensors", "https://x.test/a.safetensors", 7]) {
    server.files.set("shards/model.safetensors.index.json", index([bad]));
    freshDisk();
    assert.equal((await failure(open(url))).code, "format", String(bad));
  }
  server.files.set("shards/model.safetensors.index.json", Buffer.from("{"));
  assert.equal((await failure(open(url))).code, "format");
});

test("an adapter from elsewhere is stored under its own address", async () => {
  const model = server.add("backbone", modelFiles(noise(1000)));
  const adapter = server.add("adapter", {
    "delta_mem_config.json": Buffer.from("{}"),
    "delta_mem_adapter.safetensors": noise(500, 4),
  });
  const opened = await open(model, { adapterUrl: adapter });
  assert.equal(opened.files.size, 5);
  opened.close();
  assert.deepEqual((await (await store()).list()).map(({ name }) => name), ["adapter", "backbone"]);
  const error = await failure(open(model, { adapterUrl: `${server.url}nowhere/` }));
  assert.match(error.message, /nowhere\/delta_mem_config\.json answered 404/);
});

test("what a model is can be told without downloading it, and without the network later", async () => {
  const config = '{"model_type":"smollm3","hidden_size":64}';
  const url = server.add("probed", {
    ...modelFiles(WEIGHTS),
    "config.json": Buffer.from(config),
    "delta_mem_config.json": Buffer.from('{"rank":8}'),
    "delta_mem_adapter.safetensors": noise(500),
  });
  const absent = await probeModel({ modelUrl: url, adapterUrl: null });
  assert.equal(absent.reckoned.config, config);
  assert.equal(absent.reckoned.adapterConfig, '{"rank":8}');
  assert.deepEqual([absent.state, absent.storedBytes], ["absent", 0]);
  assert.ok(absent.downloadBytes > WEIGHTS.length);
  assert.ok(server.sent("safetensors") < 10);
  await openAndCompare(url);
  server.rule = ({ response }) => response.destroy();
  const complete = await probeModel({ modelUrl: url, adapterUrl: null });
  assert.equal(complete.reckoned.config, config);
  assert.deepEqual([complete.state, complete.downloadBytes], ["complete", 0]);
  assert.equal(complete.storedBytes, absent.downloadBytes);
});

test("a GGUF file's address is a model, with what lies beside it and with its shards", async () => {
  const small = { "tokenizer.json": Buffer.from("{}"), "delta_mem_config.json": Buffer.from('{"rank":8}') };
  const adapter = { ...small, "delta_mem_adapter.pt": noise(500) };
  server.add("gguf", { "m-q8_0.gguf": WEIGHTS, "other.gguf": noise(9), ...adapter });
  const url = `${server.url}gguf/m-q8_0.gguf?download=true`;
  const wanted = Object.keys({ "m-q8_0.gguf": 0, ...adapter }).sort();
  for (const visit of ["first", "second"]) {
    server.forget();
    const opened = await open(url);
    assert.deepEqual([...opened.files.keys()].sort(), wanted);
    assert.equal(opened.files.get("m-q8_0.gguf").size, WEIGHTS.length);
    assert.ok(opened.files.get("tokenizer.json") instanceof Uint8Array);
    assert.equal(server.sent("gguf") > WEIGHTS.length, visit === "first");
    opened.close();
  }
  const [stored] = await (await store()).list();
  assert.deepEqual([stored.url, stored.isComplete], [url, true]);

  const shards = [1, 2, 3].map((n) => `M-0000${n}-of-00003.GGUF`);
  server.add("cut", Object.fromEntries(shards.map((name, i) => [name, noise(1000, i)])));
  const cut = await open(`${server.url}cut/${shards[1]}`);
  assert.deepEqual([...cut.files.keys()], shards);
  cut.close();
  server.files.delete(`cut/${shards[2]}`);
  server.etags.clear();
  const error = await failure(probeModel({ modelUrl: `${server.url}cut/${shards[0]}`, adapterUrl: null }));
  assert.match(error.message, /M-00003-of-00003\.GGUF answered 404/);
});

test("of a GGUF file as much is read as its reader asks for, also where a server does no ranges", async () => {
  server.add("head", { "m.gguf": WEIGHTS });
  const options = { modelUrl: `${server.url}head/m.gguf`, adapterUrl: null };
  /** Reads up to `end`, as the wasm module does. */
  const upTo = (end) => {
    let calls = 0;
    return async ({ config, gguf }) => {
      calls += 1;
      assert.equal(config, null);
      const file = gguf.get("m.gguf");
      const bytes = new Uint8Array(1000);
      for (let at = 0; at < end; at += 1000) file.read(bytes, at);
      assert.deepEqual(Buffer.from(bytes), WEIGHTS.subarray(end - 1000, end));
      return { calls, size: file.size };
    };
  };
  for (const hasRanges of [true, false]) {
    server.hasRanges = hasRanges;
    server.forget();
    const short = await probeModel(options, upTo(500_000));
    assert.deepEqual(short.reckoned, { calls: 1, size: WEIGHTS.length });
    assert.deepEqual([short.state, short.downloadBytes], ["absent", WEIGHTS.length]);
    if (hasRanges) assert.ok(server.sent("gguf") <= 2 ** 20 + 10);
    assert.equal((await probeModel(options, upTo(9_000_000))).reckoned.calls, 3);
    if (hasRanges) assert.ok(server.sent("gguf") < 19 * 2 ** 20);
  }
  // what fails for another reason is not asked again
  const fails = async () => assert.fail("no such model");
  assert.match((await failure(probeModel(options, fails))).message, /no such model/);
  server.hasRanges = true;
  await openAndCompare(options.modelUrl);
  server.rule = ({ response }) => response.destroy();
  assert.equal((await probeModel(options, upTo(9_000_000))).reckoned.calls, 1);
});
