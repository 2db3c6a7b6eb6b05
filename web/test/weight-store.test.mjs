import assert from "node:assert/strict";
import test from "node:test";
import { modelFiles, noise, sha256 } from "./model-server.mjs";
import {
  PIECE,
  WEIGHTS,
  bytesOf,
  disk,
  failure,
  finishedPieces,
  journal,
  open,
  openAndCompare,
  probeModel,
  server,
  store,
  until,
} from "./weights-harness.mjs";

test("a download that was killed goes on inside the file", async () => {
  const url = server.add("killed", modelFiles(WEIGHTS));
  // the second piece never ends
  server.rule = ({ path, from, body, response, status, record }) => {
    if (!path.endsWith("safetensors") || from !== PIECE) return false;
    response.writeHead(status, { "content-length": body.length });
    record.sent += 1000;
    response.write(body.subarray(0, 1000));
    return true;
  };
  const controller = new AbortController();
  const killed = failure(open(url, { signal: controller.signal }));
  await until(() => finishedPieces() === 2);
  disk.crash();
  controller.abort();
  assert.equal((await killed).name, "AbortError");

  const [part] = await (await store()).list();
  assert.equal(part.isComplete, false);
  assert.ok(part.bytes >= 2 * PIECE, `${part.bytes} bytes are there`);
  const probed = await probeModel({ modelUrl: url, adapterUrl: null });
  assert.equal(probed.state, "partial");
  assert.ok(probed.downloadBytes <= PIECE);

  server.rule = () => false;
  server.forget();
  // a crash may leave a line that was cut off
  journal().bytes = Buffer.concat([journal().bytes, Buffer.from("1")]);
  await openAndCompare(url);
  const ranges = server.requests.filter(({ path, to }) => path.endsWith("safetensors") && to > 1);
  assert.deepEqual(ranges.map(({ from, to }) => [from, to]), [[PIECE, 2 * PIECE]]);
});

test("bytes that were not on the disk when it crashed are fetched again", async () => {
  const url = server.add("unflushed", modelFiles(WEIGHTS));
  const controller = new AbortController();
  let nPieces = 0;
  server.rule = ({ path, to }) => path.endsWith("safetensors") && to > 1 && ++nPieces > 2;
  const killed = failure(open(url, { signal: controller.signal }));
  const parts = () => [...disk.folder("parts")];
  await until(() => parts().some(([name, { bytes }]) => name.endsWith("journal") && bytes.length > 0));
  await until(() => nPieces > 2);
  // the journal survives, the bytes do not
  const data = parts().find(([name]) => name.endsWith("data"))[1];
  data.durable = new Uint8Array();
  disk.crash();
  controller.abort();
  await killed;
  server.rule = () => false;
  await openAndCompare(url);
});

test("the same content from elsewhere is not fetched again", async () => {
  const digest = { "model.safetensors": sha256(WEIGHTS) };
  const [first, second] = ["here", "there"].map((name) => server.add(name, modelFiles(WEIGHTS)));
  await openAndCompare(first, { sha256: digest });
  server.forget();
  await openAndCompare(second, { sha256: digest });
  assert.ok(server.sent("safetensors") < 10);
  assert.equal(disk.folder("blobs").size, 3);
  await (await store()).remove(first);
  assert.equal(disk.folder("blobs").size, 3, "the other model still needs them");
  await openAndCompare(second);
  await (await store()).remove(second);
  assert.equal(disk.folder("blobs").size, 0);
  assert.equal(disk.usage(), 0);
});

test("on a page what is stored is read, and nothing new is stored", async () => {
  const url = server.add("page", modelFiles(noise(100_000)));
  const workers = globalThis.FileSystemFileHandle;
  globalThis.FileSystemFileHandle = class {};
  const fresh = await open(url);
  assert.match(fresh.notice, /only a worker can/);
  assert.ok(bytesOf(fresh.files.get("model.safetensors")).equals(noise(100_000)));
  fresh.close();
  globalThis.FileSystemFileHandle = workers;
  await openAndCompare(url);
  globalThis.FileSystemFileHandle = class {};
  server.rule = ({ response }) => response.destroy();
  const stored = await open(url);
  assert.equal(stored.notice, null);
  assert.ok(bytesOf(stored.files.get("model.safetensors")).equals(noise(100_000)));
});

test("a browser with too little room keeps nothing and says so", async () => {
  const url = server.add("large", modelFiles(WEIGHTS));
  disk.quota = PIECE;
  const opened = await open(url);
  assert.match(opened.notice, /not kept on this device.*17 MB.*room for 9 MB/s);
  assert.ok(bytesOf(opened.files.get("model.safetensors")).equals(WEIGHTS));
  opened.close();
  // the browser promised more than it gives
  disk.estimatedQuota = 10 * PIECE;
  const told = [];
  const second = await open(url, { told });
  assert.match(second.notice, /not kept.*storage was full before that/);
  assert.ok(bytesOf(second.files.get("model.safetensors")).equals(WEIGHTS));
  second.close();
  assert.equal(disk.usage(), 0, "nothing is left that would take the room");
  assert.deepEqual(told.at(-1)[0], told.at(-1)[1]);
  disk.quota = Infinity;
  assert.equal((await open(url)).notice, null);
});

test("a model that is too large even for memory is refused with the numbers, before it comes", async () => {
  const url = server.add("huge", modelFiles(noise(100)));
  const size = 3 * 2 ** 30;
  server.rule = ({ path, response }) => {
    if (!path.endsWith("safetensors")) return false;
    response.writeHead(206, { "content-range": `bytes 0-0/${size}`, "content-length": 1 });
    response.end("x");
    return true;
  };
  disk.quota = 2 ** 30;
  const error = await failure(open(url));
  assert.equal(error.code, "quota");
  assert.equal(error.quota, 2 ** 30);
  assert.ok(error.requested > size);
  assert.equal(server.sent("safetensors"), 0);
});

test("a browser that refuses storage gets the model into memory", async () => {
  const url = server.add("private", modelFiles(noise(100_000)));
  navigator.storage.getDirectory = async () => {
    throw new DOMException("Security error when calling GetDirectory", "SecurityError");
  };
  const opened = await open(url);
  assert.match(opened.notice, /Security error/);
  assert.ok(bytesOf(opened.files.get("model.safetensors")).equals(noise(100_000)));
  assert.equal((await probeModel({ modelUrl: url, adapterUrl: null })).state, "absent");
  assert.equal(await store(), null);
  Object.defineProperty(globalThis, "navigator", { value: undefined, configurable: true });
  assert.match((await open(url)).notice, /no file system/);
  assert.equal((await open(url, { store: "none" })).notice, null);
});

test("two tabs share one download", async () => {
  const url = server.add("shared", modelFiles(WEIGHTS));
  const releases = new Map();
  const holds = [PIECE, 2 * PIECE].map((from) => [
    from,
    new Promise((resolve) => releases.set(from, resolve)),
  ]);
  const held = new Map(holds);
  server.rule = async ({ path, from }) => {
    if (path.endsWith("safetensors")) await held.get(from);
    return false;
  };
  const [mine, theirs] = [[], []];
  const first = open(url, { told: mine });
  await until(() => mine.some(([done]) => done > PIECE / 2));
  const second = open(url, { told: theirs });
  await until(async () => (await navigator.locks.query()).pending.length === 1);
  assert.equal((await probeModel({ modelUrl: url, adapterUrl: null })).state, "downloading");
  assert.equal((await failure((await store()).remove(url))).code, "busy");
  // a tab tells of its progress ten times a second at most
  await new Promise((resolve) => setTimeout(resolve, 150));
  releases.get(PIECE)();
  await until(() => theirs.some(([done, total]) => done > 1000 && done < total));
  releases.get(2 * PIECE)();
  for (const opened of await Promise.all([first, second])) {
    assert.equal(opened.notice, null);
    assert.ok(bytesOf(opened.files.get("model.safetensors")).equals(WEIGHTS));
    opened.close();
  }
  assert.ok(server.sent("safetensors") < WEIGHTS.length + 10);
});

test("a tab that waited goes on when the first gives up", async () => {
  const url = server.add("left", modelFiles(WEIGHTS));
  const controller = new AbortController();
  server.rule = ({ path, from }) => path.endsWith("safetensors") && from === PIECE;
  const first = failure(open(url, { signal: controller.signal }));
  await until(() => finishedPieces() === 2);
  const second = open(url);
  await until(() => server.requests.filter(({ path }) => path.endsWith("config.json")).length > 2);
  server.rule = () => false;
  controller.abort(new DOMException("enough", "AbortError"));
  assert.equal((await first).name, "AbortError");
  (await second).close();
  assert.ok(server.sent("safetensors") < WEIGHTS.length + PIECE, "its pieces were of use");
});

test("a model in use is not removed, and one removed comes anew", async () => {
  const url = server.add("used", modelFiles(noise(1000)));
  const opened = await open(url);
  assert.equal((await failure((await store()).remove(url))).code, "busy");
  opened.close();
  await (await store()).remove(url);
  await (await store()).remove(url);
  assert.deepEqual(await (await store()).list(), []);
  assert.equal((await probeModel({ modelUrl: url, adapterUrl: null })).state, "absent");
  await openAndCompare(url);
});

test("damage on the disk is found: at once by size, on demand by content", async () => {
  const url = server.add("damaged", modelFiles(WEIGHTS));
  await openAndCompare(url);
  const blob = () => disk.folder("blobs").get(sha256(WEIGHTS));
  assert.deepEqual(await (await store()).verify(url), []);
  blob().bytes[77] ^= 1;
  assert.deepEqual(await (await store()).verify(url), ["model.safetensors"]);
  server.forget();
  await openAndCompare(url);
  assert.ok(server.sent("safetensors") >= WEIGHTS.length);
  assert.ok(server.sent("tokenizer.json") < 10, "the others are still there");
  blob().bytes = blob().bytes.slice(0, 1000);
  await openAndCompare(url);
  // an index that cannot be read counts for nothing
  for (const file of disk.folder("models").values()) file.bytes = Buffer.from("{");
  await openAndCompare(url);
});

test("a call that is given up leaves everything free", async () => {
  const url = server.add("aborted", modelFiles(WEIGHTS));
  server.rule = ({ path, to }) => path.endsWith("safetensors") && to > 1;
  const controller = new AbortController();
  const error = failure(open(url, { signal: controller.signal }));
  await until(() => server.requests.some(({ path, to }) => path.endsWith("safetensors") && to > 1));
  controller.abort();
  assert.equal((await error).name, "AbortError");
  const { held } = await navigator.locks.query();
  assert.deepEqual(held, []);
  await (await store()).remove(url);
  assert.equal(disk.usage(), 0);
});
