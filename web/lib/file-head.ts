/**
 * The beginning of a file on a server, read from as if the whole were here. A GGUF file's header has the
 * vocabulary in it, some megabytes, and does not say beforehand how long it is.
 */
import { DeltamemError } from "./errors.js";
import { type Net, type Remote, readRange, readWhole } from "./http.js";
import type { ByteFile } from "./wasm.js";

const FIRST_BYTES = 1 << 20;
const MOST_BYTES = 1 << 28;

/** A file of which only the beginning has come. */
export class FileHead implements ByteFile {
  /** True after a reading that went beyond what has come. */
  isShort = false;
  readonly size: number;
  readonly #remote: Remote;
  readonly #net: Net;
  #bytes = new Uint8Array(0);

  constructor(remote: Remote, net: Net) {
    // where the server does not say, nothing is said against what the header claims
    this.size = remote.size ?? Number.MAX_SAFE_INTEGER;
    this.#remote = remote;
    this.#net = net;
  }

  read(into: Uint8Array, at: number): number {
    if (at + into.length > this.#bytes.length) {
      this.isShort = true;
      throw new DeltamemError("network", `${this.#remote.url}: this part has not come yet.`);
    }
    into.set(this.#bytes.subarray(at, at + into.length));
    return into.length;
  }

  /** Fetches four times as much as before. */
  async grow(): Promise<void> {
    const before = this.#bytes;
    if (4 * before.length > MOST_BYTES) {
      throw new DeltamemError("format", `${this.#remote.url}: its header does not end.`);
    }
    const bytes = new Uint8Array(Math.min(this.size, Math.max(FIRST_BYTES, 4 * before.length)));
    bytes.set(before);
    if (this.#remote.hasRanges) {
      const write = (chunk: Uint8Array, at: number) => bytes.set(chunk, at);
      await readRange(this.#remote, before.length, bytes.length, this.#net, write);
    } else {
      await readBeginning(this.#remote, bytes, this.#net);
    }
    this.#bytes = bytes;
    this.isShort = false;
  }
}

/** Fills `into` from a server that gives a file as a whole only, and hangs up then. */
async function readBeginning(remote: Remote, into: Uint8Array, net: Net): Promise<void> {
  const enough = new Error("enough");
  const take = (chunk: Uint8Array, at: number) => {
    into.set(chunk.subarray(0, into.length - at), at);
    if (at + chunk.length >= into.length) throw enough;
  };
  await readWhole(remote, net, () => undefined, take).catch((error: unknown) => {
    if (error !== enough) throw error;
  });
}

/** Does `job`, again as long as it fails for want of more of a file. */
export async function withHeads<T>(heads: FileHead[], job: () => Promise<T>): Promise<T> {
  await Promise.all(heads.map((head) => head.grow()));
  for (;;) {
    try {
      return await job();
    } catch (error) {
      const short = heads.filter((head) => head.isShort);
      if (short.length === 0) throw error;
      await Promise.all(short.map((head) => head.grow()));
    }
  }
}
