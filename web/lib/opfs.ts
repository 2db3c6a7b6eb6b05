/**
 * The origin private file system, as far as weights need it: folders, small texts that are replaced
 * as a whole, files that are written in place, files that are only read. Owns what differs between
 * browsers, and between worker and page.
 */
import type { ByteFile } from "./wasm.js";

/** What a worker has and the types of a page do not know. */
export interface SyncAccessHandle {
  read(into: Uint8Array, options: { at: number }): number;
  write(bytes: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

interface WorkerFileHandle extends FileSystemFileHandle {
  createSyncAccessHandle(options?: { mode: "readwrite" | "read-only" }): Promise<SyncAccessHandle>;
  /** Chromium, Firefox and Safari have it; no standard does. */
  move?(folder: FileSystemDirectoryHandle, name: string): Promise<void>;
}

type Folder = FileSystemDirectoryHandle;

declare const FileReaderSync: { new (): { readAsArrayBuffer(blob: Blob): ArrayBuffer } } | undefined;

const COPIED_AT_A_TIME = 4 << 20;

/** True where files can be written in place: in workers. */
export function canWriteInPlace(): boolean {
  const handle = globalThis.FileSystemFileHandle as { prototype: object } | undefined;
  return handle !== undefined && "createSyncAccessHandle" in handle.prototype;
}

/** The names of the files in a folder. */
export async function names(folder: Folder): Promise<string[]> {
  const found: string[] = [];
  for await (const name of (folder as unknown as { keys(): AsyncIterable<string> }).keys()) {
    found.push(name);
  }
  return found.sort();
}

/** A file as it is now; null if there is none. */
export async function fileAt(folder: Folder, name: string): Promise<File | null> {
  try {
    return await (await folder.getFileHandle(name)).getFile();
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** A small text as it is now, also while somebody else goes on writing it; null if there is none. */
export async function textAt(folder: Folder, name: string): Promise<string | null> {
  for (let tries = 1; ; tries += 1) {
    try {
      return (await (await fileAt(folder, name))?.text()) ?? null;
    } catch (error) {
      // It was written between the two: a File is what it was at one moment, or unreadable, or not to be
      // found while the new text takes its place. Where it is gone for good, the next try says so.
      if (!(isChanged(error) || isMissing(error)) || tries === 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

/** Deletes a file; false if somebody uses it. */
export async function remove(folder: Folder, name: string): Promise<boolean> {
  try {
    await folder.removeEntry(name);
  } catch (error) {
    if (isTaken(error)) return false;
    if (!isMissing(error)) throw error;
  }
  return true;
}

/** Replaces a small text; after a crash there is the old one or the new one. */
export async function writeText(folder: Folder, name: string, text: string): Promise<void> {
  const handle = await folder.getFileHandle(name, { create: true });
  // The stream writes beside the file and takes its place when it is closed.
  const stream = await handle.createWritable();
  await stream.write(text);
  await stream.close();
}

/** Opens a file for writing in place; nobody else can meanwhile. */
export async function openForWriting(folder: Folder, name: string): Promise<SyncAccessHandle> {
  const handle = (await folder.getFileHandle(name, { create: true })) as WorkerFileHandle;
  for (let tries = 1; ; tries += 1) {
    try {
      return await handle.createSyncAccessHandle();
    } catch (error) {
      // A tab that was just ended lets go of its files a moment after its locks.
      if (!isTaken(error) || tries === 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** Gives a file that nobody uses another place; one that is there already is replaced. */
export async function move(from: Folder, name: string, to: Folder, newName: string): Promise<void> {
  const handle = (await from.getFileHandle(name)) as WorkerFileHandle;
  if (handle.move) return handle.move(to, newName);
  const file = await handle.getFile();
  const copy = await openForWriting(to, newName);
  try {
    for (let at = 0; at < file.size; at += COPIED_AT_A_TIME) {
      const piece = await file.slice(at, at + COPIED_AT_A_TIME).arrayBuffer();
      writeAll(copy, new Uint8Array(piece), at);
    }
    copy.flush();
  } finally {
    copy.close();
  }
  await remove(from, name);
}

/** Writes all of `bytes`; a full disk is an error, not a short write. */
export function writeAll(handle: SyncAccessHandle, bytes: Uint8Array, at: number): void {
  if (handle.write(bytes, { at }) !== bytes.length) {
    throw new DOMException("the disk took only a part", "QuotaExceededError");
  }
}

/** A file to read from, and how to let go of it. */
export interface OpenFile extends ByteFile {
  close(): void;
}

/**
 * Opens a file for reading. Several tabs can where the browser knows read-only handles; elsewhere
 * those who come later read it as a Blob. On a page its bytes are read at once.
 */
export async function openForReading(folder: Folder, name: string): Promise<OpenFile> {
  const handle = (await folder.getFileHandle(name)) as WorkerFileHandle;
  if (canWriteInPlace()) {
    try {
      const access = await handle.createSyncAccessHandle({ mode: "read-only" });
      return {
        size: access.getSize(),
        read: (into, at) => access.read(into, { at }),
        close: () => access.close(),
      };
    } catch (error) {
      if (!isTaken(error) || typeof FileReaderSync === "undefined") throw error;
    }
  }
  const file = await handle.getFile();
  if (typeof FileReaderSync !== "undefined") {
    const reader = new FileReaderSync();
    return {
      size: file.size,
      read(into, at) {
        const bytes = reader.readAsArrayBuffer(file.slice(at, at + into.length));
        into.set(new Uint8Array(bytes));
        return bytes.byteLength;
      },
      close: () => undefined,
    };
  }
  return { ...bytesFile(new Uint8Array(await file.arrayBuffer())), close: () => undefined };
}

/** Bytes in memory as a file. */
export function bytesFile(bytes: Uint8Array): ByteFile {
  return {
    size: bytes.length,
    read(into, at) {
      const piece = bytes.subarray(at, at + into.length);
      into.set(piece);
      return piece.length;
    },
  };
}

/** All bytes of a file. */
export function readAll(file: ByteFile): Uint8Array {
  const bytes = new Uint8Array(file.size);
  let at = 0;
  while (at < bytes.length) {
    const n = file.read(bytes.subarray(at), at);
    if (n === 0) throw new DOMException("a stored file is shorter than it was", "DataError");
    at += n;
  }
  return bytes;
}

function isTaken(error: unknown): boolean {
  return error instanceof Error && error.name === "NoModificationAllowedError";
}

function isChanged(error: unknown): boolean {
  return error instanceof Error && error.name === "NotReadableError";
}

export function isMissing(error: unknown): boolean {
  return error instanceof Error && error.name === "NotFoundError";
}

export function isQuota(error: unknown): boolean {
  return error instanceof Error && error.name === "QuotaExceededError";
}
