/**
 * One file from the network into a place. Owns the pieces, which arrive several at a time and in any
 * order, and the hash, which takes them in order: directly while they arrive at its position, else
 * read back when their turn comes. Where the bytes lie is the `Place`'s.
 */
import { type Net, type Remote, readRange, readWhole } from "./http.js";
import type { ByteFile, WebSha256 } from "./wasm.js";

/** Bytes that are asked for at a time, and the least that an interruption costs. */
export const PIECE_BYTES = 8 << 20;
/** Pieces of one file on their way at the same time. */
const PARALLEL = 4;
/** Read back for the hash at a time, and before others have their turn. */
const HASHED_AT_A_TIME = 1 << 20;
const HASHED_IN_A_ROW = 32 << 20;

/** Where a file is put together. */
export interface Place extends ByteFile {
  /** Pieces that are there for good. */
  readonly finished: ReadonlySet<number>;
  write(bytes: Uint8Array, at: number): void;
  /** Makes a piece durable and remembers it. */
  finish(piece: number): void;
  /** Empties it, also of what earlier visits left. */
  reset(): void;
}

export interface Downloaded {
  bytes: number;
  /** 64 hex digits. */
  sha256: string;
}

/**
 * Fetches what is missing. `onBytes` gets the number of bytes that came, or were there; a negative
 * one takes back what has to come again. Throws `ChangedError` if the server changed the file.
 */
export async function download(
  remote: Remote,
  place: Place,
  net: Net,
  newHash: () => WebSha256,
  onBytes: (n: number) => void,
): Promise<Downloaded> {
  const hash = new OrderedHash(place, newHash, net.signal);
  let counted = 0;
  const count = (n: number) => {
    counted += n;
    onBytes(n);
  };
  try {
    const { size } = remote;
    const bytes =
      remote.hasRanges && size !== null
        ? await downloadPieces(remote, size, place, hash, net, count)
        : await downloadWhole(remote, place, hash, net, count);
    return { bytes, sha256: await hash.digest(bytes) };
  } catch (error) {
    onBytes(-counted);
    throw error;
  } finally {
    hash.free();
  }
}

async function downloadWhole(
  remote: Remote,
  place: Place,
  hash: OrderedHash,
  net: Net,
  onBytes: (n: number) => void,
): Promise<number> {
  let done = 0;
  const begin = () => {
    onBytes(-done);
    done = 0;
    place.reset();
    hash.reset();
  };
  return readWhole(remote, net, begin, (bytes, at) => {
    place.write(bytes, at);
    hash.offer(bytes, at);
    done += bytes.length;
    onBytes(bytes.length);
  });
}

async function downloadPieces(
  remote: Remote,
  size: number,
  place: Place,
  hash: OrderedHash,
  net: Net,
  onBytes: (n: number) => void,
): Promise<number> {
  const nPieces = Math.ceil(size / PIECE_BYTES);
  const end = (piece: number) => Math.min(size, (piece + 1) * PIECE_BYTES);
  const missing: number[] = [];
  for (let piece = 0; piece < nPieces; piece += 1) {
    if (place.finished.has(piece)) onBytes(end(piece) - piece * PIECE_BYTES);
    else missing.push(piece);
  }
  // One that fails ends the others; its error is the one that counts.
  const siblings = new AbortController();
  const ours = { ...net, signal: AbortSignal.any([net.signal, siblings.signal]) };
  let failure: { error: unknown } | null = null;
  const worker = async () => {
    for (;;) {
      const piece = missing.shift();
      if (piece === undefined) return;
      const from = piece * PIECE_BYTES;
      await readRange(remote, from, end(piece), ours, (bytes, at) => {
        place.write(bytes, at);
        hash.offer(bytes, at);
        onBytes(bytes.length);
      });
      place.finish(piece);
      hash.advance(size);
    }
  };
  hash.advance(size);
  const workers = Array.from({ length: Math.min(PARALLEL, missing.length) }, () =>
    worker().catch((error: unknown) => {
      failure ??= { error };
      siblings.abort();
    }),
  );
  await Promise.all(workers);
  net.signal.throwIfAborted();
  if (failure) throw (failure as { error: unknown }).error;
  return size;
}

/** SHA-256 of a file whose pieces come in any order. */
class OrderedHash {
  readonly #place: Place;
  readonly #new: () => WebSha256;
  readonly #signal: AbortSignal;
  #hash: WebSha256 | null;
  /** Bytes hashed so far. */
  #position = 0;
  /** The reading back that is under way. */
  #advancing: Promise<void> | null = null;

  constructor(place: Place, newHash: () => WebSha256, signal: AbortSignal) {
    this.#place = place;
    this.#new = newHash;
    this.#signal = signal;
    this.#hash = newHash();
  }

  /** Takes bytes that just came if it is their turn. */
  offer(bytes: Uint8Array, at: number): void {
    if (at !== this.#position) return;
    this.#hash?.update(bytes);
    this.#position += bytes.length;
  }

  /** Goes on, in the background, through the finished pieces that follow. */
  advance(size: number): void {
    this.#advancing ??= this.#readBack(size, (at) =>
      this.#place.finished.has(Math.floor(at / PIECE_BYTES)),
    )
      // what cannot be read is told by `digest`, which reads it again
      .catch(() => undefined)
      .finally(() => (this.#advancing = null));
  }

  reset(): void {
    this.free();
    this.#hash = this.#new();
    this.#position = 0;
  }

  /** Reads what was not hashed yet; ends this object. */
  async digest(size: number): Promise<string> {
    await this.#advancing;
    await this.#readBack(size, () => true);
    const hash = this.#hash;
    this.#hash = null;
    if (!hash) throw new Error("this hash was ended");
    return hash.digest();
  }

  free(): void {
    this.#hash?.free();
    this.#hash = null;
  }

  async #readBack(size: number, isThere: (at: number) => boolean): Promise<void> {
    let inARow = 0;
    while (this.#hash && this.#position < size && isThere(this.#position)) {
      const at = this.#position;
      const pieceEnd = (Math.floor(at / PIECE_BYTES) + 1) * PIECE_BYTES;
      const length = Math.min(size, pieceEnd, at + HASHED_AT_A_TIME) - at;
      const bytes = new Uint8Array(length);
      const n = this.#place.read(bytes, at);
      if (n === 0) throw new DOMException("a part that was stored is not there", "DataError");
      this.offer(bytes.subarray(0, n), at);
      inARow += n;
      if (inARow >= HASHED_IN_A_ROW) {
        inARow = 0;
        await new Promise((resolve) => setTimeout(resolve));
        this.#signal.throwIfAborted();
      }
    }
  }
}

/** Pieces in memory, for where nothing can be stored. */
export class MemoryPlace implements Place {
  readonly finished = new Set<number>();
  readonly #expected: number | null;
  #pieces: Uint8Array[] = [];
  #size = 0;

  /** `expected` is the size if it is certain; the last piece then takes no more than it needs. */
  constructor(expected: number | null) {
    this.#expected = expected;
  }

  get size(): number {
    return this.#size;
  }

  write(bytes: Uint8Array, at: number): void {
    this.#size = Math.max(this.#size, at + bytes.length);
    for (let done = 0; done < bytes.length; ) {
      const { piece, offset } = this.#locate(at + done);
      const n = Math.min(bytes.length - done, PIECE_BYTES - offset);
      piece.set(bytes.subarray(done, done + n), offset);
      done += n;
    }
  }

  read(into: Uint8Array, at: number): number {
    const length = Math.max(0, Math.min(into.length, this.#size - at));
    for (let done = 0; done < length; ) {
      const { piece, offset } = this.#locate(at + done);
      const n = Math.min(length - done, PIECE_BYTES - offset);
      into.set(piece.subarray(offset, offset + n), done);
      done += n;
    }
    return length;
  }

  finish(piece: number): void {
    this.finished.add(piece);
  }

  reset(): void {
    this.finished.clear();
    this.#pieces = [];
    this.#size = 0;
  }

  #locate(at: number): { piece: Uint8Array; offset: number } {
    const index = Math.floor(at / PIECE_BYTES);
    const from = index * PIECE_BYTES;
    const length = Math.min(PIECE_BYTES, (this.#expected ?? Infinity) - from);
    const piece = (this.#pieces[index] ??= new Uint8Array(length));
    return { piece, offset: at - from };
  }
}
