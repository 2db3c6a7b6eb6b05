/**
 * `deltamem bench` in Chromium on SwiftShader: the same measurements in a worker, the same JSON on
 * standard output. Needs `./dev web` before.
 *
 *   node tests/browser/engine-bench.mjs [FILE.gguf] [OPTIONS]      OPTIONS: JSON, BenchOptions of wasm.ts
 *     --synth NAME      without a file: the model of these shapes, made up by the native program [S]
 *     --against onnxruntime-web
 *                       measures it in the same rounds, on the same weights (Q4_0)
 *     --logits N        only prints its logits behind the usual prompt of N tokens
 *     --python PATH     the Python that has tests/peers/requirements.txt [python3]
 *     --accuracy N      MatMulNBits' accuracy_level [4]
 *
 * This is not the native program's: a page measures, and Node.js drives the browser for the tests too.
 */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { ROOT, launchChromium, openPage, program, serve } from "./support.mjs";

const PEERS = join(ROOT, "tests/peers");
const ORT = join(PEERS, "node_modules/onnxruntime-web/dist");

/** Runs in the page. */
function measureInWorker(request) {
  const worker = new Worker("/pages/bench-worker.mjs", { type: "module" });
  return new Promise((settle) => {
    worker.onmessage = ({ data }) => {
      if (data.progress) console.info(data.progress);
      else settle(data);
    };
    worker.onerror = (event) => settle({ error: `the worker failed: ${event.message}` });
    worker.postMessage(request);
  });
}

/**
 * The report on the model whose files are `names` in `folder`; `tell` hears what is being done. `more`
 * goes to the worker as it is, and `folders` are served beside the model.
 */
export async function benchInChromium(folder, names, options, tell = () => {}, more = {}, folders = {}) {
  const server = await serve({
    dist: join(ROOT, "pkg/dist"),
    pages: join(ROOT, "tests/browser/pages"),
    model: folder,
    ...folders,
  });
  const browser = await launchChromium();
  try {
    const page = await openPage(browser, server.address);
    page.on("console", (message) => message.type() === "info" && tell(message.text()));
    page.setDefaultTimeout(0);
    const request = { folder: "/model", names, options, ...more };
    const { report, error } = await page.evaluate(measureInWorker, request);
    if (error) throw new Error(error);
    return report;
  } finally {
    await browser.close();
    server.close();
  }
}

/** Writes the ONNX file of a GGUF file; gives the number of its layers. */
function makeOnnx(python, gguf, onnx, accuracy) {
  const script = join(PEERS, "make_onnx.py");
  const requirements = join(PEERS, "requirements.txt");
  try {
    const printed = execFileSync(python, [script, gguf, onnx, "--accuracy", accuracy], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
    });
    return JSON.parse(printed).layers;
  } catch (error) {
    const help = `if a module is missing: ${python} -m pip install -r ${requirements}`;
    throw new Error(`${python} could not make the ONNX file (${error.message}); ${help}`);
  }
}

async function main(args) {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      synth: { type: "string", default: "S" },
      against: { type: "string" },
      logits: { type: "string" },
      python: { type: "string", default: "python3" },
      accuracy: { type: "string", default: "4" },
    },
  });
  const file = positionals.find((given) => !given.startsWith("{"));
  const options = positionals.find((given) => given.startsWith("{")) ?? "{}";
  const { against } = values;
  if (against !== undefined && against !== "onnxruntime-web") {
    throw new Error("--against onnxruntime-web is what a page can be measured against");
  }
  if (against && !existsSync(ORT)) {
    throw new Error(`onnxruntime-web is not installed: npm ci --prefix ${PEERS}`);
  }
  const made = await mkdtemp(join(tmpdir(), "deltamem-bench-"));
  try {
    const type = against ? "q4_0" : "q4_k";
    const own = join(made, `${values.synth}.gguf`);
    // the peer's table of embeddings has four bits, too
    const rules = against ? ["--tensor-type", "token_embd=q4_0"] : [];
    if (!file) program(made, "synth", "--config", values.synth, "--type", type, ...rules, own);
    const path = resolve(file ?? own);
    const name = basename(path);
    const wanted = { name: name.replace(/\.gguf$/, ""), ...JSON.parse(options) };
    const more = {};
    const folders = {};
    if (against) {
      const layers = makeOnnx(values.python, path, join(made, "peer.onnx"), values.accuracy);
      more.peer = {
        module: "/pages/onnx-peer.mjs",
        model: `/peer/peer.onnx?layers=${layers}`,
        ort: "/ort/ort.webgpu.min.mjs",
        about: `, accuracy_level ${values.accuracy}`,
      };
      if (values.logits) more.logitsOf = Number(values.logits);
      Object.assign(folders, { peer: made, ort: ORT });
      // as the peer has no memory
      wanted.delta ??= ["off"];
    }
    const report = await benchInChromium(dirname(path), [name], wanted, console.error, more, folders);
    console.log(JSON.stringify(report, null, 2));
  } finally {
    await rm(made, { recursive: true });
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main(process.argv.slice(2));
