/**
 * One writer per profile. The first tab holds a Web Lock and writes; the others read, hear of every
 * commit through a BroadcastChannel, and the next in line takes over when the writer closes.
 */

/** What a writer tells the other tabs. */
export type ProfileNotice =
  | { kind: "committed"; identity: string }
  | { kind: "forgotten" }
  /** The profile's passphrase was set, changed or removed. */
  | { kind: "rekeyed" };

/** How long a tab waits before it calls itself read-only: a page that reloads releases its lock late. */
const PATIENCE_MS = 600;

export interface LockOptions {
  locks?: LockManager | undefined;
  patienceMs?: number;
  /** Called once if the lock comes after `acquire` has returned without it. */
  onTakeOver(): void;
}

/** A place in the line of tabs that want to write to a profile. */
export class ProfileLock {
  #isHeld = false;
  readonly #leave = new AbortController();
  #release: () => void = () => undefined;

  private constructor() {}

  /** Waits for the lock a moment; without it the caller is read-only until `onTakeOver`. */
  static async acquire(profile: string, options: LockOptions): Promise<ProfileLock> {
    const lock = new ProfileLock();
    const locks = options.locks ?? globalThis.navigator?.locks;
    if (!locks) return lock; // no way to know of other writers: stay read-only
    let isLate = false;
    const held = new Promise<void>((resolve) => {
      locks
        .request(`deltamem:${profile}`, { signal: lock.#leave.signal }, () => {
          lock.#isHeld = true;
          resolve();
          if (isLate) options.onTakeOver();
          return new Promise<void>((release) => (lock.#release = release));
        })
        .catch(() => resolve()); // left the line, or locks are refused: read-only
    });
    const patience = new Promise<void>((resolve) =>
      setTimeout(resolve, options.patienceMs ?? PATIENCE_MS),
    );
    await Promise.race([held, patience]);
    isLate = !lock.#isHeld;
    return lock;
  }

  get isHeld(): boolean {
    return this.#isHeld;
  }

  /** Gives the lock back, or leaves the line. */
  release(): void {
    this.#isHeld = false;
    this.#leave.abort();
    this.#release();
  }
}

/** Notices between the tabs of a profile; a tab does not hear its own. */
export class ProfileChannel {
  readonly #channel: BroadcastChannel;

  constructor(profile: string, onNotice: (notice: ProfileNotice) => void) {
    this.#channel = new BroadcastChannel(`deltamem:${profile}`);
    this.#channel.onmessage = ({ data }: MessageEvent<ProfileNotice>) => onNotice(data);
  }

  post(notice: ProfileNotice): void {
    this.#channel.postMessage(notice);
  }

  close(): void {
    this.#channel.close();
  }
}
