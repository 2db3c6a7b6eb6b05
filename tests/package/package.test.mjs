/**
 * The npm package as its users get it: packed, judged by publint and attw, imported in Node, installed
 * into apps that three bundlers build and a real Chromium runs with the built-in model. Needs
 * `./dev web` before, and `npm ci` here and in web/.
 *
 *   DELTAMEM_CHROMIUM     the browser, by default /usr/bin/chromium
 *   DELTAMEM_FAKE_MODEL   set: the tests' stand-in takes the place of the wasm module
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { appendFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { buildWithEsbuild, buildWithVite, buildWithWebpack, serveWithVite } from "./bundlers.mjs";
import { launchChromium } from "../browser/support.mjs";

const webRequire = createRequire(new URL("../../web/package.json", import.meta.url));
const run = promisify(execFile);
const here = (relative) => fileURLToPath(new URL(relative, import.meta.url));

const isFake = Boolean(process.env.DELTAMEM_FAKE_MODEL);
/** A software adapter on a busy machine is slow. */
const PATIENCE_MS = 120_000;
/** What `npm install deltamem` may download, in bytes: the wasm module and little else. */
const PACKED_BYTES = 2_000_000;
/** What the README says that a page must allow. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "worker-src 'self'",
  "connect-src 'self'",
  "img-src data:",
].join("; ");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };

let folder;
let packed;
let app;
let browser;

before(async () => {
  assert.ok(existsSync(here("../../pkg/dist/deltamem.js")), "run `./dev web` first");
  folder = await mkdtemp(join(tmpdir(), "deltamem-package-"));
  const source = join(folder, "pkg");
  await cp(here("../../pkg"), source, { recursive: true });
  if (isFake) await putFakeModel(source);
  const { stdout } = await npm(source, "pack", "--json", "--ignore-scripts", "--pack-destination", folder);
  packed = JSON.parse(stdout)[0];
  packed.path = join(folder, packed.filename);
  app = await makeApp("plain");
  browser = await launchChromium();
});

after(async () => {
  await browser?.close();
  if (folder) await rm(folder, { recursive: true, force: true, maxRetries: 5 });
});

/** npm's messages are on standard error; the registry is not asked. */
function npm(cwd, ...words) {
  return run("npm", [...words, "--offline", "--no-audit", "--no-fund"], { cwd });
}

/** The stand-in asks for the wasm file in the way wasm-bindgen's module does. */
async function putFakeModel(source) {
  await cp(here("../../web/test/fake-model.mjs"), join(source, "dist/deltamem.js"));
  await appendFile(
    join(source, "dist/deltamem.js"),
    `export const wasmUrl = new URL("deltamem_bg.wasm", import.meta.url);\n`,
  );
}

/** An app of its own, with the packed package installed into it. */
async function makeApp(name) {
  const root = join(folder, name);
  await mkdir(root);
  await cp(here("app"), root, { recursive: true });
  await writeFile(join(root, "package.json"), JSON.stringify({ name, private: true, type: "module" }));
  await npm(root, "install", "--ignore-scripts", packed.path);
  return root;
}

test("the tarball has what it needs and nothing else", async () => {
  const names = packed.files.map(({ path }) => path);
  for (const name of ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "dist/deltamem_bg.wasm"]) {
    assert.ok(names.includes(name), `${name} is missing`);
  }
  const strange = names.filter(
    (name) => !/^(package\.json|README\.md|LICENSE-\w+|dist\/[\w-]+(\.js|\.js\.map|\.d\.ts|\.wasm))$/i.test(name),
  );
  assert.deepEqual(strange, []);
  assert.ok(packed.size <= PACKED_BYTES, `${packed.size} bytes packed, at most ${PACKED_BYTES}`);
  const scripts = names.filter((name) => name.endsWith(".js"));
  const texts = await Promise.all(scripts.map((name) => readFile(join(app, "node_modules/deltamem", name), "utf8")));
  const classes = texts.filter((text) => /LanguageModel extends EventTarget/.test(text));
  assert.equal(classes.length, 1, "every entry shares one class LanguageModel");
  console.log(`packed: ${packed.size} bytes, ${names.length} files`);
});

test("publint finds nothing to say", async () => {
  const pkgDir = join(app, "node_modules/deltamem");
  const { messages, pkg } = await publint({ pkgDir, pack: false, strict: true });
  assert.deepEqual(messages.map((message) => formatMessage(message, pkg, { color: false })), []);
});

test("attw resolves the types of every entry", async () => {
  const main = fileURLToPath(import.meta.resolve("@arethetypeswrong/cli/package.json"));
  const { bin } = JSON.parse(await readFile(main, "utf8"));
  const words = [packed.path, "--profile", "esm-only", "--no-color", "--no-emoji"];
  // Fails with the table in the message.
  await run(process.execPath, [join(main, "..", bin.attw ?? bin), ...words]);
});

test("a TypeScript app compiles against it, the library's own types included", async () => {
  const tsc = join(webRequire.resolve("typescript/package.json"), "../bin/tsc");
  await writeFile(
    join(app, "app.mts"),
    `import { LanguageModel, type TurnReport } from "deltamem";
     import { createClient, type ChatCompletion } from "deltamem/openai";
     import init, { WebModel, type ModelInfo } from "deltamem/wasm";
     export async function answer(session: LanguageModel): Promise<[TurnReport, ChatCompletion]> {
       const messages = [{ role: "user" as const, content: "Hello." }];
       const { completions } = createClient({ session }).chat;
       return [await session.complete(messages), await completions.create({ messages })];
     }
     export async function nameOf(files: Map<string, Uint8Array>): Promise<ModelInfo["name"]> {
       await init();
       const model = await WebModel.load(files, "{}", () => undefined, () => undefined);
       return (JSON.parse(model.info()) as ModelInfo).name;
     }`,
  );
  for (const module of [["esnext", "bundler"], ["nodenext", "nodenext"]]) {
    const words = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2023,dom,dom.iterable,dom.asynciterable"];
    words.push("--types", "", "--module", module[0], "--moduleResolution", module[1], "app.mts");
    await run(process.execPath, [tsc, ...words], { cwd: app }).catch(({ stdout }) => assert.fail(stdout));
  }
});

test("an import in Node touches no global of browsers", async () => {
  const script = `
    const used = [];
    for (const name of ["window", "document", "self", "location", "navigator", "Worker", "indexedDB",
      "fetch", "caches", "BroadcastChannel", "localStorage"]) {
      Object.defineProperty(globalThis, name, { get() { used.push(name); return undefined; } });
    }
    const names = ["deltamem", "deltamem/openai", "deltamem/ai-sdk", "deltamem/wasm"];
    const [main, openai, aiSdk, wasm] = await Promise.all(names.map((name) => import(name)));
    const kinds = [main.LanguageModel, openai.createClient, aiSdk.createDeltamem, wasm.default, wasm.WebModel]
      .map((value) => typeof value);
    const { default: manifest } = await import("deltamem/package.json", { with: { type: "json" } });
    console.log(JSON.stringify({ used, kinds, name: manifest.name }));`;
  const { stdout } = await run(process.execPath, ["--input-type=module", "--no-warnings", "-e", script], {
    cwd: app,
  });
  const kinds = Array(5).fill("function");
  assert.deepEqual(JSON.parse(stdout), { used: [], kinds, name: "deltamem" });
});

/** Serves a built app at a path that is not the top, under the policy that the README asks for. */
async function serve(root) {
  const server = createServer(async (request, response) => {
    const path = decodeURI(new URL(request.url, "http://localhost").pathname);
    const name = normalize(path.slice("/app/".length) || "index.html");
    const file = name.startsWith("models/nano/") ? here(`../../${name}`) : join(root, name);
    try {
      if (name.startsWith("..")) throw new Error("outside the app");
      const bytes = await readFile(file);
      const type = TYPES[extname(file)] ?? "application/octet-stream";
      response.writeHead(200, { "content-type": type, "content-security-policy": POLICY }).end(bytes);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "localhost", resolve));
  return { address: `http://localhost:${server.address().port}/app/`, end: () => server.close() };
}

/** Loads the app and checks what it made of the package. */
async function visit(address) {
  const page = await browser.newPage();
  try {
    const problems = [];
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => {
      // An optional file of the model that is not there is no problem; Chromium logs it as one.
      if (message.type() === "error" && !/status of 404/.test(message.text())) problems.push(message.text());
    });
    await page.goto(address);
    const found = await page
      .waitForFunction(() => globalThis.result, null, { timeout: PATIENCE_MS })
      .catch((error) => assert.fail(`${error.message}\n${problems.join("\n")}`));
    const result = await found.jsonValue();
    assert.equal(result.error, undefined, `${result.error}\n${problems.join("\n")}`);
    assert.equal(result.model, isFake ? result.model : "nano");
    assert.equal(result.tokens.length, 3, "prompt, openai and ai-sdk each answer once");
    assert.ok(result.tokens.every((count) => count > 0), `tokens ${result.tokens}`);
    assert.ok(result.reply.length > 0, "an empty reply");
    assert.equal(result.replyOnPage, result.reply, "with a worker and without");
    for (const finish of result.finish) assert.match(finish, /^(stop|length)$/);
    assert.equal(result.emptyHash, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert.deepEqual(problems, []);
  } finally {
    await page.close();
  }
}

const bundlers = { vite: buildWithVite, webpack: buildWithWebpack, esbuild: buildWithEsbuild };
for (const [name, build] of Object.entries(bundlers)) {
  test(`an app built with ${name} answers in Chromium`, async () => {
    const { address, end } = await serve(await build(await makeApp(name)));
    try {
      await visit(address);
    } finally {
      end();
    }
  });
}

test("Vite's development server serves an app that answers in Chromium", async () => {
  const root = await makeApp("vite-dev");
  await cp(here("../../models/nano"), join(root, "public/models/nano"), { recursive: true });
  const { address, end } = await serveWithVite(root);
  try {
    await visit(address);
  } finally {
    await end();
  }
});
