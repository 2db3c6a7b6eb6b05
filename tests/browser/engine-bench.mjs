/**
 * `deltamem bench` in Chromium on SwiftShader: the same measurements in a worker, the same JSON on
 * standard output. Without a file it is model S, made up by the native program. Needs `./dev web`
 * before.
 *
 *   node tests/browser/engine-bench.mjs [FILE.gguf] [OPTIONS]      OPTIONS: JSON, BenchOptions of wasm.ts
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { ROOT, launchChromium, openPage, program, serve } from "./support.mjs";

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

/** The report on the model whose files are `names` in `folder`; `tell` hears what is being done. */
export async function benchInChromium(folder, names, options, tell = () => {}) {
  const server = await serve({
    dist: join(ROOT, "pkg/dist"),
    pages: join(ROOT, "tests/browser/pages"),
    model: folder,
  });
  const browser = await launchChromium();
  try {
    const page = await openPage(browser, server.address);
    page.on("console", (message) => message.type() === "info" && tell(message.text()));
    page.setDefaultTimeout(0);
    const request = { folder: "/model", names, options };
    const { report, error } = await page.evaluate(measureInWorker, request);
    if (error) throw new Error(error);
    return report;
  } finally {
    await browser.close();
    server.close();
  }
}

async function main([file, options = "{}"]) {
  const made = await mkdtemp(join(tmpdir(), "deltamem-bench-"));
  try {
    if (!file) program(made, "synth", "--config", "S", "--type", "q4_k", join(made, "S.gguf"));
    const path = resolve(file ?? join(made, "S.gguf"));
    const name = basename(path);
    const wanted = { name: name.replace(/\.gguf$/, ""), ...JSON.parse(options) };
    const report = await benchInChromium(dirname(path), [name], wanted, console.error);
    console.log(JSON.stringify(report, null, 2));
  } finally {
    await rm(made, { recursive: true });
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await main(process.argv.slice(2));
