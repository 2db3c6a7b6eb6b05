/**
 * The one error type of the library, and how errors cross from the worker to the page. Codes are
 * stable; messages may change. Codes of the Rust crate (src/error.rs) pass through unchanged; the
 * page adds `ErrorCode`s of its own.
 */
import type { WireError } from "./protocol.js";

/** Codes that come from the page and worker; the others are those of the Rust crate. */
export type ErrorCode =
  | "busy"
  | "device_lost"
  | "does_not_fit"
  | "integrity"
  | "memory_conflict"
  | "messages"
  | "network"
  | "no_adapter"
  | "no_memory"
  | "no_snapshot"
  | "nothing_to_undo"
  | "passphrase"
  | "profile_exists"
  | "quota"
  | "read_only"
  | "storage"
  | "storage_outdated"
  | "unsupported"
  | "worker";

/** What an error can say beside its message. */
export interface ErrorDetails {
  cause?: unknown;
  /** Bytes that were asked for; of `quota`. */
  requested?: number | null;
  /** Bytes that there are; of `quota`. */
  quota?: number | null;
}

/** What every call of this library rejects with, except aborts (those are `DOMException`s). */
export class DeltamemError extends Error {
  override readonly name = "DeltamemError";
  /** Machine-readable and stable. */
  readonly code: string;
  /** Bytes that were asked for; only of `quota`, and null if not known. */
  readonly requested: number | null;
  /** Bytes that there are; only of `quota`, and null if not known. */
  readonly quota: number | null;

  constructor(code: ErrorCode | (string & {}), message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.requested = details.requested ?? null;
    this.quota = details.quota ?? null;
  }
}

/** True for the exception of an `AbortSignal`. */
export function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === "AbortError";
}

/** The exception of a call that was given up. */
export function abortError(message: string): DOMException {
  return new DOMException(message, "AbortError");
}

/** The stable code of an error, from here or from the wasm module; null if it has none. */
export function codeOf(error: unknown): string | null {
  if (!(error instanceof Error) || !("code" in error)) return null;
  return typeof error.code === "string" ? error.code : null;
}

/** What an error says, whatever was thrown. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** An error as data; what is no error becomes one. */
export function errorToWire(error: unknown): WireError {
  const isError = error instanceof Error;
  return {
    name: isError ? error.name : "DeltamemError",
    code: isError ? codeOf(error) : "worker",
    message: reasonOf(error),
    requested: error instanceof DeltamemError ? error.requested : null,
    quota: error instanceof DeltamemError ? error.quota : null,
  };
}

/** The error that `errorToWire` took apart. */
export function errorFromWire(wire: WireError): Error {
  if (wire.name === "AbortError") return abortError(wire.message);
  const { requested, quota } = wire;
  return new DeltamemError(wire.code ?? "worker", wire.message, { requested, quota });
}
