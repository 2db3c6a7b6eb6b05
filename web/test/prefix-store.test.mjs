import assert from "node:assert/strict";
import test, { afterEach, beforeEach } from "node:test";
import { FakeDisk } from "./fake-opfs.mjs";
import { load } from "./load.mjs";
import { fake, freshBrowser, openTab } from "./tabs.mjs";

const { PrefixFiles, clearPrefixes, prefixBytes } = await load("prefix-store");
const name = (letter) => `${letter.repeat(64)}.dmprefix`;
const bytes = (n, value) => new Uint8Array(n).fill(value);

let disk;
let problems;
const { FileSystemFileHandle } = globalThis;
const navigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
beforeEach(() => {
  disk = new FakeDisk();
  disk.install();
  problems = [];
});
afterEach(() => {
  globalThis.FileSystemFileHandle = FileSystemFileHandle;
  if (navigator) Object.defineProperty(globalThis, "navigator", navigator);
});

const open = (most = 1000) => PrefixFiles.open(most, (problem) => problems.push(problem));
const kept = () => [...disk.folder("prefixes").keys()].filter((n) => n.endsWith(".dmprefix")).sort();

async function put(store, letter, n, value = 7) {
  if (!(await store.create(name(letter), n))) return false;
  store.write(bytes(n - 3, value));
  store.write(bytes(3, value));
  await store.finish();
  return true;
}

async function get(store, letter) {
  const size = await store.open(name(letter));
  if (size === null) return null;
  const found = new Uint8Array(size);
  store.read(found.subarray(0, 2));
  store.read(found.subarray(2));
  await store.close();
  return found;
}

test("what is written is read by another tab, byte for byte", async () => {
  assert.equal(await get(await open(), "a"), null);
  assert.ok(await put(await open(), "a", 100));
  assert.deepEqual(await get(await open(), "a"), bytes(100, 7));
  assert.ok(await put(await open(), "a", 90, 8), "the same name takes its place");
  assert.deepEqual(await get(await open(), "a"), bytes(90, 8));
  assert.equal(await prefixBytes(), 90);
  assert.deepEqual(problems, []);
});

test("all together stay within the size, and what was used last stays", async () => {
  const store = await open(250);
  for (const letter of ["a", "b"]) assert.ok(await put(store, letter, 100));
  assert.ok(await get(store, "a"));
  assert.ok(await put(await open(250), "c", 100));
  assert.deepEqual(kept(), [name("a"), name("c")]);
  assert.equal(await store.create(name("d"), 251), false);
  assert.deepEqual(kept(), [name("a"), name("c")]);
  // without its list of uses it goes on all the same
  disk.folder("prefixes").get("used.json").bytes = new TextEncoder().encode("{");
  assert.ok(await put(store, "d", 240));
  assert.deepEqual(kept(), [name("d")]);
});

test("a crash leaves the old file or none, and no bytes that nobody owns", async () => {
  const store = await open();
  await put(store, "a", 100);
  assert.ok(await store.create(name("a"), 50));
  store.write(bytes(20, 1));
  disk.crash();
  const next = await open();
  assert.deepEqual(await get(next, "a"), bytes(100, 7));
  assert.ok(await put(next, "b", 10));
  assert.deepEqual([...disk.folder("prefixes").keys()].sort(), [name("a"), name("b"), "used.json"]);
});

test("files with a problem go, and are told of", async () => {
  const store = await open();
  await put(store, "a", 100);
  await store.open(name("a"));
  assert.throws(() => store.read(new Uint8Array(101)), { name: "DataError" });
  await store.close("its checksum differs");
  assert.ok(await store.create(name("b"), 10));
  await store.finish("the device was lost");
  assert.deepEqual(kept(), []);
  assert.deepEqual(problems, [
    "a kept context is not used: its checksum differs",
    "a context is not kept: the device was lost",
  ]);
  // a full disk
  disk.quota = disk.usage() + 5;
  assert.ok(await store.create(name("b"), 10));
  assert.throws(() => store.write(bytes(10, 1)), { name: "QuotaExceededError" });
  await store.finish("the disk is full");
  assert.deepEqual(kept(), []);
});

test("two tabs do not write at once, and neither waits", async () => {
  const [one, two] = [await open(), await open()];
  assert.ok(await one.create(name("a"), 10));
  assert.equal(await two.create(name("b"), 10), false);
  one.write(bytes(10, 1));
  await one.finish();
  assert.ok(await put(two, "b", 10));
  assert.deepEqual(kept(), [name("a"), name("b")]);
  await clearPrefixes();
  assert.deepEqual([...disk.folder("prefixes").keys()], []);
  assert.equal(await prefixBytes(), 0);
});

test("there is none where nothing can be written", async () => {
  globalThis.FileSystemFileHandle = undefined;
  assert.equal(await open(), null);
  Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true });
  assert.equal(await prefixBytes(), 0);
  await clearPrefixes();
});

test("a session keeps beginnings if asked to, and never what is to leave nothing", async () => {
  const locks = freshBrowser();
  const plain = await openTab(locks);
  assert.equal(plain.model.prefixes, undefined);
  await plain.close();
  const tab = await openTab(locks, { prefixBytes: 1000 });
  const { prefixes } = tab.model;
  await tab.say("hello");
  assert.ok(await put(prefixes, "a", 10));
  // an ephemeral session in the same model has no part in it
  const clone = await tab.clone();
  await clone.say("hello");
  assert.equal(await put(prefixes, "b", 10), false);
  assert.equal(await get(prefixes, "a"), null);
  await tab.say("again");
  assert.ok(await get(prefixes, "a"));
  await tab.call("forget");
  assert.deepEqual(kept(), []);
  // nor has a profile that is encrypted
  assert.ok(await put(prefixes, "a", 10));
  await tab.call("setPassphrase", "a passphrase");
  assert.deepEqual(kept(), []);
  await tab.say("hello");
  assert.equal(await put(prefixes, "a", 10), false);
  // a model that was lost and loaded again has its store again
  fake.models.at(-1).lose("a test");
  await tab.say("hello").catch(() => undefined);
  await tab.say("hello");
  assert.notEqual(tab.model.prefixes, prefixes);
  assert.equal(tab.model.prefixes.isPaused, true);
  await tab.close();
});
