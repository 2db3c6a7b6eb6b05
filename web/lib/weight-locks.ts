/**
 * What tabs agree on about weights: who downloads, who uses, who changes the index, and how far a
 * download is. Owns the names of the locks and of the channel.
 */

const CHANNEL = "deltamem-weights";
/** Between two notices of progress. */
const NOTICE_MS = 100;

/** Held by the one tab that downloads a model. */
export const downloadLock = (url: string) => `deltamem-weights-download:${url}`;
/** Shared by all that have a model's files open. */
export const useLock = (url: string) => `deltamem-weights-use:${url}`;
/** Held while the index and the files that it names are changed. */
export const INDEX_LOCK = "deltamem-weights-index";

export type Release = () => void;

function locks(): LockManager {
  return globalThis.navigator.locks;
}

/** Waits for a lock and keeps it until the returned function is called. */
export function hold(name: string, mode: LockMode, signal: AbortSignal): Promise<Release> {
  return new Promise((resolve, reject) => {
    locks()
      .request(name, { mode, signal }, () => new Promise<void>((release) => resolve(release)))
      .catch(reject);
  });
}

/** As `hold`, but null at once if somebody else has it. */
export function tryHold(name: string, mode: LockMode): Promise<Release | null> {
  return new Promise((resolve, reject) => {
    locks()
      .request(name, { mode, ifAvailable: true }, (lock) => {
        if (lock) return new Promise<void>((release) => resolve(release));
        resolve(null);
        return Promise.resolve();
      })
      .catch(reject);
  });
}

/** Runs a job while nobody else changes the index. */
export async function withIndex<T>(job: () => Promise<T>): Promise<T> {
  const release = await hold(INDEX_LOCK, "exclusive", new AbortController().signal);
  try {
    return await job();
  } finally {
    release();
  }
}

/** True while some tab downloads this model. */
export async function isDownloading(url: string): Promise<boolean> {
  const { held } = await locks().query();
  return held?.some(({ name }) => name === downloadLock(url)) ?? false;
}

interface Notice {
  url: string;
  done: number;
  total: number;
}

/** Tells the tabs that wait how far a download is. */
export class ProgressTeller {
  readonly #channel = new BroadcastChannel(CHANNEL);
  readonly #url: string;
  #lastMs = 0;

  constructor(url: string) {
    this.#url = url;
  }

  tell(done: number, total: number): void {
    const now = Date.now();
    if (now - this.#lastMs < NOTICE_MS) return;
    this.#lastMs = now;
    this.#channel.postMessage({ url: this.#url, done, total } satisfies Notice);
  }

  close(): void {
    this.#channel.close();
  }
}

/** Hears how far another tab's download is; returns how to stop. */
export function hearProgress(
  url: string,
  onProgress: (done: number, total: number) => void,
): () => void {
  const channel = new BroadcastChannel(CHANNEL);
  channel.addEventListener("message", ({ data }: MessageEvent<Notice>) => {
    if (data.url === url) onProgress(data.done, data.total);
  });
  return () => channel.close();
}
