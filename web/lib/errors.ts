/**
 * The one error type of the library, and how errors cross from the worker to the page. Codes are
 * stable; messages may change. Codes of the Rust crate (src/error.rs) pass through unchanged; the
 * page adds `ErrorCode`s of its own.
 */

/** Codes that come from the page and worker; the others are those of the Rust crate. */
export type ErrorCode =
  | "network"
  | "no_adapter"
  | "read_only"
  | "no_memory"
  | "memory_conflict"
  | "nothing_to_undo"
  | "storage"
  | "storage_outdated"
  | "unsupported"
  | "worker";

/** What every call of this library rejects with, except aborts (those are `DOMException`s). */
export class DeltamemError extends Error {
  override readonly name = "DeltamemError";
  /** Machine-readable and stable. */
  readonly code: string;

  constructor(code: ErrorCode | (string & {}), message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/** An error in the form that `postMessage` carries. */
export interface WireError {
  name: string;
  code: string | null;
  message: string;
}

/** True for the exception of an `AbortSignal`. */
export function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === "AbortError";
}

/** The exception of a call that was given up. */
export function abortError(message: string): DOMException {
  return new DOMException(message, "AbortError");
}

/** An error as data; what is no error becomes one. */
export function errorToWire(error: unknown): WireError {
  if (!(error instanceof Error)) {
    return { name: "DeltamemError", code: "worker", message: String(error) };
  }
  const code = "code" in error && typeof error.code === "string" ? error.code : null;
  return { name: error.name, code, message: error.message };
}

/** The error that `errorToWire` took apart. */
export function errorFromWire(wire: WireError): Error {
  if (wire.name === "AbortError") return abortError(wire.message);
  return new DeltamemError(wire.code ?? "worker", wire.message);
}
