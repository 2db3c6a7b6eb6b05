import assert from "node:assert/strict";
import test from "node:test";
import { IDBFactory, IDBKeyRange } from "fake-indexeddb";
import { load } from "./load.mjs";

globalThis.IDBKeyRange = IDBKeyRange;
const { MemoryStore, SNAPSHOT_RING, UPGRADE_STEPS } = await load("memory-store");

const key = { profile: "ada", identity: "1".repeat(64) };
const content = (norm) => ({ bytes: new Uint8Array([norm]), savedMs: norm, norm });
const turn = (norm) => ({
  savedMs: norm,
  prompt: `prompt ${norm}`,
  reply: `reply ${norm}`,
  tokensWritten: 1,
  normBefore: norm - 1,
  normAfter: norm,
});

async function commitTurns(store, n, of = key) {
  for (let index = 0; index < n; index += 1) {
    await store.commitTurn(of, index, content(index + 1), turn(index + 1));
  }
}

test("a turn is committed with its memory, and is there when the database is opened again", async () => {
  const factory = new IDBFactory();
  const store = await MemoryStore.open({ factory });
  assert.equal(await store.read(key), undefined);
  assert.equal(await store.commitTurn(key, 0, content(3), turn(3)), 1);
  store.close();
  const again = await MemoryStore.open({ factory });
  assert.deepEqual(await again.read(key), { ...key, ...content(3), generation: 1 });
  assert.deepEqual(
    (await again.turns(key)).map(({ generation, prompt }) => [generation, prompt]),
    [[1, "prompt 3"]],
  );
  assert.equal((await again.snapshots(key))[0].bytes, null);
});

test("writes ask for strict durability", async () => {
  const factory = new IDBFactory();
  const store = await MemoryStore.open({ factory });
  const asked = [];
  const { transaction } = Object.getPrototypeOf(await openRaw(factory));
  const prototype = Object.getPrototypeOf(await openRaw(factory));
  prototype.transaction = function (names, mode, options) {
    asked.push([mode, options?.durability]);
    return transaction.call(this, names, mode, options);
  };
  try {
    await store.commitTurn(key, 0, content(1), turn(1));
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
  await assert.rejects(store.commitTurn(key, 2, content(3), broken), { code: "storage" });
  assert.deepEqual(await everything(store), [record, turns, snapshots]);
  assert.equal(await store.commitTurn(key, 2, content(3), turn(3)), 3);
});

test("a memory that has moved on is not overwritten", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  await commitTurns(store, 2);
  const before = await everything(store);
  for (const expected of [0, 1, 3]) {
    await assert.rejects(store.commitTurn(key, expected, content(9), turn(9)), {
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
    one.commitTurn(key, 0, content(1), turn(1)),
    two.commitTurn(key, 0, content(2), turn(2)),
  ]);
  assert.deepEqual(results.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  assert.equal((await one.read(key)).generation, 1);
  assert.equal((await one.turns(key)).length, 1);
});

test("the ring keeps the newest snapshots", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  const n = SNAPSHOT_RING + 3;
  await commitTurns(store, n);
  const generations = (await store.snapshots(key)).map(({ generation }) => generation);
  assert.deepEqual(generations, Array.from({ length: SNAPSHOT_RING }, (_, i) => n - 1 - i));
  assert.equal((await store.turns(key)).length, n);
});

test("undo goes back turn by turn, takes the turn along, and ends at the empty memory", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  await commitTurns(store, 2);
  await store.commitMemory(key, 2, content(7)); // an import, no turn
  assert.equal(await store.undo(key, 3, content(2)), 4);
  assert.equal((await store.turns(key)).length, 2);
  assert.equal(await store.undo(key, 4, content(1)), 5);
  assert.deepEqual((await store.turns(key)).map(({ prompt }) => prompt), ["prompt 1"]);
  assert.equal(await store.undo(key, 5, content(0)), 6);
  assert.deepEqual(await store.turns(key), []);
  assert.equal((await store.read(key)).norm, 0);
  await assert.rejects(store.undo(key, 6, content(0)), { code: "nothing_to_undo" });
  // and a turn after it can be undone again
  await store.commitTurn(key, 6, content(5), turn(5));
  assert.equal((await store.snapshots(key))[0].generation, 6);
});

test("forgetting deletes all of a profile and nothing of another", async () => {
  const store = await MemoryStore.open({ factory: new IDBFactory() });
  const otherModel = { ...key, identity: "2".repeat(64) };
  const others = ["ad", "ada2", "adb"].map((profile) => ({ ...key, profile }));
  for (const each of [key, otherModel, ...others]) await commitTurns(store, 2, each);
  await store.forget("ada");
  for (const each of [key, otherModel]) {
    assert.deepEqual(await everything(store, each), [undefined, [], []]);
  }
  for (const each of others) assert.equal((await store.turns(each)).length, 2);
});

test("an upgrade takes the memories along, and older tabs step aside", async () => {
  const factory = new IDBFactory();
  const old = await MemoryStore.open({ factory });
  await commitTurns(old, 1);
  const steps = [
    ...UPGRADE_STEPS,
    (database) => database.createObjectStore("profiles", { keyPath: "profile" }),
  ];
  const upgraded = await MemoryStore.open({ factory, steps });
  assert.equal((await upgraded.read(key)).norm, 1);
  await assert.rejects(old.read(key), { code: "storage_outdated" });
  await assert.rejects(old.commitTurn(key, 1, content(2), turn(2)), { code: "storage_outdated" });
  await assert.rejects(MemoryStore.open({ factory }), { code: "storage_outdated" });
});

function everything(store, of = key) {
  return Promise.all([store.read(of), store.turns(of), store.snapshots(of)]);
}

function openRaw(factory) {
  return new Promise((resolve) => {
    const request = factory.open("deltamem");
    request.onsuccess = () => resolve(request.result);
  });
}
