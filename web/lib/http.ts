/**
 * Requests that survive a bad network: retries with growing pauses, `Retry-After`, requests that
 * stall, and errors that name URL and status. Knows nothing of where the bytes go.
 */
import { DeltamemError } from "./errors.js";

/** A server that cannot be reached or does not deliver. */
export class NetworkError extends DeltamemError {
  readonly url: string;
  /** HTTP status; null if there was no answer. */
  readonly status: number | null;

  constructor(url: string, status: number | null, reason: string, options?: { cause?: unknown }) {
    super("network", `${url} ${reason}.`, options);
    this.url = url;
    this.status = status;
  }
}

/** The file on the server is not the one that a download began with. */
export class ChangedError extends NetworkError {}

/** What a request needs beside its URL. */
export interface Net {
  signal: AbortSignal;
  /** The first pause before a retry; each further one is twice as long. */
  backoffMs: number;
}

/** A file as the server describes it. */
export interface Remote {
  url: string;
  /** Bytes; null if the server does not say. */
  size: number | null;
  etag: string | null;
  lastModified: string | null;
  /** True if any part can be asked for. */
  hasRanges: boolean;
  /** SHA-256 that the server promises, 64 hex digits. */
  digest: string | null;
}

/** Pauses between the attempts at a piece; a server may ask for longer ones. */
const DEFAULT_BACKOFF_MS = 500;
const MAX_PAUSE_MS = 60_000;
/** Attempts without a single new byte, after which a transfer is given up. */
const ATTEMPTS = 6;
/** The same for the first question, so that a wrong address is told soon. */
const FIRST_ATTEMPTS = 3;
/** No byte for so long is a broken connection. */
const STALL_MS = 60_000;
const RETRIED_STATUSES = [408, 425, 429, 500, 502, 503, 504];

export function net(signal: AbortSignal, backoffMs = DEFAULT_BACKOFF_MS): Net {
  return { signal, backoffMs };
}

/** A failure that may pass; `pauseMs` is what the server asked for. */
class Passing extends Error {
  readonly reported: NetworkError;
  readonly pauseMs: number;

  constructor(reported: NetworkError, pauseMs = 0) {
    super(reported.message);
    this.reported = reported;
    this.pauseMs = pauseMs;
  }
}

/**
 * What the server says about a file, from a request for its first byte; null if it is not there.
 * A server that does not do ranges answers with all of it, which is not read.
 */
export async function probe(url: string, net: Net): Promise<Remote | null> {
  return retrying(net, FIRST_ATTEMPTS, async () => {
    const stall = stallSignal(net.signal);
    try {
      return await describe(url, stall.signal);
    } finally {
      stall.end();
    }
  });
}

/** The same question, asked once and for a short time; null if no useful answer comes. */
export async function look(
  url: string,
  patienceMs: number,
  signal: AbortSignal,
): Promise<Remote | null> {
  try {
    const patience = AbortSignal.any([signal, AbortSignal.timeout(patienceMs)]);
    return await describe(url, patience);
  } catch {
    signal.throwIfAborted();
    return null;
  }
}

/**
 * Reads bytes `from` to `to` of a file in order. A broken connection goes on where it broke; throws
 * `ChangedError` if the server has another file by now.
 */
export async function readRange(
  remote: Remote,
  from: number,
  to: number,
  net: Net,
  onChunk: (bytes: Uint8Array, at: number) => void,
): Promise<void> {
  const { url } = remote;
  let at = from;
  await retrying(net, ATTEMPTS, async (progressed) => {
    const stall = stallSignal(net.signal);
    try {
      const headers: Record<string, string> = { Range: `bytes=${at}-${to - 1}` };
      // Across origins this header would need a permission that hosts do not give; the comparison
      // of what came back does the same.
      if (remote.etag && !remote.etag.startsWith("W/") && isSameOrigin(url)) {
        headers["If-Range"] = remote.etag;
      }
      const response = await ask(url, headers, stall.signal);
      if (response.status === 200 || response.status === 416) {
        await discard(response);
        throw new ChangedError(url, response.status, "changed while it was downloaded");
      }
      await requireOkOrDiscard(url, response);
      if (!isPartOf(remote, response, at, to)) {
        await discard(response);
        throw new ChangedError(url, response.status, "changed while it was downloaded");
      }
      await drain(url, response, stall, (bytes) => {
        if (at + bytes.length > to) {
          throw new NetworkError(url, response.status, "sent more bytes than were asked for");
        }
        onChunk(bytes, at);
        at += bytes.length;
        progressed();
      });
      if (at < to) throw broken(url, at, to);
    } finally {
      stall.end();
    }
  });
}

/**
 * Reads a whole file in one go; a broken connection begins again, which `onStart` is told. Returns
 * the number of bytes.
 */
export async function readWhole(
  remote: Remote,
  net: Net,
  onStart: () => void,
  onChunk: (bytes: Uint8Array, at: number) => void,
): Promise<number> {
  return retrying(net, ATTEMPTS, async () => {
    const stall = stallSignal(net.signal);
    try {
      const response = await ask(remote.url, {}, stall.signal);
      await requireOkOrDiscard(remote.url, response);
      onStart();
      let at = 0;
      await drain(remote.url, response, stall, (bytes) => {
        onChunk(bytes, at);
        at += bytes.length;
      });
      const expected = wholeLength(response);
      if (expected !== null && at !== expected) throw broken(remote.url, at, expected);
      return at;
    } finally {
      stall.end();
    }
  });
}

/** Waits; throws the signal's reason if it is aborted before. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const end = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", end);
      resolve();
    }, ms);
    signal.addEventListener("abort", end, { once: true });
  });
}

async function describe(url: string, signal: AbortSignal): Promise<Remote | null> {
  const response = await ask(url, { Range: "bytes=0-0" }, signal);
  await discard(response);
  const { status, headers } = response;
  if (status === 404 || status === 410) return null;
  if (status !== 416) requireOk(url, response);
  const range = contentRange(headers);
  let size = status === 200 ? wholeLength(response) : (range?.total ?? null);
  // Hosts that do not show this header to other origins still show a length.
  if (status === 206 && range === null) size = await lengthByHead(url, signal);
  return {
    url,
    size,
    etag: headers.get("etag"),
    lastModified: headers.get("last-modified"),
    hasRanges: status === 206 && size !== null,
    digest: promisedDigest(response),
  };
}

async function lengthByHead(url: string, signal: AbortSignal): Promise<number | null> {
  const response = await ask(url, {}, signal, "HEAD");
  return response.ok ? wholeLength(response) : null;
}

/** True if this is the part that was asked for, of the file that the download began with. */
function isPartOf(remote: Remote, response: Response, from: number, to: number): boolean {
  const { headers } = response;
  const range = contentRange(headers);
  const isWhereAsked = range
    ? range.from === from && range.total === remote.size
    : wholeLength(response) === to - from;
  const [etag, lastModified] = [headers.get("etag"), headers.get("last-modified")];
  if (etag !== null && remote.etag !== null) return isWhereAsked && etag === remote.etag;
  const isSameDate = !lastModified || !remote.lastModified || lastModified === remote.lastModified;
  return isWhereAsked && isSameDate;
}

/** Reads a small text. */
export async function readText(remote: Remote, net: Net): Promise<string> {
  let parts: Uint8Array[] = [];
  await readWhole(
    remote,
    net,
    () => (parts = []),
    (bytes) => parts.push(bytes.slice()),
  );
  return new Blob(parts as BlobPart[]).text();
}

/** Runs `attempt` until it works, counting anew whenever it has `progressed`. */
async function retrying<T>(
  net: Net,
  attempts: number,
  attempt: (progressed: () => void) => Promise<T>,
): Promise<T> {
  for (let failures = 0; ; ) {
    try {
      return await attempt(() => (failures = 0));
    } catch (error) {
      net.signal.throwIfAborted();
      if (!(error instanceof Passing)) throw error;
      failures += 1;
      if (failures >= attempts) throw error.reported;
      const backoff = net.backoffMs * 2 ** (failures - 1) * (0.75 + Math.random() / 2);
      await pause(Math.min(Math.max(backoff, error.pauseMs), MAX_PAUSE_MS), net.signal);
    }
  }
}

async function ask(
  url: string,
  headers: Record<string, string>,
  signal: AbortSignal,
  method = "GET",
): Promise<Response> {
  try {
    // The browser's own cache would hold every byte a second time.
    return await fetch(url, { method, headers, signal, cache: "no-store" });
  } catch (cause) {
    throw new Passing(new NetworkError(url, null, `cannot be reached: ${String(cause)}`, { cause }));
  }
}

/** Throws for everything but success; a failure that may pass as such. */
function requireOk(url: string, response: Response): void {
  const { ok, status, statusText, headers } = response;
  if (ok) return;
  const error = new NetworkError(url, status, `answered ${status} ${statusText}`.trim());
  if (!RETRIED_STATUSES.includes(status)) throw error;
  throw new Passing(error, retryAfterMs(headers.get("retry-after")));
}

async function requireOkOrDiscard(url: string, response: Response): Promise<void> {
  if (!response.ok) await discard(response);
  requireOk(url, response);
}

async function discard(response: Response): Promise<void> {
  // A body that breaks off while it is thrown away is no loss.
  await response.body?.cancel().catch(() => undefined);
}

async function drain(
  url: string,
  response: Response,
  stall: Stall,
  onBytes: (bytes: Uint8Array) => void,
): Promise<void> {
  const reader = response.body?.getReader();
  if (!reader) return onBytes(new Uint8Array(await response.arrayBuffer()));
  let isComplete = false;
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((cause: unknown) => {
        throw new Passing(new NetworkError(url, response.status, "broke off", { cause }));
      });
      isComplete = done;
      if (done) return;
      stall.moved();
      onBytes(value);
    }
  } finally {
    // not awaited: a stalled connection would not answer
    if (!isComplete) void reader.cancel().catch(() => undefined);
  }
}

function broken(url: string, at: number, expected: number): Passing {
  return new Passing(new NetworkError(url, null, `broke off after ${at} of ${expected} bytes`));
}

interface Stall {
  signal: AbortSignal;
  moved(): void;
  end(): void;
}

/** A signal that also ends when nothing has `moved` for too long. */
function stallSignal(outer: AbortSignal): Stall {
  const controller = new AbortController();
  const stalled = () => controller.abort(new DOMException("no data came", "TimeoutError"));
  let timer = setTimeout(stalled, STALL_MS);
  return {
    signal: AbortSignal.any([outer, controller.signal]),
    moved() {
      clearTimeout(timer);
      timer = setTimeout(stalled, STALL_MS);
    },
    end: () => clearTimeout(timer),
  };
}

/** Of `Content-Range`, where a star stands for what is not known; null if absent or hidden. */
function contentRange(headers: Headers): { from: number | null; total: number | null } | null {
  const match = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(headers.get("content-range") ?? "");
  if (!match) return null;
  const [, from, total] = match;
  return {
    from: from === undefined ? null : Number(from),
    total: total === undefined || total === "*" ? null : Number(total),
  };
}

/** Bytes of the body; with a content encoding the length is that of the compressed ones, so null. */
function wholeLength({ headers }: Response): number | null {
  const length = headers.get("content-length");
  if (length === null || headers.has("content-encoding")) return null;
  return /^\d+$/.test(length) ? Number(length) : null;
}

/**
 * The hub names a large file's hash in `x-linked-etag`, or as ETag. Behind a redirect the ETag is
 * that of another server, which may count something else.
 */
function promisedDigest(response: Response): string | null {
  const linked = response.headers.get("x-linked-etag");
  const own = response.redirected ? null : response.headers.get("etag");
  for (const tag of [linked, own]) {
    const match = /^"?([0-9a-f]{64})"?$/i.exec(tag ?? "");
    if (match?.[1]) return match[1].toLowerCase();
  }
  return null;
}

/** Seconds or a date. */
function retryAfterMs(value: string | null): number {
  if (value === null) return 0;
  if (/^\d+$/.test(value)) return 1000 * Number(value);
  const date = Date.parse(value);
  return Number.isNaN(date) ? 0 : Math.max(0, date - Date.now());
}

function isSameOrigin(url: string): boolean {
  return globalThis.location !== undefined && new URL(url).origin === globalThis.location.origin;
}
