/**
 * A stand-in for the wasm module with the same surface and a memory of four numbers: what is written
 * adds the length of its text to all of them; a character is a token. It lets the store, the lock,
 * the sessions and the page be tested without a GPU. It is itself a stand-in for `deltamem.js`, so it
 * has that module's exports too.
 *
 * Prompts that it obeys: `fail` (the GPU refuses in the middle of the turn), `lose` (the device is
 * lost in the middle), `call NAME JSON` (calls a tool), `think` (thinks first). `globalThis.fakeModel`
 * is read at every step, so that a test can make it slow, full or broken.
 */
const MAGIC = new TextEncoder().encode("deltamem");
const PIECES_OF_A_PROMPT = 4;

/** What a test may change, and what it may look at. */
const control = (globalThis.fakeModel ??= {
  /** Milliseconds a step; a prompt is read in four steps. */
  delayMs: "WorkerGlobalScope" in globalThis ? 40 : 0,
  /** Called before each step with its kind: `load`, `prompt` or `piece`. */
  onStep: () => {},
  /** Codes with which the next loads fail. */
  failLoads: [],
  /** Parts of the footprint that `inspect` gives. */
  footprint: {},
  /** True leaves calls hanging when the device is lost. */
  hangsWhenLost: false,
  /** The models that were loaded, in order. */
  models: [],
  /** Parked conversations that were neither adopted nor freed. */
  parked: 0,
  /** Models that were loaded and not freed. */
  loaded: 0,
});

class WebConversation {
  constructor(state) {
    this.state = state;
    control.parked += 1;
  }

  free() {
    if (!this.state) throw new Error("null pointer passed to rust");
    this.state = null;
    control.parked -= 1;
  }
}

export class WebModel {
  static async load(files, options, onProgress, onLost = () => {}) {
    await pause("load");
    for (const name of ["config.json", "tokenizer.json"]) {
      if (!files.has(name)) throw fakeError("missing_tensor", `${name} is missing`);
    }
    if (![...files.keys()].some((name) => name.endsWith(".safetensors"))) {
      throw fakeError("missing_tensor", "model.safetensors is missing");
    }
    onProgress(0, 2);
    const code = control.failLoads.shift();
    if (code) throw fakeError(code, `the fake failed to load: ${code}`);
    onProgress(2, 2);
    const model = new WebModel(JSON.parse(options), onLost);
    control.models.push(model);
    control.loaded += 1;
    return model;
  }

  constructor(options = {}, onLost = () => {}) {
    this.options = options;
    this.onLost = onLost;
    this.value = 0;
    this.turns = 0;
    this.history = options.system ? [{ role: "system", content: options.system }] : [];
    this.pinned = this.history.length;
    this.undoable = [];
    this.tools = [];
    this.isPaused = false;
    this.isCancelled = false;
    this.isBusy = false;
    this.isLost = false;
    this.isFreed = false;
    /** The turns that were asked for: `{ text, write, options }`. */
    this.calls = [];
  }

  info() {
    return JSON.stringify({
      name: this.options.name ?? "fake",
      identity: this.options.name === "bare" ? null : "0".repeat(63) + "1",
      adapter: "fake adapter",
      contextWindow: this.contextWindow(),
      weights: this.options.weights ?? "f32",
      kv: "f32",
      notice: "This is a fake model.",
    });
  }

  /** Keeps nothing by itself; tests look at where it would. */
  async storePrefixes(store) {
    this.prefixes = store;
  }

  turn(messages, options, onPiece) {
    return this.exclusive(() => this.answer(JSON.parse(messages), JSON.parse(options), onPiece, {}));
  }

  turnFrom(history, options, onPiece) {
    return this.exclusive(async () => {
      const messages = JSON.parse(history);
      const spoken = (text) => text?.replace(/<(think|tool_call)>.*<\/\1>/g, "");
      const isSame = (message, index) =>
        message.role === messages[index]?.role &&
        spoken(message.content) === spoken(messages[index].content);
      let common = 0;
      while (common < this.history.length && isSame(this.history[common], common)) common += 1;
      // Something has to be fed, and it ends with a question.
      common = Math.min(common, messages.length - 1);
      const before = [this.value, this.turns, this.history];
      const system = messages[0]?.role === "system" ? 1 : 0;
      this.pinned = Math.max(Math.min(this.pinned, common), system);
      const prefixTokens = count(this.history.slice(0, common));
      const droppedTokens = count(this.history.slice(common));
      let rollback = null;
      if (common < this.history.length) {
        const last = this.undoable.findLast(([, , length]) => length <= common);
        const isRestored = last !== undefined && JSON.parse(options).write !== false;
        if (isRestored) {
          // what both histories share after the checkpoint is written anew
          this.value = last[0] + count(this.history.slice(last[2], common));
          this.turns = last[1];
        }
        this.undoable = this.undoable.filter(([, , length]) => length < common);
        rollback = { commonTokens: prefixTokens, droppedTokens, memory: isRestored ? "restored" : "kept" };
      }
      this.history = this.history.slice(0, common);
      try {
        const rest = messages.slice(common);
        return await this.answer(rest, JSON.parse(options), onPiece, { rollback, prefixTokens });
      } catch (error) {
        [this.value, this.turns, this.history] = before;
        throw error;
      }
    });
  }

  async answer(messages, options, onPiece, { rollback = null, prefixTokens = null }) {
    const { write = true, continueFinalMessage = false } = options;
    const begun = continueFinalMessage ? messages.at(-1) : null;
    const last = begun ? messages.at(-2) : messages.at(-1);
    if ((last?.role !== "user" && last?.role !== "tool") || (begun && begun.role !== "assistant")) {
      throw fakeError("messages", "the last message is not from the user or a tool");
    }
    const isEmpty = ({ content, toolCalls }) =>
      typeof content !== "string" || (content.trim() === "" && !toolCalls);
    if (messages.some(isEmpty)) throw fakeError("messages", "a message is empty");
    const text = last.content;
    this.calls.push({ text, write, options, messages });
    const before = this.norm();
    const isWriting = write && !this.isPaused;
    const { reply, toolCalls } = this.replyTo(last, options);
    const evictedMessages = this.makeRoom(count(messages) + reply.length, options);
    const checkpoint = [this.value, this.turns, this.history.length];
    const reset = () => {
      [this.value, this.turns] = checkpoint;
      this.history.length = checkpoint[2];
    };
    for (let piece = 0; piece < PIECES_OF_A_PROMPT; piece += 1) {
      await pause("prompt");
      if (isWriting) this.value += 1; // half a prompt is written
      if (this.isCancelled) {
        reset();
        throw fakeError("cancelled", "the call was cancelled");
      }
      if (text === "fail" && piece === 2) {
        this.history.push(...messages); // takes nothing back
        throw fakeError("gpu", "the device refused");
      }
      if (text === "lose" && piece === 2) await this.lose("the fake's device was lost");
      if (this.isLost) throw await this.lostError();
    }
    [this.value, this.turns] = checkpoint;
    let thoughts = "";
    if (/^think/.test(text) && options.thinking !== false) {
      thoughts = "hm";
      onPiece("thought", thoughts);
    }
    let answer = "";
    let stopReason = "end_of_sequence";
    for (const piece of reply.match(/\S+\s*/g) ?? []) {
      await pause("piece");
      if (this.isLost) throw await this.lostError();
      answer += piece;
      if (!onPiece("answer", piece) || this.isCancelled) {
        stopReason = "cancelled";
        break;
      }
    }
    this.undoable.push(checkpoint);
    this.history.push(...(begun ? messages.slice(0, -1) : messages), {
      role: "assistant",
      // as the model wrote it, with thoughts and calls in the text
      content:
        (begun?.content ?? "") +
        (thoughts && `<think>${thoughts}</think>`) +
        answer +
        toolCalls.map((call) => `<tool_call>${JSON.stringify(call)}</tool_call>`).join(""),
    });
    if (isWriting) {
      this.value += count(messages);
      this.turns += 1;
    }
    return JSON.stringify({
      answer,
      thoughts,
      stopReason,
      generatedTokens: answer.length,
      promptTokens: count(this.history.slice(0, checkpoint[2])) + count(messages),
      promptSeconds: 0.1,
      decodeSeconds: 0.1,
      prefixTokens: prefixTokens ?? count(this.history.slice(0, checkpoint[2])),
      memoryNorms: [before, this.norm()],
      rollback,
      evictedMessages,
      toolCalls,
      gauges: options.gauges ? [{ layer: 0, beta: 0.5, outputRatio: 0.25 }] : null,
    });
  }

  replyTo({ role, content }, { constraint }) {
    const [, name, json] = /^call (\S+) (.*)$/.exec(content) ?? [];
    if (role === "user" && this.tools.some((tool) => (tool.function ?? tool).name === name)) {
      return { reply: "", toolCalls: [{ name, arguments: JSON.parse(json) }] };
    }
    if (constraint?.kind === "regex") return { reply: constraint.pattern, toolCalls: [] };
    if (constraint) return { reply: JSON.stringify({ said: content }), toolCalls: [] };
    return { reply: `${role === "tool" ? "the tool" : "you"} said ${content}`, toolCalls: [] };
  }

  /** Forgets the oldest messages but for the pinned ones until `needed` tokens fit. */
  makeRoom(needed, { overflow = "evict" }) {
    const window = this.contextWindow();
    let evicted = 0;
    const first = this.pinned;
    while (count(this.history) + needed > window) {
      if (overflow === "error" || this.history.length - first < 2) {
        throw fakeError("context_full", `${count(this.history) + needed} tokens, ${window} fit`);
      }
      this.history.splice(first, 2);
      this.undoable = [];
      evicted += 2;
    }
    return evicted;
  }

  append(messages, options) {
    return this.exclusive(async () => {
      const { write = true, overflow } = JSON.parse(options);
      const added = JSON.parse(messages);
      const evictedMessages = this.makeRoom(count(added), { overflow });
      for (let piece = 0; piece < PIECES_OF_A_PROMPT; piece += 1) {
        await pause("prompt");
        if (this.isLost) throw await this.lostError();
        if (this.isCancelled) throw fakeError("cancelled", "the call was cancelled");
      }
      this.undoable.push([this.value, this.turns, this.history.length]);
      this.history.push(...added);
      if (write && !this.isPaused) this.value += count(added);
      return JSON.stringify({ fedTokens: count(added), evictedMessages });
    });
  }

  write(text) {
    return this.exclusive(async () => {
      const before = this.value;
      for (let piece = 0; piece < PIECES_OF_A_PROMPT; piece += 1) {
        await pause("prompt");
        this.value += 1;
        if (this.isLost) throw await this.lostError();
        if (this.isCancelled || text === "fail") {
          this.value = before;
          throw this.isCancelled ? fakeError("cancelled", "cancelled") : fakeError("gpu", "refused");
        }
      }
      this.value = before + text.length;
      this.undoable = [];
      return JSON.stringify({ tokensWritten: text.length });
    });
  }

  canceller() {
    return { cancel: () => (this.isCancelled = true), free: () => {} };
  }

  setTools(tools) {
    this.mustBeFree();
    this.tools = JSON.parse(tools);
  }

  park() {
    return this.exclusive(async () => {
      const { value, turns, history, undoable, pinned } = this;
      return new WebConversation(structuredClone({ value, turns, history, undoable, pinned }));
    });
  }

  adopt(conversation) {
    return this.exclusive(async () => {
      if (!conversation.state) throw new Error("null pointer passed to rust");
      Object.assign(this, conversation.state);
      conversation.free();
    });
  }

  norm() {
    return 2 * this.value;
  }

  messages() {
    this.mustBeFree();
    return JSON.stringify(this.history);
  }

  resume(messages, pinned) {
    return this.exclusive(async () => {
      this.history = JSON.parse(messages);
      this.pinned = pinned ?? (this.history[0]?.role === "system" ? 1 : 0);
      this.undoable = [];
      return "{}";
    });
  }

  newContext() {
    return this.exclusive(async () => {
      this.history.length = this.pinned;
      this.undoable = [];
    });
  }

  undoTurn() {
    return this.exclusive(async () => {
      const last = this.undoable.pop();
      if (!last) return false;
      [this.value, this.turns] = last;
      this.history.length = last[2];
      return true;
    });
  }

  setWritePaused(isPaused) {
    this.mustBeFree();
    this.isPaused = isPaused;
  }

  exportMemory() {
    return this.exclusive(async () => {
      const bytes = new Uint8Array(16);
      bytes.set(MAGIC);
      new DataView(bytes.buffer).setUint32(8, this.value, true);
      new DataView(bytes.buffer).setUint32(12, this.turns, true);
      return bytes;
    });
  }

  importMemory(bytes) {
    return this.exclusive(async () => {
      if (bytes.length !== 16 || MAGIC.some((byte, index) => bytes[index] !== byte)) {
        throw fakeError("format", "not a memory");
      }
      this.value = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true);
      this.turns = new DataView(bytes.buffer, bytes.byteOffset).getUint32(12, true);
      this.undoable = [];
    });
  }

  forget() {
    return this.exclusive(async () => {
      this.value = 0;
      this.turns = 0;
      this.undoable = [];
    });
  }

  memoryInfo(nowMs) {
    return this.exclusive(async () => {
      const { value, turns } = this;
      return JSON.stringify({
        norm: this.norm(),
        layers: [{ layer: 0, norm: this.norm() }],
        counters: { generation: 0, turns, tokensSeen: value, tokensWritten: value, writes: value },
        createdMs: nowMs,
        updatedMs: nowMs,
        rank: 2,
        stateHeads: 1,
      });
    });
  }

  memoryStates() {
    return this.exclusive(async () => new Float32Array(4).fill(this.value));
  }

  contextUsage() {
    this.mustBeFree();
    return count(this.history);
  }

  contextWindow() {
    return this.options.context ?? 4096;
  }

  measure(text) {
    this.mustBeFree();
    return text.length;
  }

  free() {
    if (this.isFreed) throw new Error("null pointer passed to rust");
    this.mustBeFree();
    this.isFreed = true;
    control.loaded -= 1;
  }

  /** Loses the device, as a driver's reset would; what runs fails or hangs. */
  async lose(reason = "lost by the test") {
    this.isLost = true;
    this.onLost(reason);
  }

  lostError() {
    if (control.hangsWhenLost) return new Promise(() => {});
    return fakeError("device_lost", "the GPU device was lost");
  }

  /** One call at a time, as the wasm module has it. */
  async exclusive(job) {
    this.mustBeFree();
    if (this.isLost) throw fakeError("device_lost", "the GPU device was lost");
    this.isBusy = true;
    this.isCancelled = false;
    try {
      return await job();
    } finally {
      this.isBusy = false;
    }
  }

  mustBeFree() {
    if (this.isFreed) throw new Error("null pointer passed to rust");
    if (this.isBusy) throw new Error("recursive use of an object detected");
  }
}

export async function inspect(config, options) {
  const { weights = "f32", context = 4096 } = JSON.parse(options);
  const { fakeWeightBytes = 1000 } = JSON.parse(config);
  const maxBufferBytes = 1_000_000;
  const fits = fakeWeightBytes <= maxBufferBytes;
  return JSON.stringify({
    weightBytes: fakeWeightBytes,
    kvBytes: 2 * context,
    otherBytes: 64,
    largestBufferBytes: fakeWeightBytes,
    maxBufferBytes,
    maxBindingBytes: maxBufferBytes,
    parameters: fakeWeightBytes / 4,
    contextWindow: context,
    weights,
    kv: "f32",
    fits,
    reason: fits ? null : `the weights take ${fakeWeightBytes} bytes, this GPU allows ${maxBufferBytes}`,
    ...control.footprint,
  });
}

export async function selfTest(files) {
  return JSON.stringify({
    name: "fake",
    passed: files.size > 0,
    logitsError: 0,
    readsError: 0,
    statesError: 0,
    greedyTokens: 0,
    greedyMatching: 0,
    seconds: 0,
    reason: null,
  });
}

export async function bench(files, options, onProgress) {
  onProgress("loading");
  return JSON.stringify({ model: JSON.parse(options).name ?? "model", prefill: [], decode: [] });
}

/** SHA-256 (FIPS 180-4) of bytes as they come. */
export class WebSha256 {
  #bytes = [];

  update(bytes) {
    for (const byte of bytes) this.#bytes.push(byte);
  }

  digest() {
    const bits = 8 * this.#bytes.length;
    const bytes = [...this.#bytes, 0x80];
    while (bytes.length % 64 !== 56) bytes.push(0);
    const padded = new DataView(new ArrayBuffer(bytes.length + 8));
    bytes.forEach((byte, index) => padded.setUint8(index, byte));
    padded.setUint32(bytes.length, Math.floor(bits / 2 ** 32));
    padded.setUint32(bytes.length + 4, bits >>> 0);
    const state = [...SHA_INITIAL];
    for (let block = 0; block < padded.byteLength; block += 64) compress(state, padded, block);
    return state.map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }

  free() {}
}

const PRIMES = Array.from({ length: 310 }, (_, n) => n + 2).filter(
  (n) => !Array.from({ length: n - 2 }, (_, m) => m + 2).some((m) => n % m === 0),
);
const fraction = (x) => Math.floor((x - Math.floor(x)) * 2 ** 32) | 0;
const SHA_INITIAL = PRIMES.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
const SHA_ROUNDS = PRIMES.slice(0, 64).map((prime) => fraction(Math.cbrt(prime)));

function compress(state, data, offset) {
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  const w = Array.from({ length: 16 }, (_, i) => data.getInt32(offset + 4 * i));
  for (let i = 16; i < 64; i += 1) {
    const s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >>> 3);
    const s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >>> 10);
    w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i += 1) {
    const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + SHA_ROUNDS[i] + w[i]) | 0;
    const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [a, b, c, d, e, f, g, h] = [(t1 + t2) | 0, a, b, c, (d + t1) | 0, e, f, g];
  }
  [a, b, c, d, e, f, g, h].forEach((word, index) => (state[index] = (state[index] + word) | 0));
}

export default async function init() {}

function count(messages) {
  return messages.reduce((sum, { content }) => sum + content.length, 0);
}

function pause(kind) {
  control.onStep(kind);
  return new Promise((resolve) => setTimeout(resolve, control.delayMs));
}

function fakeError(code, message) {
  return Object.assign(new Error(message), { name: "DeltamemError", code });
}
