/**
 * A server of models for tests: ranges, ETags, and everything that goes wrong on the way. Counts what
 * it sends.
 */
import { createHash } from "node:crypto";
import { createServer } from "node:http";

const TYPES = { html: "text/html", js: "text/javascript", wasm: "application/wasm" };

export function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Bytes that look random and are the same in every run. */
export function noise(length, seed = 1) {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let at = 0; at + 4 <= length; at += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes.writeUInt32LE(state, at);
  }
  return bytes;
}

/** A model with `weights` as its large file, and the small ones that it needs. */
export function modelFiles(weights) {
  return {
    "config.json": Buffer.from('{"model_type":"smollm3"}'),
    "tokenizer.json": Buffer.from('{"version":"1.0"}'),
    "model.safetensors": weights,
  };
}

export class ModelServer {
  /** Path → bytes; a model's folder is a prefix. */
  files = new Map();
  /** Path → ETag, where it is not made from the bytes. */
  etags = new Map();
  hasRanges = true;
  hasEtags = true;
  headers = {};
  /** Gets each request with what would be sent; true means that it was answered. */
  rule = () => false;
  /** { path, from, to, sent } in the order in which they came. */
  requests = [];
  #server = createServer((request, response) => {
    this.#answer(request, response).catch((error) => {
      console.error("the test's server failed:", error);
      response.destroy();
    });
  });

  async listen() {
    await new Promise((resolve) => this.#server.listen(0, "localhost", resolve));
    this.#server.unref(); // a test that forgets it still ends
    this.url = `http://localhost:${this.#server.address().port}/`;
    return this;
  }

  close() {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  /** Puts a model's files into a folder; returns its URL. */
  add(folder, files) {
    for (const [name, bytes] of Object.entries(files)) this.files.set(`${folder}/${name}`, bytes);
    return `${this.url}${folder}/`;
  }

  /** Bytes sent of files whose path ends like this. */
  sent(ending = "") {
    const of = this.requests.filter(({ path }) => path.endsWith(ending));
    return of.reduce((sum, { sent }) => sum + sent, 0);
  }

  forget() {
    this.requests = [];
  }

  async #answer(request, response) {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname).slice(1);
    const bytes = this.files.get(path);
    const record = { path, from: 0, to: bytes?.length ?? 0, sent: 0, headers: request.headers };
    this.requests.push(record);
    for (const [name, value] of Object.entries(this.headers)) response.setHeader(name, value);
    if (!bytes) {
      const isAnswered = await this.rule({ ...record, request, response, status: 404, record });
      return void (isAnswered || response.writeHead(404).end());
    }
    const type = TYPES[path.split(".").at(-1)] ?? "application/octet-stream";
    response.setHeader("content-type", type);
    const etag = this.etags.get(path) ?? `"${sha256(bytes).slice(0, 16)}"`;
    if (this.hasEtags) response.setHeader("etag", etag);
    const match = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    const condition = request.headers["if-range"];
    const isPart = this.hasRanges && match && (condition === undefined || condition === etag);
    let status = 200;
    if (isPart) {
      record.from = Number(match[1]);
      record.to = Math.min(Number(match[2]) + 1, bytes.length);
      status = record.from >= bytes.length ? 416 : 206;
      response.setHeader(
        "content-range",
        status === 416
          ? `bytes */${bytes.length}`
          : `bytes ${record.from}-${record.to - 1}/${bytes.length}`,
      );
    }
    const body = status === 416 ? Buffer.alloc(0) : bytes.subarray(record.from, record.to);
    if (await this.rule({ ...record, request, response, body, status, record })) return;
    response.writeHead(status, { "content-length": body.length });
    if (request.method === "HEAD") return void response.end();
    await send(response, body, record);
  }
}

/** Sends piece by piece, so that what was sent is known when the other end goes away. */
export async function send(response, body, record) {
  for (let at = 0; at < body.length; at += 1 << 16) {
    if (response.destroyed) return;
    const piece = body.subarray(at, at + (1 << 16));
    record.sent += piece.length;
    if (!response.write(piece)) await writable(response);
  }
  response.end();
}

/** Until there is room for more, or nobody listens any longer. */
function writable(response) {
  return new Promise((resolve) => {
    const done = () => {
      response.off("drain", done);
      response.off("close", done);
      resolve();
    };
    response.on("drain", done);
    response.on("close", done);
  });
}
