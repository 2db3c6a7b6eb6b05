/**
 * How long a browser takes to compile each kernel of the built-in model: the shaders that loading it and a
 * first reply ask for, each by itself in a fresh browser. One line a pipeline: label, ms of the module, ms of
 * the pipeline, characters. Needs `./dev web` before.
 *
 *   node tests/browser/compile-times.mjs
 */
import { join } from "node:path";
import { ROOT, launchChromium, openPage, serve } from "./support.mjs";

/** Runs in the page: loads the model, talks once, and gives what pipelines were made of. */
async function collect() {
  const pipelines = [];
  const codes = new WeakMap();
  const { createShaderModule, createComputePipeline } = GPUDevice.prototype;
  GPUDevice.prototype.createShaderModule = function (descriptor) {
    const module = createShaderModule.call(this, descriptor);
    codes.set(module, descriptor.code);
    return module;
  };
  GPUDevice.prototype.createComputePipeline = function (descriptor) {
    const { module, entryPoint, constants } = descriptor.compute;
    pipelines.push({ label: descriptor.label, code: codes.get(module), entryPoint, constants });
    return createComputePipeline.call(this, descriptor);
  };
  const { LanguageModel } = await import("/dist/index.js");
  const options = { model: "/nano/", worker: false, weights: "f16", contextTokens: 1024 };
  const session = await LanguageModel.create(options);
  await session.prompt("Hello.", { temperature: 0, maxTokens: 8 });
  return pipelines;
}

/** Runs in the page: compiles them one after the other. */
async function compile(pipelines) {
  const adapter = await navigator.gpu.requestAdapter();
  const { maxStorageBuffersPerShaderStage } = adapter.limits;
  const device = await adapter.requestDevice({
    requiredLimits: { maxStorageBuffersPerShaderStage },
    requiredFeatures: ["subgroups", "shader-f16"].filter((name) => adapter.features.has(name)),
  });
  const lines = [];
  for (const { label, code, entryPoint, constants } of pipelines) {
    const began = performance.now();
    const module = device.createShaderModule({ code });
    await module.getCompilationInfo();
    const parsed = performance.now();
    await device.createComputePipelineAsync({ layout: "auto", compute: { module, entryPoint, constants } });
    const made = performance.now();
    lines.push([label, Math.round(parsed - began), Math.round(made - parsed), code.length]);
  }
  return lines;
}

/** In a browser of its own, which has compiled nothing yet. */
async function inFreshBrowser(address, job, argument) {
  const browser = await launchChromium();
  try {
    const page = await openPage(await browser.newContext(), address);
    return await page.evaluate(job, argument);
  } finally {
    await browser.close();
  }
}

const server = await serve({ dist: join(ROOT, "pkg/dist"), nano: join(ROOT, "models/nano") });
try {
  const pipelines = await inFreshBrowser(server.address, collect);
  const lines = await inFreshBrowser(server.address, compile, pipelines);
  for (const line of lines.toSorted((a, b) => b[2] - a[2])) console.log(...line);
  console.log(`${lines.length} pipelines, ${lines.reduce((sum, line) => sum + line[2], 0)} ms`);
} finally {
  server.close();
}
