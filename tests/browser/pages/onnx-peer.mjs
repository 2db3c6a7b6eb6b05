/**
 * onnxruntime-web's WebGPU provider as a peer of `bench`: a `BenchPeer` of wasm.ts over an ONNX file of
 * tests/peers/make_onnx.py. Keys and values stay on the GPU from call to call; a token's logits come back
 * to the CPU, which takes the largest.
 */

/** Shaders with subgroups compute wrong prompts on SwiftShader (onnxruntime-web 1.30): no device gets them. */
function hideSubgroups() {
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = function (descriptor = {}) {
    const wanted = [...(descriptor.requiredFeatures ?? [])];
    const requiredFeatures = wanted.filter((feature) => !feature.includes("subgroups"));
    return requestDevice.call(this, { ...descriptor, requiredFeatures });
  };
}

/** The place of the largest value. */
function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

class OnnxPeer {
  #ort;
  #session;
  #vocabSize;
  /** Keys and values of the usual prompt, by name of the input, and how many tokens they are of. */
  #context = { length: 0, cache: {} };

  constructor(ort, session, about) {
    this.#ort = ort;
    this.#session = session;
    this.about = about;
    this.#vocabSize = session.outputMetadata.find(({ name }) => name === "logits").shape.at(-1);
  }

  #empty() {
    const cache = {};
    for (const { name, shape } of this.#session.inputMetadata) {
      if (!name.startsWith("past.")) continue;
      const dims = shape.map((size) => (typeof size === "number" ? size : 0));
      cache[name] = new this.#ort.Tensor("float32", new Float32Array(0), dims);
    }
    return { length: 0, cache };
  }

  /** Takes tokens in behind `context`: the logits of the last one, and the context that follows. */
  async #feed(tokens, context) {
    const { Tensor } = this.#ort;
    const length = context.length + tokens.length;
    const results = await this.#session.run({
      input_ids: new Tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]),
      seqlens_k: new Tensor("int32", Int32Array.of(length - 1), [1]),
      total_sequence_length: new Tensor("int32", Int32Array.of(length), [1]),
      ...context.cache,
    });
    const { logits, ...presents } = results;
    const cache = {};
    for (const [name, tensor] of Object.entries(presents)) {
      cache[name.replace("present", "past")] = tensor;
    }
    return { logits: logits.data, context: { length, cache } };
  }

  #drop(context) {
    for (const tensor of Object.values(context.cache)) tensor.dispose();
  }

  #prompt(n) {
    return Array.from({ length: n }, (_, i) => (i * 2_654_435_761 + 12_345) % this.#vocabSize);
  }

  /** The logits behind the usual prompt, for comparing engines. */
  async logits(n) {
    const { logits, context } = await this.#feed(this.#prompt(n), this.#empty());
    this.#drop(context);
    return Array.from(logits);
  }

  async prefill(n) {
    const start = performance.now();
    const { logits, context } = await this.#feed(this.#prompt(n), this.#empty());
    argmax(logits);
    const seconds = (performance.now() - start) / 1000;
    this.#drop(this.#context);
    this.#context = context;
    return seconds;
  }

  async decode(n, length) {
    if (this.#context.length !== length) {
      this.#drop(this.#context);
      this.#context =
        length === 0 ? this.#empty() : (await this.#feed(this.#prompt(length), this.#empty())).context;
    }
    let token = 1;
    let context = this.#context;
    const start = performance.now();
    for (let i = 0; i < n; i++) {
      const fed = await this.#feed([token], context);
      // the prompt's own is for the next time
      if (context !== this.#context) this.#drop(context);
      token = argmax(fed.logits);
      context = fed.context;
    }
    const seconds = (performance.now() - start) / 1000;
    this.#drop(context);
    return seconds;
  }
}

/** The peer; `model` is the ONNX file's address, `ort` that of onnxruntime-web's module. */
export async function create({ model, ort: address, about: more = "" }) {
  hideSubgroups();
  const ort = await import(address);
  ort.env.logLevel = "error";
  const response = await fetch(model);
  if (!response.ok) throw new Error(`${model}: status ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const layers = Number(new URL(model, location.href).searchParams.get("layers"));
  const kept = { logits: "cpu" };
  for (let layer = 0; layer < layers; layer++) {
    for (const part of ["key", "value"]) kept[`present.${layer}.${part}`] = "gpu-buffer";
  }
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: ["webgpu"],
    graphOptimizationLevel: "all",
    preferredOutputLocation: kept,
  });
  const about = {
    name: "onnxruntime-web",
    version: ort.env.versions.web ?? ort.env.versions.common,
    engine: `WebGPU, MatMulNBits q4, KV f32 on the GPU, without subgroups${more}`,
  };
  return new OnnxPeer(ort, session, about);
}
