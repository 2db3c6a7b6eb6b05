import assert from "node:assert/strict";
import test from "node:test";
import { load } from "./load.mjs";
import { freshBrowser, openTab, tick, until } from "./tabs.mjs";

const { Vault, sealFile, openFile, isSealedFile } = await load("vault");
const SECRET = "the treasure lies under the oak";

/** Everything in the database, as text that can be searched. */
async function dump() {
  const database = await openDatabase();
  const names = [...database.objectStoreNames];
  const all = names.map(async (name) => [name, await settled(store(database, name).getAll())]);
  const dumped = Object.fromEntries(await Promise.all(all));
  database.close();
  return dumped;
}

function openDatabase() {
  return settled(globalThis.indexedDB.open("deltamem"));
}

function store(database, name, mode = "readonly") {
  return database.transaction(name, mode).objectStore(name);
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function textOf(dumped) {
  const latin = (_, value) =>
    value instanceof Uint8Array ? Buffer.from(value).toString("latin1") : value;
  return JSON.stringify(dumped, latin);
}

test("what an encrypted profile stores cannot be read, and is there with the passphrase only", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks, { passphrase: "swordfish" });
  assert.ok(tab.opened.state.isEncrypted);
  await tab.say("hello");
  await tab.say(SECRET);
  const dumped = await dump();
  const text = textOf(dumped);
  for (const plain of [SECRET, "hello", "reply", "deltamem", "swordfish"]) {
    assert.ok(!text.includes(plain), `${plain} lies there in the open`);
  }
  assert.equal(dumped.transcripts.length, 2);
  const [key] = dumped.keys;
  assert.ok(key.iterations >= 600_000 && key.salt.length === 16);
  const [profile] = await tab.call("profiles");
  assert.deepEqual([profile.isEncrypted, profile.norm, profile.generation], [true, null, 2]);
  const { ledger } = await tab.everything();
  assert.deepEqual(ledger, [["turn", "hello"], ["turn", SECRET]]);
  await tab.close();

  await assert.rejects(openTab(locks), { code: "passphrase", message: /needs its passphrase/ });
  await assert.rejects(openTab(locks, { passphrase: "guess" }), {
    code: "passphrase",
    message: /not the passphrase/,
  });
  const again = await openTab(locks, { passphrase: "swordfish" });
  assert.ok(!again.opened.state.isReadOnly, "a refused tab gives its lock back");
  assert.equal((await again.info()).norm, 2 * (5 + SECRET.length));
  await again.call("undo");
  assert.equal((await again.info()).norm, 10);
  await again.call("undo");
  assert.equal((await again.info()).norm, 0);
  await again.close();
});

test("records that are changed or change places are refused", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks, { passphrase: "swordfish" });
  await tab.say("one");
  await tab.say("two");
  await tab.close();
  const { memories, snapshots, transcripts } = await dump();
  const [memory] = memories;
  const tamper = async (name, record) => {
    const database = await openDatabase();
    await settled(store(database, name, "readwrite").put(record));
    database.close();
  };
  const opening = () => openTab(locks, { passphrase: "swordfish" });
  const flipped = memory.sealed.slice();
  flipped[20] ^= 1;
  const old = snapshots.find(({ generation }) => generation === 1);
  for (const record of [
    { ...memory, sealed: flipped },
    { ...memory, sealed: old.sealed, savedMs: old.savedMs },
    { ...memory, sealed: transcripts[1].sealed },
    { ...memory, savedMs: memory.savedMs + 1 },
    { ...memory, sealed: undefined, bytes: new Uint8Array(16), norm: 1 },
  ]) {
    const stored = Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined));
    await tamper("memories", stored);
    await assert.rejects(opening(), { code: "integrity" });
  }
  await tamper("memories", memory);
  await tamper("transcripts", { ...transcripts[0], sealed: transcripts[1].sealed });
  const opened = await opening();
  await assert.rejects(opened.call("ledger"), { code: "integrity" });
  await opened.close();
});

test("a passphrase is set, changed and removed; a tab that reads hears of it", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks);
  await tab.say(SECRET);
  const before = await tab.everything();
  const reader = await openTab(locks);
  assert.ok(textOf(await dump()).includes(SECRET));
  await assert.rejects(reader.call("setPassphrase", "x"), { code: "read_only" });

  await tab.call("setPassphrase", "first");
  assert.ok(tab.states.at(-1).isEncrypted);
  assert.ok(!textOf(await dump()).includes(SECRET));
  assert.deepEqual(await tab.everything(), before);
  await until(() => reader.states.at(-1)?.notice);
  assert.match(reader.states.at(-1).notice, /Another tab has encrypted/);
  await assert.rejects(reader.info(), { code: "passphrase" });
  await reader.close();

  const { memories } = await dump();
  await tab.call("setPassphrase", "second");
  assert.deepEqual((await dump()).memories, memories); // only the key was wrapped anew
  await tab.close();
  await assert.rejects(openTab(locks, { passphrase: "first" }), { code: "passphrase" });
  const again = await openTab(locks, { passphrase: "second" });
  assert.deepEqual((await again.everything()).ledger, before.ledger);
  await again.say("more");
  await again.call("setPassphrase", null);
  assert.deepEqual((await dump()).keys, []);
  assert.ok(textOf(await dump()).includes(SECRET));
  await again.call("undo");
  assert.equal((await again.info()).norm, before.norm);
  await again.close();
  // a passphrase at opening encrypts what is there
  const encrypted = await openTab(locks, { passphrase: "third" });
  assert.ok(!textOf(await dump()).includes(SECRET));
  assert.equal((await encrypted.info()).norm, before.norm);
  await encrypted.close();
});

test("forgetting throws the key away and goes on with a new one; readers follow", async () => {
  const locks = freshBrowser();
  const tab = await openTab(locks, { passphrase: "swordfish" });
  await tab.say(SECRET);
  const reader = await openTab(locks, { passphrase: "swordfish" });
  const [oldKey] = (await dump()).keys;
  await tab.call("forget");
  const { keys, memories, transcripts, snapshots } = await dump();
  assert.deepEqual([memories, transcripts, snapshots], [[], [], []]);
  assert.notDeepEqual(keys[0].wrapped, oldKey.wrapped);
  await tab.say("new");
  await until(async () => (await reader.info()).norm === 6);
  await tab.close();
  await until(() => reader.states.at(-1)?.isReadOnly === false);
  assert.ok((await reader.say("more")).isCommitted);
  await reader.close();
  const again = await openTab(locks, { passphrase: "swordfish" });
  assert.equal((await again.info()).norm, 14);
  await again.close();
});

test("a clone of an encrypted memory is encrypted too; an existing profile is left alone", async () => {
  const locks = freshBrowser();
  const plain = await openTab(locks, { profile: "plain" });
  await plain.say("open");
  await plain.close();
  const tab = await openTab(locks, { passphrase: "swordfish" });
  await tab.say(SECRET);
  await assert.rejects(tab.clone({ profile: "copy" }), { code: "passphrase" });
  await assert.rejects(tab.clone({ profile: "plain", passphrase: "x" }), {
    code: "profile_exists",
  });
  assert.ok(!(await tab.call("profiles")).find(({ profile }) => profile === "plain").isEncrypted);
  const clone = await tab.clone({ profile: "copy", passphrase: "other" });
  assert.deepEqual(await clone.everything(), await tab.everything());
  assert.ok(!textOf(await dump()).includes(SECRET));
  await tab.close();
  await tick();
  const copy = await openTab(locks, { profile: "copy", passphrase: "other" });
  assert.equal((await copy.info()).norm, 2 * SECRET.length);
  await copy.close();
});

test("an exported file is encrypted with a passphrase, and read with the same", async () => {
  const tab = await openTab(freshBrowser());
  await tab.say(SECRET);
  const plain = await tab.call("exportMemory", { passphrase: null });
  const bytes = await tab.call("exportMemory", { passphrase: "swordfish" });
  assert.ok(isSealedFile(bytes) && !isSealedFile(plain));
  assert.equal(bytes.length, plain.length + 32 + 12 + 16);
  await tab.call("forget");
  const importing = (passphrase, file = bytes) =>
    tab.call("importMemory", { bytes: file, passphrase });
  await assert.rejects(importing(null), { code: "passphrase" });
  await assert.rejects(importing("guess"), { code: "passphrase" });
  assert.equal((await tab.info()).norm, 0);
  await importing("swordfish");
  assert.equal((await tab.info()).norm, 2 * SECRET.length);
  await importing("not needed", plain);
  await tab.close();
});

test("every byte of an encrypted file counts, its header too", async () => {
  const file = new Uint8Array([1, 2, 3]);
  const sealed = await sealFile(file, "swordfish");
  assert.deepEqual(await openFile(sealed, "swordfish"), file);
  for (const index of [20, 31, 40, 45, sealed.length - 1]) {
    const changed = sealed.slice();
    changed[index] ^= 1;
    await assert.rejects(openFile(changed, "swordfish"), { code: "passphrase" });
  }
  for (const [index, value] of [[8, 2], [15, 255]]) {
    const changed = sealed.slice();
    changed[index] = value;
    await assert.rejects(openFile(changed, "swordfish"), { code: "format" });
  }
  await assert.rejects(openFile(sealed.subarray(0, 40), "swordfish"), { code: "format" });
  await assert.rejects(sealFile(file, ""), { code: "passphrase" });
});

test("the same letter typed in two ways is the same passphrase", async () => {
  const vault = await Vault.create("ada", "caf\u00e9");
  const same = await Vault.unlock(vault.record, "cafe\u0301");
  const sealed = await vault.seal(new Uint8Array([7]), "here");
  assert.deepEqual(await same.open(sealed, "here"), new Uint8Array([7]));
  await assert.rejects(same.open(sealed, "there"), { code: "integrity" });
});
