/**
 * A stand-in for the wasm module with the same surface and a memory of four numbers: each turn adds
 * the length of its text to all of them. It lets the store, the lock and the page be tested without
 * a GPU. It is itself a stand-in for `deltamem.js`, so it has that module's exports too.
 */
const MAGIC = new TextEncoder().encode("deltamem");

export class WebModel {
  static async load(files, options, onProgress) {
    for (const name of ["config.json", "tokenizer.json", "model.safetensors"]) {
      if (!files.has(name)) throw fakeError("missing_tensor", `${name} is missing`);
    }
    onProgress(0, 2);
    onProgress(2, 2);
    return new WebModel(JSON.parse(options));
  }

  constructor(options = {}) {
    this.options = options;
    this.delayMs = "WorkerGlobalScope" in globalThis ? 40 : 0;
    this.value = 0;
    this.turns = 0;
    this.history = [];
    this.undoable = [];
    this.isPaused = false;
    this.calls = [];
  }

  info() {
    return JSON.stringify({
      name: this.options.name ?? "fake",
      identity: "0".repeat(63) + "1",
      adapter: "fake adapter",
      contextWindow: 128,
      weights: "f32",
      kv: "f32",
      notice: "This is a fake model.",
    });
  }

  async turn(text, options, onPiece) {
    const { write = true } = JSON.parse(options);
    this.calls.push({ text, write });
    if (text === "fail") throw fakeError("gpu", "the device refused");
    const before = this.norm();
    this.undoable.push([this.value, this.turns, this.history.length]);
    const reply = `you said ${text}`;
    let answer = "";
    let stopReason = "end_of_sequence";
    for (const piece of reply.match(/\S+\s*/g)) {
      await new Promise((resolve) => setTimeout(resolve, this.delayMs));
      answer += piece;
      if (!onPiece("answer", piece)) {
        stopReason = "cancelled";
        break;
      }
    }
    this.history.push({ role: "user", content: text }, { role: "assistant", content: answer });
    if (write && !this.isPaused) {
      this.value += text.length;
      this.turns += 1;
    }
    return JSON.stringify({
      answer,
      thoughts: "",
      stopReason,
      generatedTokens: answer.length,
      promptTokens: text.length,
      promptSeconds: 0.1,
      decodeSeconds: 0.1,
      memoryNorms: [before, this.norm()],
    });
  }

  norm() {
    return 2 * this.value;
  }

  messages() {
    return JSON.stringify(this.history);
  }

  async resume(messages) {
    this.history = JSON.parse(messages);
    return "{}";
  }

  async newContext() {
    this.history = [];
    this.undoable = [];
  }

  async undoTurn() {
    const last = this.undoable.pop();
    if (!last) return false;
    [this.value, this.turns] = last;
    this.history.length = last[2];
    return true;
  }

  setWritePaused(isPaused) {
    this.isPaused = isPaused;
  }

  async exportMemory() {
    const bytes = new Uint8Array(16);
    bytes.set(MAGIC);
    new DataView(bytes.buffer).setUint32(8, this.value, true);
    new DataView(bytes.buffer).setUint32(12, this.turns, true);
    return bytes;
  }

  async importMemory(bytes) {
    if (bytes.length !== 16 || MAGIC.some((byte, index) => bytes[index] !== byte)) {
      throw fakeError("format", "not a memory");
    }
    this.value = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true);
    this.turns = new DataView(bytes.buffer, bytes.byteOffset).getUint32(12, true);
    this.undoable = [];
  }

  async forget() {
    this.value = 0;
    this.turns = 0;
    this.undoable = [];
  }

  async memoryInfo(nowMs) {
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
  }

  async memoryStates() {
    return new Float32Array(4).fill(this.value);
  }

  contextUsage() {
    return this.history.length;
  }

  contextWindow() {
    return 128;
  }

  measure(text) {
    return text.length;
  }

  free() {}
}

export default async function init() {}

function fakeError(code, message) {
  return Object.assign(new Error(message), { name: "DeltamemError", code });
}

/** Tells contents apart as the real one does, with other digits (FNV-1a). */
export class WebSha256 {
  #hash = 0x811c9dc5;
  #length = 0;

  update(bytes) {
    for (const byte of bytes) this.#hash = Math.imul(this.#hash ^ byte, 0x01000193) >>> 0;
    this.#length += bytes.length;
  }

  digest() {
    return (this.#hash.toString(16) + this.#length.toString(16).padStart(8, "0")).padStart(64, "0");
  }

  free() {}
}
