/**
 * Beginnings kept in the file system of a real Chromium: a later visit does not read them again, with the
 * same reply and the same memory to the bit; damaged files are told of and made again. Needs `./dev web`
 * before.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ROOT, launchChromium, openPage, serve } from "./support.mjs";

let server;
let browser;

before(async () => {
  assert.ok(existsSync(join(ROOT, "pkg/dist/deltamem.js")), "run `./dev web` first");
  server = await serve({ dist: join(ROOT, "pkg/dist"), noise: join(ROOT, "tests/noise") });
  browser = await launchChromium();
});

after(async () => {
  await browser?.close();
  server?.close();
});

/** Runs in the page: one visit with one question, by a person of whom nothing is known. */
async function visit({ profile, prefixCache }) {
  const { LanguageModel } = await import("/dist/index.js");
  const content = "Be kind, be brief, and never speak of the weather. ".repeat(4);
  const session = await LanguageModel.create({
    model: "/noise/",
    weights: "f32",
    contextTokens: 512,
    initialPrompts: [{ role: "system", content }],
    profile,
    prefixCache,
  });
  let report;
  session.addEventListener("turn", ({ detail }) => (report = detail));
  const reply = await session.prompt("Who plays the violin?", { temperature: 0, maxTokens: 4 });
  const { data } = await session.memory.states();
  session.destroy();
  const bytes = await LanguageModel.prefixes.bytes();
  const bits = [...new Uint32Array(data.buffer, data.byteOffset, data.length)];
  return { reply, prefixTokens: report.prefixTokens, bits, bytes };
}

/** Runs in the page: changes a byte of what is kept. */
async function damage() {
  const root = await navigator.storage.getDirectory();
  const top = await root.getDirectoryHandle("deltamem");
  const folder = await top.getDirectoryHandle("prefixes");
  for await (const [name, handle] of folder.entries()) {
    if (!name.endsWith(".dmprefix")) continue;
    const bytes = new Uint8Array(await (await handle.getFile()).arrayBuffer());
    bytes[bytes.length >> 1] ^= 1;
    const stream = await handle.createWritable();
    await stream.write(bytes);
    await stream.close();
  }
}

test("a beginning is read on the first visit only, and gives the very numbers", async () => {
  const context = await browser.newContext();
  const complaints = [];
  const inPage = async (job, argument) => {
    const page = await openPage(context, server.address, complaints);
    const result = await page.evaluate(job, argument);
    await page.close();
    return result;
  };
  const plain = await inPage(visit, { profile: "plain" });
  const first = await inPage(visit, { profile: "first", prefixCache: true });
  const second = await inPage(visit, { profile: "second", prefixCache: true });
  assert.deepEqual([plain.prefixTokens, plain.bytes], [0, 0]);
  assert.equal(first.prefixTokens, 0);
  assert.ok(second.prefixTokens >= 64, `${second.prefixTokens} tokens`);
  assert.ok(second.bytes > 64 * 1024 && second.bytes === first.bytes, `${second.bytes} bytes`);
  for (const { reply, bits } of [first, second]) assert.deepEqual({ reply, bits }, { reply: plain.reply, bits: plain.bits });
  assert.deepEqual(complaints, []);

  await inPage(damage);
  const third = await inPage(visit, { profile: "third", prefixCache: true });
  assert.equal(third.prefixTokens, 0);
  assert.deepEqual([third.reply, third.bits], [plain.reply, plain.bits]);
  assert.equal(complaints.length, 1);
  assert.match(complaints.pop(), /kept context is not used: .*checksum/);
  const fourth = await inPage(visit, { profile: "fourth", prefixCache: { bytes: 1 << 24 } });
  assert.equal(fourth.prefixTokens, second.prefixTokens);
  // too little room keeps nothing, and takes nothing from the others either
  const small = await inPage(visit, { profile: "fifth", prefixCache: { bytes: 1000 } });
  assert.deepEqual([small.reply, small.bytes], [plain.reply, second.bytes]);
  await inPage(async () => (await import("/dist/index.js")).LanguageModel.prefixes.clear());
  const cleared = await inPage(visit, { profile: "sixth" });
  assert.equal(cleared.bytes, 0);
  assert.deepEqual(complaints, []);
  await context.close();
});
