import assert from "node:assert/strict";
import test from "node:test";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";
import { load } from "./load.mjs";

globalThis.IDBKeyRange = IDBKeyRange;
const { MemoryStore, SNAPSHOT_RING } = await load("memory-store");
const { UPGRADE_STEPS } = await load("memory-schema");

const key = { profile: "ada", identity: "1".repeat(64) };
const content = (norm) => ({ bytes: new Uint8Array([norm]), savedMs: norm, norm });
const turn = (norm) => ({
  kind: "turn",
  savedMs: norm,
  prompt: `prompt ${norm}`,
  promptRole: "user",
  reply: `reply ${norm}`,
  thoughts: "",
  toolCalls: [],
  tokensWritten: 1,
  normBefore: norm - 1,
  normAfter: norm,
});

async function commitTurns(store, n, of = key) {
  for (let index = 0; index < n; index += 1) {
    await store.commit(of, index, content(index + 1), turn(index + 1));
  }
}

test("a turn is committed with its memory, and is there when the database is opened again", async () => {
  const factory = new IDBFactory();
  const store = await MemoryStore.open({ factory });
  assert.equal(await store.read(key), undefined);
  const { generation, bytes } = await store.commit(key, 0, content(3), turn(3));
  assert.equal(generation, 1);
  assert.ok(bytes > JSON.stringify(turn(3)).length);
  store.close();
  const again = await MemoryStore.open({ factory });
  assert.deepEqual(await again.read(key), { ...key, ...content(3), generation: 1 });
  assert.deepEqual(await again.entries(key), [{ ...key, ...turn(3), generation: 1 }]);
  assert.equal((await again.snapshots(key))[0].bytes, null);
});

test("writes ask for strict durability", async () => {
  const factory = new IDBFactory();
  const store = await MemoryStore.open({ factory });
  const asked = [];
  const prototype = Object.getPrototypeOf(await openRaw(factory));
  const { transaction } = prototype;
  prototype.transaction = function (names, mode, options) {
    asked.push([mode, options?.durability]);
    return transaction.call(this, names, mode, options);
  };
  try {
    await store.commit(key, 0, content(1), turn(1));
  } finally {
    prototype.transaction = transaction;
  }
  assert.deepEqual(asked, [["readwrite", "strict"]]);
});

test("a commit that breaks off in the middle leaves everything as it was", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  await commitTurns(store, 2);
  const [record, turns, snapshots] = await everything(store);
  // A function cannot be stored: the last of the writes fails after the others were made.
  const broken = { ...turn(3), reply: () => undefined };
  await assert.rejects(store.commit(key, 2, content(3), broken), { code: "storage" });
  assert.deepEqual(await everything(store), [record, turns, snapshots]);
  assert.equal((await store.commit(key, 2, content(3), turn(3))).generation, 3);
});

test("a memory that has moved on is not overwritten", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  await commitTurns(store, 2);
  const before = await everything(store);
  for (const expected of [0, 1, 3]) {
    await assert.rejects(store.commit(key, expected, content(9), turn(9)), {
      code: "memory_conflict",
    });
    await assert.rejects(store.undo(key, expected, content(9)), { code: "memory_conflict" });
  }
  assert.deepEqual(await everything(store), before);
});

test("of two commits from the same generation one wins", async () => {
  const factory = new IDBFactory();
  const [one, two] = [await MemoryStore.open({ factory }), await MemoryStore.open({ factory })];
  const results = await Promise.allSettled([
    one.commit(key, 0, content(1), turn(1)),
    two.commit(key, 0, content(2), turn(2)),
  ]);
  assert.deepEqual(results.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  assert.equal((await one.read(key)).generation, 1);
  assert.equal((await one.entries(key)).length, 1);
});

test("the ring keeps the newest snapshots", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  const n = SNAPSHOT_RING + 3;
  await commitTurns(store, n);
  const generations = (await store.snapshots(key)).map(({ generation }) => generation);
  assert.deepEqual(generations, Array.from({ length: SNAPSHOT_RING }, (_, i) => n - 1 - i));
  assert.equal((await store.entries(key)).length, n);
});

test("undo goes back commit by commit, takes the entry along, and ends at the empty memory", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  await commitTurns(store, 2);
  await store.commit(key, 2, content(7), null);
  const undo = async (expected, norm) =>
    (await store.undo(key, expected, content(norm))).generation;
  assert.equal(await undo(3, 2), 4);
  assert.equal((await store.entries(key)).length, 2);
  assert.equal(await undo(4, 1), 5);
  assert.deepEqual((await store.entries(key)).map(({ prompt }) => prompt), ["prompt 1"]);
  assert.equal(await undo(5, 0), 6);
  assert.deepEqual(await store.entries(key), []);
  assert.equal((await store.read(key)).norm, 0);
  await assert.rejects(undo(6, 0), { code: "nothing_to_undo" });
  // and a turn after it can be undone again
  await store.commit(key, 6, content(5), turn(5));
  assert.equal((await store.snapshots(key))[0].generation, 6);
});

test("forgetting deletes all of a profile and nothing of another", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  const otherModel = { ...key, identity: "2".repeat(64) };
  const others = ["ad", "ada2", "adb"].map((profile) => ({ ...key, profile }));
  for (const each of [key, otherModel, ...others]) await commitTurns(store, 2, each);
  assert.equal((await store.profiles()).length, 5);
  await store.forget("ada");
  for (const each of [key, otherModel]) {
    assert.deepEqual(await everything(store, each), [undefined, [], []]);
  }
  for (const each of others) assert.equal((await store.entries(each)).length, 2);
  assert.deepEqual((await store.profiles()).map(({ profile }) => profile), ["ad", "ada2", "adb"]);
});

test("a profile is filled only if it is empty, and rewritten only as it was read", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  await commitTurns(store, 1);
  const contents = await store.contents("ada");
  await assert.rejects(store.fill("ada", contents, null), { code: "profile_exists" });
  const record = { profile: "ada", version: 1, iterations: 1, salt: content(1).bytes };
  await store.commit(key, 1, content(2), turn(2));
  const before = await everything(store);
  await assert.rejects(store.rewrite("ada", contents, contents, record), {
    code: "memory_conflict",
  });
  assert.deepEqual(await everything(store), before);
  assert.equal(await store.key("ada"), undefined);
  const now = await store.contents("ada");
  await store.rewrite("ada", now, now, record);
  assert.deepEqual(await store.key("ada"), record);
  await store.forget("ada");
  assert.equal(await store.key("ada"), undefined);
});

test("a database of version 1 is upgraded with its memories, snapshots and turns", async () => {
  const factory = new IDBFactory();
  // as the first release wrote it
  const old = await new Promise((resolve) => {
    const request = factory.open("deltamem", 1);
    request.onupgradeneeded = () => UPGRADE_STEPS[0](request.result, request.transaction);
    request.onsuccess = () => resolve(request.result);
  });
  const oldTurn = {
    savedMs: 5,
    prompt: "hello",
    reply: "hi",
    tokensWritten: 4,
    normBefore: 0,
    normAfter: 2,
  };
  const transaction = old.transaction(["memories", "snapshots", "transcripts"], "readwrite");
  transaction.objectStore("memories").put({ ...key, ...content(2), generation: 1 });
  const empty = { generation: 0, bytes: null, savedMs: 5, norm: 0, replacedBy: 1 };
  transaction.objectStore("snapshots").put({ ...key, ...empty });
  transaction.objectStore("transcripts").put({ ...key, ...oldTurn, generation: 1 });
  await new Promise((resolve) => (transaction.oncomplete = resolve));
  old.close();

  const store = await MemoryStore.open({ factory });
  const added = { kind: "turn", promptRole: "user", thoughts: "", toolCalls: [] };
  assert.deepEqual(await store.entries(key), [{ ...key, ...added, ...oldTurn, generation: 1 }]);
  assert.deepEqual(await store.read(key), { ...key, ...content(2), generation: 1 });
  assert.deepEqual(await store.snapshots(key), [{ ...key, ...empty }]);
  assert.equal((await store.commit(key, 1, content(3), turn(3))).generation, 2);
});

test("an upgrade takes the memories along, and older tabs step aside", async () => {
  const factory = new IDBFactory();
  const old = await MemoryStore.open({ factory });
  await commitTurns(old, 1);
  const steps = [
    ...UPGRADE_STEPS,
    (database) => database.createObjectStore("next", { keyPath: "profile" }),
  ];
  const upgraded = await MemoryStore.open({ factory, steps });
  assert.equal((await upgraded.read(key)).norm, 1);
  await assert.rejects(old.read(key), { code: "storage_outdated" });
  await assert.rejects(old.commit(key, 1, content(2), turn(2)), { code: "storage_outdated" });
  await assert.rejects(MemoryStore.open({ factory }), { code: "storage_outdated" });
});

function everything(store, of = key) {
  return Promise.all([store.read(of), store.entries(of), store.snapshots(of)]);
}

function openRaw(factory) {
  return new Promise((resolve) => {
    const request = factory.open("deltamem");
    request.onsuccess = () => resolve(request.result);
  });
}
