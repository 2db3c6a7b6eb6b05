/**
 * A file in the making, which an interruption leaves as it is: the bytes, and a journal of the pieces
 * that are there for good. A piece is entered after its bytes are on the disk, so a crash loses pieces
 * but never invents one; a line that was cut off counts for nothing.
 */
import { PIECE_BYTES, type Place } from "./download.js";
import type { Remote } from "./http.js";
import { type SyncAccessHandle, fileAt, openForWriting, remove, textAt, writeAll } from "./opfs.js";

const dataName = (id: string) => `${id}.data`;
const journalName = (id: string) => `${id}.journal`;

/** The name of a part's bytes, for moving them to where they stay. */
export { dataName as partDataName };

/** Ids of the parts that these files belong to. */
export function partIds(names: string[]): Set<string> {
  return new Set(names.map((name) => name.replace(/\.(data|journal)$/, "")));
}

/** Bytes that an interrupted download has for good; its file has the final size from the start. */
export async function partBytes(folder: FileSystemDirectoryHandle, id: string): Promise<number> {
  const journal = await textAt(folder, journalName(id));
  const nPieces = (journal?.split("\n").length ?? 0) - 2;
  const size = (await fileAt(folder, dataName(id)))?.size ?? 0;
  return Math.max(0, Math.min(size, nPieces * PIECE_BYTES));
}

export async function removePart(folder: FileSystemDirectoryHandle, id: string): Promise<void> {
  // the journal first: bytes without one are nothing, the reverse would need a check
  await remove(folder, journalName(id));
  await remove(folder, dataName(id));
}

export class Part implements Place {
  readonly finished = new Set<number>();
  readonly #data: SyncAccessHandle;
  readonly #journal: SyncAccessHandle;
  readonly #header: string;
  readonly #size: number | null;
  #journalEnd = 0;

  private constructor(data: SyncAccessHandle, journal: SyncAccessHandle, remote: Remote) {
    const { url, size, etag, lastModified } = remote;
    this.#data = data;
    this.#journal = journal;
    this.#header = JSON.stringify({ url, size, etag, lastModified, pieceBytes: PIECE_BYTES });
    this.#size = remote.hasRanges ? size : null;
  }

  /** Goes on with what is there if it is of the very same file, else begins anew. */
  static async open(
    folder: FileSystemDirectoryHandle,
    id: string,
    remote: Remote,
    isPinned: boolean,
  ): Promise<Part> {
    const data = await openForWriting(folder, dataName(id));
    try {
      const part = new Part(data, await openForWriting(folder, journalName(id)), remote);
      const isKnown = isPinned || remote.etag !== null || remote.lastModified !== null;
      try {
        if (!remote.hasRanges || !isKnown || !part.#resume()) part.reset();
      } catch (error) {
        part.close();
        throw error;
      }
      return part;
    } catch (error) {
      data.close();
      throw error;
    }
  }

  get size(): number {
    return this.#data.getSize();
  }

  read(into: Uint8Array, at: number): number {
    return this.#data.read(into, { at });
  }

  write(bytes: Uint8Array, at: number): void {
    writeAll(this.#data, bytes, at);
  }

  finish(piece: number): void {
    this.#data.flush();
    this.#append(`${piece}\n`);
    this.finished.add(piece);
  }

  reset(): void {
    this.finished.clear();
    this.#journal.truncate(0);
    this.#journalEnd = 0;
    this.#journal.flush();
    this.#data.truncate(0);
    if (this.#size !== null) {
      // The whole size at once: what does not fit is told now and not after an hour.
      this.#data.truncate(this.#size);
      this.#append(`${this.#header}\n`);
    }
  }

  flush(): void {
    this.#data.flush();
  }

  close(): void {
    this.#data.close();
    this.#journal.close();
  }

  /** False if what is there is of no use. */
  #resume(): boolean {
    const bytes = new Uint8Array(this.#journal.getSize());
    this.#journal.read(bytes, { at: 0 });
    const lines = new TextDecoder().decode(bytes).split("\n");
    if (lines[0] !== this.#header || this.#data.getSize() !== this.#size) return false;
    const nPieces = Math.ceil(this.#size / PIECE_BYTES);
    // what follows the last line end was cut off
    for (const line of lines.slice(1, -1)) {
      const piece = Number(line);
      if (!/^\d+$/.test(line) || piece >= nPieces) return false;
      this.finished.add(piece);
    }
    const end = bytes.lastIndexOf(10) + 1;
    this.#journal.truncate(end);
    this.#journalEnd = end;
    return lines.length > 1;
  }

  #append(line: string): void {
    const bytes = new TextEncoder().encode(line);
    writeAll(this.#journal, bytes, this.#journalEnd);
    this.#journal.flush();
    this.#journalEnd += bytes.length;
  }
}
